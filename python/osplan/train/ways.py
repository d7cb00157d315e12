"""Changes of a stage's settings that need less memory, and what each costs."""

from dataclasses import dataclass, replace
from typing import Any

from osplan.domain.stage import Stage
from osplan.train.machine import Machine
from osplan.train.traced import Shape, TracedStep, traced_step


@dataclass(frozen=True)
class Way:
    """A change of settings that needs less memory."""

    settings: dict[str, Any]
    bytes: int
    """At the worst moment of a step, on a CPU with the copies of a checkpoint that is written meanwhile."""
    slowdown: float
    """Estimated seconds per step over those without it."""
    changes_training: bool
    """Whether the stage learns something else by it."""


def ways_to_fit(stage: Stage, shape: Shape, machine: Machine, weights: str | None = None, *, on_cpu: bool = True) -> list[Way]:
    """Changes of settings that need less memory, the cheapest first: those that only cost time, then those that change what is learnt."""

    def needed(traced: TracedStep) -> int:
        return traced.bytes + (traced.checkpoint_bytes if on_cpu else 0)

    now = traced_step(stage, shape, weights)
    before = sum(machine.step_seconds(now, stage.batch.accumulate).values())
    found = []
    for settings, changed, less, changes_training in _candidates(stage, shape):
        traced = traced_step(changed, less, weights)
        took = sum(machine.step_seconds(traced, changed.batch.accumulate).values())
        if needed(traced) < 0.97 * needed(now):
            found.append(Way(settings, needed(traced), took / before, changes_training))
    return sorted(found, key=lambda way: (way.changes_training, way.slowdown))


def _candidates(stage: Stage, shape: Shape) -> list[tuple[dict[str, Any], Stage, Shape, bool]]:
    memory, batch = stage.memory, stage.batch
    found: list[tuple[dict[str, Any], Stage, Shape, bool]] = []

    def less(settings: dict[str, Any], changed: Stage, clips: int = shape.clips, *, changes_training: bool = False) -> None:
        found.append((settings, changed, replace(shape, clips=clips), changes_training))

    if stage.kind != "vae":
        for level in ("selective", "all"):
            if memory.checkpointing == "none" or (memory.checkpointing == "selective" and level == "all"):
                less({"memory.checkpointing": level}, replace(stage, memory=replace(memory, checkpointing=level)))
        if not memory.vae_tiling and stage.data.cache == "off":
            less({"memory.vaeTiling": True}, replace(stage, memory=replace(memory, vae_tiling=True)))
    if batch.per_device % 2 == 0:
        half = replace(batch, per_device=batch.per_device // 2, accumulate=2 * batch.accumulate)
        settings = {"batch.perDevice": half.per_device, "batch.accumulate": half.accumulate}
        less(settings, replace(stage, batch=half), half.per_device)
    if memory.precision == "fp32":
        less({"memory.precision": "bf16"}, replace(stage, memory=replace(memory, precision="bf16")))
    if stage.kind != "vae" and stage.lora.rank is None:
        if stage.model.class_ != "SparseUMMDiT" and stage.model.layers > 1 and not stage.phases:
            frozen = (*stage.trainable, f"-blocks[0:{stage.model.layers // 2}]")
            less({"trainable": list(frozen)}, replace(stage, trainable=frozen), changes_training=True)
        less({"lora.rank": 16}, replace(stage, lora=replace(stage.lora, rank=16), trainable=("all",), phases=()), changes_training=True)
    if stage.kind == "vae" and not stage.vae.freeze_encoder:
        less({"vae.freezeEncoder": True}, replace(stage, vae=replace(stage.vae, freeze_encoder=True)), changes_training=True)
    if stage.ema.enabled:
        less({"ema.enabled": False}, replace(stage, ema=replace(stage.ema, enabled=False)), changes_training=True)
    return found
