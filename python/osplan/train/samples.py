"""Samples of weights that are trained already, without training: what `stagewright sample` asks for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from osplan.domain.errors import UserError
from osplan.domain.stage import Stage, decode_stage
from osplan.train.architecture import RANDOM_WEIGHTS
from osplan.train.assemble import load_vae, random_vae, stage_objective, trained_model
from osplan.train.autoencoder import is_autoencoder
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.seeds import seed_for
from osplan.train.supported import refuse_unsupported
from osplan.train.task import Task
from osplan.train.text import Texts
from osplan.train.vae_task import VaeTask


def sample(request: Mapping[str, Any], port: Any) -> list[dict[str, str]]:
    """Writes the samples a stage names from a folder of weights; returns their files and prompts.

    The request: `stage` (complete), `weights` (a folder in diffusers' layout), `vae` (a folder or null), `out` (a folder), `name`
    (beginning of the files' names).
    Raises UserError for weights, frames or prompts that do not fit.
    """
    stage = decode_stage(request["stage"])
    if stage.kind != "vae" and not stage.samples.prompts:
        raise UserError("SAMPLE_PROMPTS", "samples.prompts: expected a prompt, got none", "pass --prompt TEXT")
    refuse_unsupported(stage)
    if stage.memory.threads is not None:
        torch.set_num_threads(stage.memory.threads)
    task = _task(stage, request, _device(stage), port)
    with torch.no_grad():
        written = task.sample(stage, Path(request["out"]), request["name"])
    return [{"path": str(path), "prompt": prompt} for path, prompt in written]


def _device(stage: Stage) -> torch.device:
    wants_gpu = stage.memory.device == "cuda" or (stage.memory.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wants_gpu else "cpu")


def _task(stage: Stage, request: Mapping[str, Any], device: torch.device, port: Any) -> Task:
    model, config = trained_model(Path(request["weights"]), stage, device, port)
    if is_autoencoder(model):
        return VaeTask(stage, model, config, [], [], device, trains=False)  # type: ignore[arg-type]
    # A random autoencoder is the one the stage was trained on.
    torch.manual_seed(seed_for(stage.seed or 0, "weights"))
    vae = random_vae(stage, device, port) if stage.vae.weights == RANDOM_WEIGHTS else load_vae(request["vae"], stage, device, port)
    return DiffusionTask(stage, model, config, Encoders(vae, Texts(stage, device)), stage_objective(stage), [], device)
