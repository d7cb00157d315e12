"""Builds the parts of one attempt from a run folder and trains it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osplan.diffusion.objective import Objective, build_objective
from osplan.diffusion.settings import ObjectiveSettings
from osplan.domain.errors import UserError
from osplan.domain.protocol import PROTOCOL_VERSION
from osplan.domain.run_files import read_stage
from osplan.domain.stage import Stage
from osplan.models.registry import build_model, init_weights
from osplan.models.text_encoder import load_text_encoder
from osplan.models.wfvae import WFVAE
from osplan.parallel.world import World, join_world, leave_world
from osplan.train.architecture import transformer_config, vae_config
from osplan.train.checkpoint import WEIGHTS, latest_checkpoint, read_checkpoint
from osplan.train.clips import TrainingClips, open_clips
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.live import LiveStage
from osplan.train.loop import End, Loop
from osplan.train.preview import preview_sampler
from osplan.train.seeds import seed_for
from osplan.train.task import Task
from osplan.train.vae_task import VaeTask


def train_attempt(run: Path, identity: Mapping[str, Any], attempt: int, port: Any) -> End:
    """One attempt at the stage of a run, from its newest checkpoint where there is one.

    Raises UserError for everything a person can mend before the first step.
    """
    stage_json, stage_hash = read_stage(run)
    live = LiveStage(stage_json)
    stage = live.stage
    if stage.memory.tf32:
        torch.set_float32_matmul_precision("high")
    world = join_world(stage.memory.device, stage.memory.threads)
    try:
        _announce(world, port)
        torch.manual_seed(seed_for(stage.seed or 0, "process", world.rank))
        clips = open_clips(stage, identity["inputs"]["data"], world, port)
        port.emit("data", **clips.report)
        task = build_task(stage, identity["inputs"], clips, world.device, port)
        loop = Loop(live, stage_hash, task, clips, world, port, run, attempt)
        port.emit(
            "model", parameters=_count(task.model), trainable=sum(parameter.numel() for parameter in loop.trainable), groups=_groups(loop)
        )
        _restore(loop, run, identity, world, port)
        return loop.train()
    finally:
        leave_world()


def _announce(world: World, port: Any) -> None:
    pids = world.gathered(os.getpid())
    port.emit(
        "ready", protocol=PROTOCOL_VERSION, world_size=world.size, pids=pids, host=os.uname().nodename, device=_device_name(world.device),
        torch=torch.__version__, threads=world.threads, socket=port.listening,
    )  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _groups(loop: Loop) -> list[dict[str, Any]]:
    sizes = {name: parameter.numel() for name, parameter in loop.task.model.named_parameters()}
    return [
        {"name": group.name, "parameters": sum(sizes[name] for name in group.names), "learningRate": loop.stage.learning_rate * group.ratio}
        for group in loop.groups
    ]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _restore(loop: Loop, run: Path, identity: Mapping[str, Any], world: World, port: Any) -> None:
    folder = world.from_first(latest_checkpoint(run) if world.is_first else None)
    if folder is not None:
        loop.restore(read_checkpoint(folder, world.rank), port.past_commands, same_run=True)
        port.emit("loaded", what="checkpoint", **{"from": str(folder.relative_to(run))}, exact=len(loop.names), missing=[], unexpected=[])
    elif identity["inputs"].get("state"):
        saved = read_checkpoint(Path(identity["inputs"]["state"]), world.rank)
        loop.restore(saved, [], same_run=False)
        port.emit("loaded", what="checkpoint", **{"from": identity["inputs"]["state"]}, exact=len(loop.names), missing=[], unexpected=[])


def build_task(stage: Stage, inputs: Mapping[str, Any], clips: TrainingClips, device: torch.device, port: Any) -> Task:
    """The task of a stage: its networks, with their starting weights."""
    torch.manual_seed(seed_for(stage.seed or 0, "weights"))
    if stage.kind == "vae":
        config = _config_of(inputs["weights"]) or vae_config(stage)
        model = _started(config, stage, inputs["weights"], port, device)
        if not isinstance(model, WFVAE):
            raise UserError(
                "KIND_UNTRAINABLE",
                f"vae.class: expected WFVAEModel, got {config['_class_name']}",
                "older autoencoders can be used, not trained",
            )
        return VaeTask(stage, model, config, clips.held_out, clips.whole_clips, device)
    if stage.kind not in ("text-to-video",):
        raise UserError(
            "KIND_UNTRAINABLE",
            f"kind: expected vae or text-to-video, got {stage.kind}",
            "this trainer cannot train it; it can be imported and compared",
        )
    vae = load_vae(inputs["vae"], device, port)
    if vae.config.latent_channels != stage.vae.latent_channels:
        raise UserError(
            "LATENT_CHANNELS",
            f"vae.latentChannels: expected {vae.config.latent_channels} as {inputs['vae']} has, got {stage.vae.latent_channels}",
            "set vae.latentChannels to the autoencoder's",
        )
    config = transformer_config(stage)
    model = _started(config, stage, inputs["weights"], port, device)
    encoders = Encoders(vae, text_states(stage, device))
    objective = stage_objective(stage)
    return DiffusionTask(stage, model, config, encoders, objective, preview_sampler(stage), clips.held_out, device)


def _started(config: Mapping[str, Any], stage: Stage, weights: str | None, port: Any, device: torch.device) -> nn.Module:
    model = build_model(dict(config))
    init_weights(model)
    if weights is not None:
        load_weights(model, Path(weights), stage.init.accept, "weights", port)
    return model.to(device)


def _config_of(weights: str | None) -> dict[str, Any] | None:
    """The config.json beside starting weights of an autoencoder: it decides the architecture."""
    if weights is None:
        return None
    from json import loads

    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    path = folder / "config.json"
    return loads(path.read_text()) if path.is_file() else None


def load_weights(model: nn.Module, source: Path, accept: Sequence[str], what: str, port: Any) -> None:
    """Loads safetensors weights; anything but an exact match must be accepted by the recipe.

    Raises UserError WEIGHTS_MISMATCH with the first differing tensors.
    """
    from fnmatch import fnmatchcase

    tensors = read_weights(source)
    wanted = model.state_dict()
    reshaped = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if hasattr(model, "export_state_dict"):
        model_names = set(wanted)
        unexpected: list[str] = []
        missing = [] if set(tensors) & model_names else sorted(model_names)
    else:
        missing = [name for name in wanted if name not in tensors]
        unexpected = [name for name in tensors if name not in wanted]
    found = {"missing": missing, "unexpected": unexpected, "reshaped": reshaped}
    refused = [
        f"{kind}:{name}"
        for kind, names in found.items()
        for name in names
        if not any(fnmatchcase(f"{kind}:{name}", pattern) for pattern in accept)
    ]
    if refused:
        shown = ", ".join(refused[:5]) + (f" and {len(refused) - 5} more" if len(refused) > 5 else "")
        raise UserError(
            "WEIGHTS_MISMATCH",
            f"{source}: expected every tensor of the model, got differences: {shown}",
            "if they are meant, list them under init.accept",
        )
    loadable = {name: tensor for name, tensor in tensors.items() if name not in reshaped and name not in unexpected}
    model.load_state_dict(loadable, strict=not (missing or reshaped))
    port.emit("loaded", what=what, **{"from": str(source)}, exact=len(loadable), missing=missing, unexpected=unexpected)


def read_weights(source: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, a sharded set or a diffusers folder.

    Raises UserError WEIGHTS_MISSING where there is none.
    """
    files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
    if not files:
        raise UserError(
            "WEIGHTS_MISSING",
            f"{source}: expected {WEIGHTS} or shards of it, got none",
            "`stagewright weights convert` turns older files into safetensors",
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors


def load_vae(folder: str | None, device: torch.device, port: Any) -> Any:
    """The frozen autoencoder of a diffusion stage.

    Raises UserError VAE_MISSING where the stage names none.
    """
    if folder is None:
        raise UserError(
            "VAE_MISSING",
            "vae.weights: expected the weights of an autoencoder, got none",
            "name a folder, a run, or `stage:NAME` of a VAE stage",
        )
    config = _config_of(folder)
    if config is None:
        raise UserError("VAE_MISSING", f"{folder}: expected config.json beside the weights, got none", "use a folder in diffusers' layout")
    model = build_model(config)
    load_weights(model, Path(folder), [], "vae", port)
    return model.to(device).eval().requires_grad_(False)


def text_states(stage: Stage, device: torch.device) -> Any:
    """Captions to states and mask, cleaned as the stage says."""
    encoder = load_text_encoder(stage.text.encoder, channels=stage.model.text_channels, max_length=stage.text.max_length, device=device)

    def states(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return encoder(captions)

    return states


def stage_objective(stage: Stage) -> Objective:
    """The objective a stage names.

    Raises UserError OBJECTIVE_INVALID for settings that contradict each other.
    """
    objective, compat = stage.objective, stage.compat
    name = objective.name
    if name == "reconstruction":
        raise UserError(
            "OBJECTIVE_INVALID",
            "objective.name: expected what a transformer predicts, got reconstruction",
            "use v-prediction or rectified-flow",
        )
    flow = name == "rectified-flow"
    return build_objective(
        ObjectiveSettings(
            kind="rectified-flow" if flow else "ddpm",
            prediction="epsilon" if name == "rectified-flow" else name,
            beta_schedule=objective.betas,
            zero_terminal_snr=objective.zero_terminal_snr,
            snr_gamma=objective.snr_gamma,
            noise_offset=objective.noise_offset,
            learned_variance=objective.learned_variance,
            weighting=objective.weighting if objective.weighting != "none" else objective.times,
            logit_mean=objective.logit_mean,
            logit_std=objective.logit_std,
            mode_scale=objective.mode_scale,
            shift=objective.flow_shift,
            dynamic_shift=objective.dynamic_shift,
            continuous_times=stage.model.class_ == "SparseUMMDiT",
            stratified_times=objective.stratified_times,
            min_snr=compat.min_snr,
            noise_precision=compat.noise_precision,
            times=compat.times,
            sample_target="mended",
        )
    )
