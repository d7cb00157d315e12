"""The caches a stage uses: where they lie, and what their entries were made with.

Entries made by other weights, in another precision or by other rules lie in other folders: they cannot be taken by mistake.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from osplan.data.captions import CLEANING
from osplan.data.decoding import TRANSFORM
from osplan.data.file_hashes import FileHashes
from osplan.data.latents import LatentCache, latent_coverage
from osplan.data.selection import ChosenClips
from osplan.data.tensor_store import LOOKED_AT, TensorStore, described_folder
from osplan.data.texts import TextCache, text_coverage
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.models.text_encoder import SHIPPED, SHIPPED_SEED
from osplan.train.architecture import RANDOM_WEIGHTS, vae_config
from osplan.train.text import keeps_chinese

DERIVED = ".stagewright"
ENCODER_FILES = frozenset({".safetensors", ".bin", ".json", ".model", ".txt"})
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


def open_texts(
    stage: Stage, inputs: Mapping[str, Any], device: torch.device, report: Callable[[str], None], *, to_fill: bool = True
) -> TextCache | None:
    """The kept captions of a stage; None where it keeps none.

    Raises UserError CACHE_FOLDER where they cannot be written, TEXT_ENCODER where an encoder is not on this machine.
    """
    if stage.data.cache != "latents-and-text" or stage.kind == "vae" or inputs["data"] is None:
        return None
    derived = derived_folder(inputs["data"], inputs.get("cache"))
    if to_fill:
        check_writable(derived)
    description = text_description(stage, device, FileHashes(derived))
    return TextCache(TensorStore(described_folder(derived, "text", description), description, report))


@dataclass(frozen=True)
class Caches:
    """What a stage keeps."""

    latents: LatentCache | None = None
    texts: TextCache | None = None

    def close(self) -> None:
        """Writes what is left."""
        for cache in (self.latents, self.texts):
            if cache is not None:
                cache.store.close()


def text_description(stage: Stage, device: torch.device, hashes: FileHashes) -> dict[str, Any]:
    """Everything beside the caption that decides what encoders make of it."""
    text, reads_pooled = stage.text, stage.model.class_ == "SparseUMMDiT"
    return {
        "encoder": text_encoder_identity(text.encoder, stage, hashes),
        "second": text_encoder_identity(text.second_encoder, stage, hashes) if reads_pooled and text.second_encoder else None,
        "pooled": reads_pooled,
        "maxLength": text.max_length,
        "cleaned": [CLEANING, stage.compat.captions, keeps_chinese(text.encoder)] if text.clean else None,
        "precision": "bf16" if device.type == "cuda" else "fp32",
    }


def text_encoder_identity(name: str, stage: Stage, hashes: FileHashes) -> dict[str, Any]:
    """A text encoder by the content of its files, weights and tokenizer."""
    if name == SHIPPED:
        return {"shipped": SHIPPED_SEED, "channels": stage.model.text_channels, "torch": torch.__version__}
    folder = Path(name) if Path(name).is_dir() else _downloaded(name)
    files = sorted(path for path in folder.iterdir() if path.suffix in ENCODER_FILES and path.is_file())
    if not files:
        raise UserError("TEXT_ENCODER", f"{folder}: expected weights and a tokenizer, got none", "check text.encoder")
    return {"files": [[path.name, hashes.of(str(path))] for path in files]}


def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as cause:
        raise UserError(
            "TEXT_ENCODER",
            f"text.encoder: expected a local folder or a hub name that was downloaded, got {name}",
            f"run `hf download {name}` first, or set data.cache to latents",
        ) from cause


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
    answer: dict[str, Any] = {"folder": str(derived), "latents": None, "text": None, "why": None, "others": []}
    used: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    try:
        latents = open_latents(stage, inputs, problems.append, to_fill=False)
    except UserError as refused:
        latents, answer["why"] = None, refused.message
    if latents is not None:
        used[latents.store.folder.name] = latents.store.description
        answer["latents"] = _state_of(latents.store) | latent_coverage(latents, training, limit).as_json()
    device = torch.device("cpu" if stage.memory.device == "cpu" or not torch.cuda.is_available() else "cuda")
    try:
        texts = open_texts(stage, inputs, device, problems.append, to_fill=False)
    except UserError as refused:
        texts, answer["why"] = None, refused.message
    if texts is not None:
        used[texts.store.folder.name] = texts.store.description
        answer["text"] = _state_of(texts.store) | text_coverage(texts, training, stage, limit).as_json()
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
