"""The caches a stage uses: where they lie, and what their entries were made with.

Entries made by other weights, in another precision or by other rules lie in other folders: they cannot be taken by mistake.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from osplan.data.decoding import TRANSFORM
from osplan.data.file_hashes import FileHashes
from osplan.data.latents import LatentCache
from osplan.data.tensor_store import TensorStore, described_folder
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.train.architecture import RANDOM_WEIGHTS, vae_config

DERIVED = ".stagewright"
NOT_ABOUT_ENCODING = frozenset({"scale", "shift", "_diffusers_version", "_name_or_path"})
"""Keys of an autoencoder's config.json that change nothing about its moments."""


def derived_folder(source: str, chosen: str | None) -> Path:
    """Where caches and index of a data source lie: the chosen folder, or one beside the clips."""
    if chosen is not None:
        return Path(os.path.abspath(chosen))
    path = Path(os.path.abspath(source))
    return (path if path.is_dir() else path.parent) / DERIVED


def open_latents(
    stage: Stage, inputs: Mapping[str, Any], report: Callable[[str], None], hashes: FileHashes | None = None
) -> LatentCache | None:
    """The latent cache of a stage; None where it keeps none.

    Raises UserError CACHE_FOLDER where it cannot be written, VAE_MISSING where the stage names no autoencoder.
    """
    if stage.data.cache == "off" or stage.kind == "vae" or inputs["data"] is None:
        return None
    derived = derived_folder(inputs["data"], inputs.get("cache"))
    check_writable(derived)
    hashes = hashes or FileHashes(derived)
    description = latent_description(stage, inputs["vae"], hashes)
    store = TensorStore(described_folder(derived, "latents", description), description, report)
    return LatentCache(store, hashes, stage, with_pixels=stage.kind == "inpaint")


def latent_description(stage: Stage, vae: str | None, hashes: FileHashes) -> dict[str, Any]:
    """Everything beside the pixels that decides what an autoencoder makes of a clip."""
    return {
        "encoder": autoencoder_identity(stage, vae, hashes),
        "precision": stage.memory.vae_precision,
        "inChunks": stage.memory.vae_tiling,
        "transform": TRANSFORM,
    }


def autoencoder_identity(stage: Stage, vae: str | None, hashes: FileHashes) -> dict[str, Any]:
    """An autoencoder by the content of its weights and the part of its config that decides over its moments."""
    if stage.vae.weights == RANDOM_WEIGHTS:
        return {"random": stage.seed or 0, "config": vae_config(stage), "torch": torch.__version__}
    if vae is None:
        raise UserError(
            "VAE_MISSING",
            "vae.weights: expected the weights of an autoencoder, got none",
            "name a folder, a run, or `stage:NAME` of a VAE stage",
        )
    path = Path(vae)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    config = (path if path.is_dir() else path.parent) / "config.json"
    if not files or not config.is_file():
        raise UserError("VAE_MISSING", f"{vae}: expected weights with config.json beside them, got none", "check vae.weights")
    described = {name: value for name, value in json.loads(config.read_text()).items() if name not in NOT_ABOUT_ENCODING}
    weights = [[file.name, hashes.of(str(file))] for file in files]
    return {"weights": weights, "config": described, "haarConstant": stage.compat.haar_constant}


def check_writable(derived: Path) -> None:
    """Makes the folder of the caches.

    Raises UserError CACHE_FOLDER where nothing can be written there.
    """
    try:
        derived.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(derived, os.W_OK | os.X_OK) else "a folder that cannot be written"
    except OSError as cause:
        problem = str(cause)
    if problem is not None:
        raise UserError(
            "CACHE_FOLDER",
            f"{derived}: expected a folder for the cache, got {problem}",
            "set data.cacheFolder to one that can be written, or data.cache to off",
        )
