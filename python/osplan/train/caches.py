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
from osplan.data.latents import LOOKED_AT, LatentCache, latent_coverage
from osplan.data.selection import ChosenClips
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


def open_latents(stage: Stage, inputs: Mapping[str, Any], report: Callable[[str], None], *, to_fill: bool = True) -> LatentCache | None:
    """The latent cache of a stage; None where it keeps none. `inputs` has `data`, `vae` and `cache` as a run's identity has.

    Raises UserError CACHE_FOLDER where it cannot be written, VAE_MISSING where the stage names no autoencoder.
    """
    if stage.data.cache == "off" or stage.kind == "vae" or inputs["data"] is None:
        return None
    derived = derived_folder(inputs["data"], inputs.get("cache"))
    if to_fill:
        check_writable(derived)
    hashes = FileHashes(derived)
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
        named = stage.vae.weights
        raise UserError(
            "VAE_MISSING",
            f"vae.weights: expected the weights of an autoencoder, got {f'{named}, which is not there yet' if named else 'none'}",
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


def cache_state(stage: Stage, inputs: Mapping[str, Any], training: ChosenClips, *, limit: int = LOOKED_AT) -> dict[str, Any]:
    """What of a stage's encodings is kept, as JSON: `latents` (null: not kept, or `why` it cannot be said), and caches of other stages.

    Nothing is written but the hashes of clips that were read.
    """
    derived = derived_folder(inputs["data"], inputs.get("cache"))
    answer: dict[str, Any] = {"folder": str(derived), "latents": None, "why": None, "others": []}
    used: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    try:
        latents = open_latents(stage, inputs, problems.append, to_fill=False)
    except UserError as refused:
        latents, answer["why"] = None, f"{refused.message}"
    if latents is not None:
        used[latents.store.folder.name] = latents.store.description
        answer["latents"] = _state_of(latents.store) | latent_coverage(latents, training, limit).as_json()
    answer["problems"] = problems
    answer["others"] = [_other(folder, used) for folder in sorted(derived.glob("*-*/cache.json")) if folder.parent.name not in used]
    return answer


def _state_of(store: TensorStore) -> dict[str, Any]:
    return {"folder": str(store.folder), "entries": len(store), "bytes": store.bytes_on_disk()}


def _other(file: Path, used: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A cache this stage does not use, and in what it differs from the one it does."""
    kind = file.parent.name.split("-")[0]
    try:
        description = json.loads(file.read_text())
    except (OSError, ValueError):
        description = {}
    ours = next((description for name, description in used.items() if name.startswith(kind)), None)
    store = TensorStore(file.parent, {name: value for name, value in description.items() if name != "format"})
    differs = [] if ours is None else sorted(name for name in ours if json.loads(json.dumps(ours[name])) != description.get(name))
    return {"kind": kind, **_state_of(store), "differs": differs, "description": description}
