"""Answers about a stage before it trains: parameters by group and phase, the learning-rate curve, memory. No weights are made."""

from typing import Any

import torch
from torch import nn

from osplan.domain.global_batch import shards
from osplan.domain.schedule import Schedule
from osplan.domain.stage import Stage
from osplan.models.registry import build_model
from osplan.train.adapters import planned_adapters
from osplan.train.architecture import config_beside, latent_shape, transformer_config, vae_config
from osplan.train.parameters import PARTS, groups_of, phases_of, select, selectable

CURVE_POINTS = 60
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def model_of(stage: Stage, weights: str | None = None) -> nn.Module:
    """The trained network on the meta device. The config.json beside starting weights decides an autoencoder's architecture."""
    with torch.device("meta"):
        return build_model((config_beside(weights) or vae_config(stage)) if stage.kind == "vae" else transformer_config(stage))


def parameters(stage: Stage, weights: str | None = None) -> dict[str, Any]:
    """Parameters in all, and per phase: what trains, its share, the learning rate of each group, optimiser memory in bytes."""
    model = model_of(stage, weights)
    base = {name: parameter.numel() for name, parameter in model.named_parameters()}
    adapters = planned_adapters(model, stage.lora) if stage.lora.rank is not None else {}
    sizes = base | {name: rows * columns for name, (rows, columns) in adapters.items()}
    total = sum(sizes.values())
    phases = []
    for phase in phases_of(stage.trainable, [(entry.at, entry.trainable, entry.rewarm_steps) for entry in stage.phases], stage.steps):
        names = select(selectable(list(sizes)), phase.selectors)
        if stage.kind == "vae" and stage.vae.freeze_encoder:
            names = [name for name in names if not name.startswith(("encoder.", "quant_conv."))]
        trainable = sum(sizes[name] for name in names)
        groups = groups_of(list(sizes), names, stage.layer_decay, dict(stage.learning_rate_ratios))
        phases.append(
            {
                "start": phase.start,
                "waitsForPlateau": phase.waits_for_plateau,
                "selectors": list(phase.selectors),
                "trainable": trainable,
                "share": trainable / total,
                "optimizerBytes": 8 * trainable,
                "groups": [
                    {
                        "name": group.name,
                        "parameters": sum(sizes[name] for name in group.names),
                        "learningRate": stage.learning_rate * group.ratio,
                    }
                    for group in groups
                ],
            }
        )
    return {
        "total": total,
        "tensors": len(sizes),
        "adapters": sum(sizes[name] for name in adapters),
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
        "phases": phases,
    }


def ever_trainable(stage: Stage) -> list[str]:
    """Names of the parameters that train in any phase of the stage; those that adapters change, where it has some."""
    model = model_of(stage)
    adapters = planned_adapters(model, stage.lora) if stage.lora.rank is not None else {}
    names = list(adapters) or [name for name, _ in model.named_parameters()]
    phases = phases_of(stage.trainable, [(entry.at, entry.trainable, entry.rewarm_steps) for entry in stage.phases], stage.steps)
    chosen = {name for phase in phases for name in select(names, phase.selectors)}
    if stage.kind == "vae" and stage.vae.freeze_encoder:
        chosen = {name for name in chosen if not name.startswith(("encoder.", "quant_conv."))}
    if adapters:
        chosen = {f"{PARTS['lora'].split(name)[0]}.weight" for name in chosen}
        names = [name for name, _ in model.named_parameters()]
    return [name for name in names if name in chosen]


def learning_rate_curve(stage: Stage) -> list[dict[str, float]]:
    """The learning rate at some sixty steps of the stage, the first and last among them."""
    settings = stage.schedule
    course = Schedule(
        name=settings.name, warmup_steps=settings.warmup_steps, horizon_steps=settings.horizon_steps or stage.steps,
        cycles=settings.cycles, power=settings.power, decay_share=settings.decay_share, floor_ratio=settings.floor_ratio,
    )  # fmt: skip
    count = min(CURVE_POINTS, stage.steps)
    steps = sorted({1 + round(at * (stage.steps - 1) / max(1, count - 1)) for at in range(count)})
    return [{"step": step, "learningRate": stage.learning_rate * course.factor(step)} for step in steps]


def memory(stage: Stage) -> dict[str, Any]:
    """Bytes a rank needs, by part. Activations are an estimate: ±50 % until it is calibrated on the machine."""
    found = parameters(stage)
    total, adapters = found["total"], found["adapters"]
    trainable = max(phase["trainable"] for phase in found["phases"])
    ranks = shards(stage)
    parts = {
        "weights": 4 * total // ranks,
        "gradients": 4 * trainable // ranks,
        "optimizer": 8 * trainable // ranks,
        "ema": 4 * (adapters or total) // ranks if stage.ema.enabled else 0,
        "activations": _activation_bytes(stage),
    }
    return {"parts": parts, "total": sum(parts.values()), "error": 0.5}


def _activation_bytes(stage: Stage) -> int:
    width = BYTES[stage.memory.precision]
    if stage.kind == "vae":
        side = stage.data.crop_size
        height, wide = (side, side) if side else (stage.shape.height, stage.shape.width)
        cells = stage.batch.per_device * stage.shape.frames * height * wide
        return int(cells * stage.vae.base_channels * 10 * width)
    frames, height, wide = latent_shape(stage)
    tokens = stage.batch.per_device * frames * height * wide // (stage.model.patch[1] * stage.model.patch[2])
    kept = {"none": 34, "selective": 14, "all": 2}[stage.memory.checkpointing]
    return int(tokens * stage.model.layers * stage.model.heads * stage.model.head_dim * kept * width)
