"""Builds the parts of one attempt from a run folder and trains it."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osplan.diffusion.objective import Objective, build_objective
from osplan.diffusion.settings import ObjectiveSettings
from osplan.domain.errors import UserError
from osplan.domain.protocol import PROTOCOL_VERSION
from osplan.domain.run_files import read_replay, read_stage
from osplan.domain.stage import Stage, decode_stage
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.inpaint import extend_to_inpaint
from osplan.models.opensora import OpenSora
from osplan.models.registry import build_model, init_weights
from osplan.parallel.world import World, join_world, leave_world
from osplan.train.adapters import add_adapters
from osplan.train.architecture import RANDOM_WEIGHTS, config_beside, transformer_config, vae_config
from osplan.train.attempt import Attempt, End
from osplan.train.autoencoder import Autoencoder, is_autoencoder, latent_channels
from osplan.train.caches import Caches, open_latents, open_texts
from osplan.train.checkpoint import WEIGHTS, latest_checkpoint, read_checkpoint
from osplan.train.clips import TrainingClips, open_clips
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.pickles import ENDINGS as PICKLES
from osplan.train.pickles import as_safetensors, discriminator_beside, load_discriminator
from osplan.train.seeds import seed_for
from osplan.train.supported import refuse_unsupported
from osplan.train.task import Task
from osplan.train.text import Texts
from osplan.train.vae_task import VaeTask
from osplan.train.world_size import as_trained_by

RANDOM_STEPS = 100


def train_attempt(run: Path, identity: Mapping[str, Any], attempt: int, port: Any) -> End:
    """One attempt at the stage of a run, from its newest checkpoint where there is one.

    Raises UserError for everything a person can mend before the first step.
    """
    stage_json, stage_hash, newer = read_stage(run)
    asked = decode_stage(stage_json)
    torch.set_float32_matmul_precision("high" if asked.memory.tf32 else "highest")
    # Convolutions take TF32 by default, matrix products do not.
    torch.backends.cudnn.allow_tf32 = asked.memory.tf32
    caches = Caches()
    world = join_world(
        asked.memory.device, asked.memory.threads, sequence=asked.parallel.sequence, grouped=asked.parallel.strategy != "ddp"
    )
    try:
        live = LiveStage(as_trained_by(stage_json, world))
        stage = live.stage
        _announce(world, port)
        if newer:
            port.emit("stageFilled", settings=newer)
        torch.manual_seed(seed_for(stage.seed or 0, "process", world.rank))
        refuse_unsupported(stage)
        report = partial(_cache_problem, port)
        inputs = identity["inputs"]
        caches = Caches(open_latents(stage, inputs, report), open_texts(stage, inputs, world.device, report))
        clips = open_clips(stage, inputs, world, port, caches)
        port.emit("data", **clips.report)
        inputs = _with_safetensors(identity["inputs"], run, world)
        task = build_task(stage, inputs, clips, world.device, port)
        loop = Loop(Attempt(live, stage_hash, task, clips, world, port, run, attempt))
        port.emit(
            "model",
            parameters=_count(task.model),
            trainable=sum(parameter.numel() for parameter in loop.trained.trainable),
            groups=_groups(loop),
        )
        _restore(loop, run, identity, world, port)
        return loop.train()
    finally:
        caches.close()
        leave_world()


def _with_safetensors(inputs: Mapping[str, Any], run: Path, world: World) -> dict[str, Any]:
    """The inputs with weights that are pickles read once and kept in the run's folder."""
    found = dict(inputs)
    for name in ("weights", "vae"):
        source = inputs[name]
        if source is not None and Path(source).suffix in PICKLES:
            target = run / "derived" / f"initial-{name}"
            found[name] = world.from_first(str(as_safetensors(Path(source), target)) if world.is_first else None)
    return found


def _cache_problem(port: Any, message: str) -> None:
    port.emit("cacheProblem", message=message)


def _announce(world: World, port: Any) -> None:
    pids = world.gathered(os.getpid())
    port.emit(
        "ready", protocol=PROTOCOL_VERSION, world_size=world.size, pids=pids, host=os.uname().nodename, device=_device_name(world.device),
        torch=torch.__version__, threads=world.threads, socket=port.listening,
    )  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _groups(loop: Loop) -> list[dict[str, Any]]:
    sizes = {name: parameter.numel() for name, parameter in loop.trained.source.named_parameters()}
    return [
        {
            "name": group.name,
            "parameters": sum(sizes[name] for name in group.names),
            "learningRate": loop.attempt.stage.learning_rate * group.ratio,
        }
        for group in loop.trained.groups
    ]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _restore(loop: Loop, run: Path, identity: Mapping[str, Any], world: World, port: Any) -> None:
    folder = world.from_first(latest_checkpoint(run) if world.is_first else None)
    replay = world.from_first(read_replay(run) if world.is_first else None)
    if replay is not None:
        # Checkpoints of a replay know what is still to come.
        loop.commands.repeat(replay["commands"])
    if folder is not None:
        loop.restore(read_checkpoint(folder, world.rank), port.past_events, same_run=True)
        port.emit(
            "loaded", what="checkpoint", **{"from": str(folder.relative_to(run))}, exact=len(loop.trained.names), missing=[], unexpected=[]
        )
    elif identity["inputs"].get("state"):
        saved = read_checkpoint(Path(identity["inputs"]["state"]), world.rank)
        loop.restore(saved, [], same_run=False)
        port.emit(
            "loaded", what="checkpoint", **{"from": identity["inputs"]["state"]}, exact=len(loop.trained.names), missing=[], unexpected=[]
        )


def build_task(stage: Stage, inputs: Mapping[str, Any], clips: TrainingClips, device: torch.device, port: Any) -> Task:
    """The task of a stage: its networks, with their starting weights.

    Raises UserError for a stage this trainer cannot train and for weights that do not fit.
    """
    torch.manual_seed(seed_for(stage.seed or 0, "weights"))
    if stage.kind == "vae":
        config = _with_compat(config_beside(inputs["weights"]) or vae_config(stage), stage)
        model = _started(config, stage, inputs["weights"], port, device)
        if not is_autoencoder(model):
            raise UserError(
                "KIND_UNTRAINABLE",
                f"vae.class: expected a video autoencoder, got {config['_class_name']}",
                "name the weights of a WFVAEModel or a CausalVAEModel",
            )
        game = _discriminator(stage, inputs["weights"], port)
        return VaeTask(stage, model, config, clips.held_out, clips.whole_clips, device, discriminator=game)  # type: ignore[arg-type]
    vae = stage_autoencoder(stage, inputs, device, port)
    config = transformer_config(stage)
    model = _started(config, stage, inputs["weights"], port, device)
    encoders = Encoders(vae, Texts(stage, device, clips.caches.texts), clips.caches.latents)
    return DiffusionTask(stage, model, config, encoders, stage_objective(stage), clips.held_out, device)


def _discriminator(stage: Stage, weights: str | None, port: Any) -> dict[str, Tensor] | None:
    """The discriminator beside an autoencoder's starting weights; None for a new one, which is said: released files hold none."""
    if stage.objective.adversarial_weight == 0:
        return None
    path = discriminator_beside(weights)
    found = load_discriminator(path) if path is not None else None
    source = str(path) if found is not None else RANDOM_WEIGHTS
    names = list(PatchDiscriminator3D().state_dict())
    port.emit("loaded", what="discriminator", **{"from": source}, exact=len(found or {}), missing=[] if found else names, unexpected=[])
    return found


def stage_autoencoder(stage: Stage, inputs: Mapping[str, Any], device: torch.device, port: Any) -> Autoencoder:
    """The frozen autoencoder of a diffusion stage, the same whenever it is made.

    Raises UserError VAE_MISSING, VAE_RANDOM or LATENT_CHANNELS.
    """
    torch.manual_seed(seed_for(stage.seed or 0, "weights"))
    vae = random_vae(stage, device, port) if stage.vae.weights == RANDOM_WEIGHTS else load_vae(inputs["vae"], stage, device, port)
    _check_latents(vae, stage, inputs["vae"])
    return vae


def _check_latents(vae: Autoencoder, stage: Stage, source: Any) -> None:
    found = {"vae.latentChannels": (latent_channels(vae), stage.vae.latent_channels), "vae.stride": (vae.stride, tuple(stage.vae.stride))}
    for path, (has, says) in found.items():
        if has != says:
            raise UserError("LATENT_CHANNELS", f"{path}: expected {has} as {source} has, got {says}", f"set {path} to the autoencoder's")


def _started(config: Mapping[str, Any], stage: Stage, weights: str | None, port: Any, device: torch.device) -> nn.Module:
    model = build_model(dict(config))
    init_weights(model)
    if weights is not None:
        load_weights(model, Path(weights), stage.init.accept, "weights", port)
    if stage.lora.rank is not None:
        add_adapters(model, stage.lora, seed_for(stage.seed or 0, "adapters"))
    if hasattr(model, "recompute"):
        model.recompute = stage.memory.checkpointing  # type: ignore[assignment]
    _compile(model, stage)
    # Weights that are spread over ranks go to their devices block by block, when they are spread.
    return model if stage.parallel.strategy != "ddp" else model.to(device)


def _compile(model: nn.Module, stage: Stage) -> None:
    """Compiles in place, so that parameters keep their names."""
    if stage.memory.compile == "full":
        model.compile()
    elif stage.memory.compile == "blocks":
        for block in model.blocks:  # type: ignore[union-attr]
            block.compile()


def trained_model(folder: Path, stage: Stage, device: torch.device, port: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a folder in diffusers' layout with its weights, in evaluation mode, and its config.json.

    Raises UserError WEIGHTS_MISSING where there is no config.json, and those of `load_weights`.
    """
    config = config_beside(str(folder))
    if config is None:
        raise UserError("WEIGHTS_MISSING", f"{folder}: expected config.json beside the weights, got none", "use a checkpoint's `model/`")
    config = _with_compat(config, stage)
    model = build_model(config)
    load_weights(model, folder, [], "weights", port)
    return model.to(device).eval().requires_grad_(False), config


def _with_compat(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """A WF-VAE's config with the stage's constant of the Haar transform, unless it names its own."""
    if config.get("_class_name") != "WFVAEModel":
        return dict(config)
    return {"haar_constant": stage.compat.haar_constant, **config}


def load_weights(model: nn.Module, source: Path, accept: Sequence[str], what: str, port: Any) -> None:
    """Loads safetensors weights; anything but an exact match must be accepted by the recipe.

    Raises UserError WEIGHTS_MISMATCH with the first differing tensors.
    """
    read = read_weights(source)
    tensors = _fitting(model, read)
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
    added = sorted(set(loadable) - set(read))
    exact = len(loadable) - len(added)
    port.emit("loaded", what=what, **{"from": str(source)}, exact=exact, missing=[*missing, *added], unexpected=unexpected)


def _fitting(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text-to-video weights with the closed paths an inpainting model has beside them; other weights as they are."""
    if not isinstance(model, OpenSora) or model.config.inpaint_time_stride is None or "pos_embed.proj.weight" not in tensors:
        return tensors
    return extend_to_inpaint(tensors, model.config.inpaint_time_stride)


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


def random_vae(stage: Stage, device: torch.device, port: Any) -> Autoencoder:
    """An autoencoder nobody trained, for trying a stage's machinery: its latents mean little, so long stages are refused.

    Raises UserError VAE_RANDOM where the stage has more than a few steps.
    """
    if stage.steps > RANDOM_STEPS:
        raise UserError(
            "VAE_RANDOM",
            f"vae.weights: expected the weights of an autoencoder for {stage.steps} steps, got {RANDOM_WEIGHTS}",
            f"a random autoencoder is for trials of at most {RANDOM_STEPS} steps; name a folder, a run, or `stage:NAME` of a VAE stage",
        )
    model: Any = build_model(vae_config(stage))
    port.emit("loaded", what="vae", **{"from": RANDOM_WEIGHTS}, exact=0, missing=list(model.state_dict()), unexpected=[])
    return model.to(device).eval().requires_grad_(False)


def load_vae(folder: str | None, stage: Stage, device: torch.device, port: Any) -> Autoencoder:
    """The frozen autoencoder of a diffusion stage.

    Raises UserError VAE_MISSING where the stage names none.
    """
    if folder is None:
        raise UserError(
            "VAE_MISSING",
            "vae.weights: expected the weights of an autoencoder, got none",
            "name a folder, a run, or `stage:NAME` of a VAE stage",
        )
    config = config_beside(folder)
    if config is None:
        raise UserError("VAE_MISSING", f"{folder}: expected config.json beside the weights, got none", "use a folder in diffusers' layout")
    model: Any = build_model(_with_compat(config, stage))
    if not is_autoencoder(model):
        raise UserError("VAE_MISSING", f"{folder}: expected a video autoencoder, got {config['_class_name']}", "check vae.weights")
    load_weights(model, Path(folder), [], "vae", port)
    return model.to(device).eval().requires_grad_(False)


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
