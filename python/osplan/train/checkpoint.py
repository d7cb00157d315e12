"""Checkpoints: everything needed to continue, written so that a kill at any instant leaves the old or the new, never half.

    checkpoints/step-00000100/
        model/      config.json, diffusion_pytorch_model.safetensors        upstream's layout
        model_ema/  the same for the moving average
        adapter/    adapter_config.json, adapter_model.safetensors              peft's layout, where adapters are trained; model/ has them
        adapter_ema/                                                            merged into the frozen base
        state/      state.json, rank-0.safetensors, …
            optimizer/  one file a rank: its part of the optimiser's state
        manifest.json   written last: sizes and hashes of all the others

A folder is written under a temporary name, flushed, read back against its hashes, and only then renamed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from osplan.domain.errors import UserError
from osplan.domain.full_disk import DiskFullError, free_bytes, is_full
from osplan.domain.protocol import FORMAT_VERSION, tagged
from osplan.domain.stage import Checkpoint as Retention

OPTIMIZER = "optimizer"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MANIFEST = "manifest.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REPLACED = ".replaced"
"""Ending of a checkpoint that one of the same step takes the place of."""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters of a model whose base is frozen, by peft's names."""

    config: Mapping[str, Any]
    """peft's adapter_config.json."""
    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None


@dataclass(frozen=True)
class Checkpoint:
    """What one rank writes of it: everything but the optimiser's state. All tensors are copies that nobody changes."""

    step: int
    attempt: int
    config: Mapping[str, Any]
    """The model's config.json."""
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    extra: Mapping[str, Mapping[str, Tensor]]
    """Further tensor files of the state, by name: the discriminator, its optimiser."""
    ranks: tuple[Mapping[str, Tensor], ...]
    """Random generator states, one entry per rank."""
    state: Mapping[str, Any]
    """Everything else, as JSON."""
    held_out: Mapping[str, Any] | None
    stage_hash: str
    is_end: bool = False
    """Whether a phase or the stage ended here."""
    adapters: Adapters | None = None


@dataclass(frozen=True)
class Written:
    """One checkpoint on the disk."""

    step: int
    path: Path
    bytes: int
    sha256: str
    """Hash of the weights that are handed on: the EMA's file where there is one."""


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def begin_checkpoint(run: Path, step: int, expected_bytes: int) -> Path:
    """The folder a checkpoint is written in until it is whole; remains of others go.

    Raises DiskFullError where there is not room for its expected size.
    """
    target = folder_of(run, step)
    for left in target.parent.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    free = free_bytes(target.parent)
    if free < expected_bytes:
        raise DiskFullError(target, expected_bytes, f"{free:,} free")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for part in ("model", "state", f"state/{OPTIMIZER}"):
            (temporary / part).mkdir(parents=True, mode=0o700)
    except OSError as cause:
        raise _explained(cause, temporary, target, expected_bytes) from cause
    return temporary


def complete_checkpoint(
    run: Path,
    temporary: Path,
    checkpoint: Checkpoint,
    others: Future[Any],
    expected_bytes: int,
    may_publish: Callable[[], None] = lambda: None,
) -> Written:
    """Writes what is left once `others` is done, proves and publishes one checkpoint; `may_publish` is asked at the last moment.

    Raises DiskFullError where there is no room; what was there before is untouched.
    """
    target = folder_of(run, checkpoint.step)
    try:
        _write(temporary, checkpoint)
        others.result()
        return _published(temporary, target, checkpoint, may_publish)
    except (Exception, CheckpointException) as cause:
        # Other ranks write there until they are done, well or not.
        others.exception()
        raise _explained(cause, temporary, target, expected_bytes) from cause


def _explained(cause: BaseException, temporary: Path, target: Path, expected_bytes: int) -> BaseException:
    """The error to raise for one that left a checkpoint half written, which goes."""
    shutil.rmtree(temporary, ignore_errors=True)
    return DiskFullError(target, expected_bytes, cause) if is_full(cause) else cause


def _write(temporary: Path, checkpoint: Checkpoint) -> None:
    _save(temporary / "model" / WEIGHTS, checkpoint.model)
    _save_json(temporary / "model" / "config.json", checkpoint.config)
    if checkpoint.ema is not None:
        (temporary / "model_ema").mkdir(mode=0o700)
        _save(temporary / "model_ema" / WEIGHTS, checkpoint.ema)
        _save_json(temporary / "model_ema" / "config.json", checkpoint.config)
    if checkpoint.adapters is not None:
        _save_adapters(temporary, checkpoint.adapters)
    for name, tensors in checkpoint.extra.items():
        _save(temporary / "state" / f"{name}.safetensors", tensors)
    for rank, tensors in enumerate(checkpoint.ranks):
        _save(temporary / "state" / f"rank-{rank}.safetensors", tensors)
    _save_json(temporary / "state" / "state.json", tagged(checkpoint.state))


def _published(temporary: Path, target: Path, checkpoint: Checkpoint, may_publish: Callable[[], None]) -> Written:
    """Flushes and hashes all that was written, adds the manifest, and gives the folder its name."""
    paths = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
    for path in paths:
        _flush(path)
    files = {str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
    handed_on = f"{'model_ema' if checkpoint.ema is not None else 'model'}/{WEIGHTS}"
    manifest = {
        "formatVersion": FORMAT_VERSION,
        "step": checkpoint.step,
        "attempt": checkpoint.attempt,
        "createdAt": time.time(),
        "stageHash": checkpoint.stage_hash,
        "heldOut": tagged(checkpoint.held_out),
        "isEnd": checkpoint.is_end,
        "files": files,
    }
    _save_json(temporary / MANIFEST, manifest)
    _flush(temporary / MANIFEST)
    for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
        _sync_folder(folder)
    may_publish()
    replaced = target.with_name(f".{target.name}{REPLACED}")
    if target.exists():
        os.rename(target, replaced)
    os.rename(temporary, target)
    _sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    return Written(checkpoint.step, target, sum(entry["bytes"] for entry in files.values()), files[handed_on]["sha256"])


def _save_adapters(folder: Path, adapters: Adapters) -> None:
    for name, tensors in (("adapter", adapters.raw), ("adapter_ema", adapters.ema)):
        if tensors is not None:
            (folder / name).mkdir(mode=0o700)
            _save(folder / name / ADAPTER_WEIGHTS, tensors)
            _save_json(folder / name / "adapter_config.json", adapters.config)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def _save_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")


def _flush(path: Path) -> None:
    path.chmod(0o600)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint; None for an incomplete one.

    Raises UserError FORMAT_VERSION for one of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if manifest.get("formatVersion") != FORMAT_VERSION:
        raise UserError(
            "FORMAT_VERSION",
            f"{folder / MANIFEST}: expected format {FORMAT_VERSION}, got {manifest.get('formatVersion')}",
            "use the Stagewright version that wrote it",
        )
    complete = all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"] for name, entry in manifest["files"].items()
    )
    return manifest if complete else None


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run. One that was being replaced when the trainer was killed comes back first."""
    for replaced in (run / "checkpoints").glob(f".step-*{REPLACED}"):
        target = replaced.with_name(replaced.name.removeprefix(".").removesuffix(REPLACED))
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, target)
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        if read_manifest(folder) is not None:
            return folder
    return None


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a run with their steps, oldest first."""
    folders = [(folder, read_manifest(folder)) for folder in sorted((run / "checkpoints").glob("step-*"))]
    return [(int(manifest["step"]), folder) for folder, manifest in folders if manifest is not None]


def remove_checkpoint(folder: Path) -> None:
    """Deletes a checkpoint; one that is half gone is never taken for a whole one."""
    doomed = folder.with_name(f".{folder.name}.tmp")
    with contextlib.suppress(OSError):
        os.rename(folder, doomed)
        shutil.rmtree(doomed)


@dataclass(frozen=True)
class Restored:
    """A checkpoint read back."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    state_folder: Path
    """Where the optimiser's state lies."""
    extra: dict[str, dict[str, Tensor]]
    rank: dict[str, Tensor] | None
    """This rank's generators; None where the checkpoint knows fewer ranks."""
    state: dict[str, Any]
    adapters: dict[str, Tensor] | None = None
    """Adapters by peft's names; None where the run trained the weights themselves."""
    adapters_ema: dict[str, Tensor] | None = None


def read_checkpoint(folder: Path, rank: int) -> Restored:
    """Reads a complete checkpoint, every file against its hash.

    Raises UserError CHECKPOINT_DAMAGED where a file is missing or its content differs from the manifest.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            "CHECKPOINT_DAMAGED",
            f"{folder}: expected a complete checkpoint, got missing or shortened files",
            "continue from an earlier checkpoint with `--at STEP`",
        )
    for name, entry in manifest["files"].items():
        if _sha256(folder / name) != entry["sha256"]:
            raise UserError(
                "CHECKPOINT_DAMAGED",
                f"{folder / name}: expected sha256 {entry['sha256'][:12]}…, got other content",
                "continue from an earlier checkpoint with `--at STEP`",
            )
    state = folder / "state"
    own = {"optimizer.safetensors"} | {path.name for path in state.glob("rank-*.safetensors")}
    mine = state / f"rank-{rank}.safetensors"
    return Restored(
        step=manifest["step"],
        model=load_file(folder / "model" / WEIGHTS),
        ema=load_file(folder / "model_ema" / WEIGHTS) if (folder / "model_ema").is_dir() else None,
        state_folder=state,
        extra={path.stem: load_file(path) for path in state.glob("*.safetensors") if path.name not in own},
        rank=load_file(mine) if mine.is_file() else None,
        state=json.loads((state / "state.json").read_text()),
        adapters=_adapters(folder / "adapter"),
        adapters_ema=_adapters(folder / "adapter_ema"),
    )


def _adapters(folder: Path) -> dict[str, Tensor] | None:
    return load_file(folder / ADAPTER_WEIGHTS) if folder.is_dir() else None


def prune(run: Path, keep: Retention) -> list[Path]:
    """Deletes complete checkpoints that no rule keeps; returns what went.

    The best are those with the lowest held-out loss of what would be handed on, ties to the earlier step.
    """
    if keep.keep_last is None:
        return []
    complete = [
        (folder, manifest) for folder in sorted((run / "checkpoints").glob("step-*")) if (manifest := read_manifest(folder)) is not None
    ]
    scored = [(loss, manifest["step"], folder) for folder, manifest in complete if (loss := handed_on_loss(manifest)) is not None]
    kept = {folder for folder, _ in complete[-keep.keep_last :]}
    kept |= {folder for _, _, folder in sorted(scored, key=lambda entry: entry[:2])[: keep.keep_best]}
    kept |= {folder for folder, manifest in complete if keep.keep_ends and manifest.get("isEnd")}
    kept |= {folder for folder, manifest in complete if keep.keep_every_steps and manifest["step"] % keep.keep_every_steps == 0}
    gone = [folder for folder, _ in complete if folder not in kept]
    for folder in gone:
        remove_checkpoint(folder)
    return gone


def handed_on_loss(manifest: Mapping[str, Any]) -> float | None:
    """Held-out loss of the weights that would be handed on, or None where it was not measured or is not finite."""
    measured = manifest.get("heldOut") or {}
    loss = (measured.get("ema") or measured.get("raw") or {}).get("loss")
    return float(loss) if isinstance(loss, int | float) else None


def generator_states() -> dict[str, Tensor]:
    """The states of the process's global generators."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Puts the process's global generators back."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
