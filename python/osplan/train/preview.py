"""The sampler of a stage's previews, and the frames an inpainting preview goes on from.

Shape letters: C channels (RGB), T frames, H and W height and width in pixels.
Sources of the settings: Open-Sora-Plan v1.3.1, sample/pipeline_opensora.py (levels from 1 to 1/1000, then 0); v1.5.0,
examples/opensoraplan1.5 (shift 7, guidance rescale 0.7, even times from 1 to 0).
"""

from pathlib import Path

import torch
from torch import Tensor

from osplan.data.decoding import ClipError, Wanted, pixels_of
from osplan.data.inpaint_masks import MaskKind
from osplan.data.probing import probed_row
from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.sampling import Kind, Sampler
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

FLOW_SHIFT, GUIDANCE_RESCALE = 7.0, 0.7
"""Of v1.5's own sampling."""
MASK_OF_TASK: dict[str, MaskKind] = {"t2v": "t2iv", "i2v": "i2v", "transition": "transition", "continuation": "continuation"}
UNCOUNTED_FRAMES = 4
"""By how many frames a container may overstate its length."""


def preview_sampler(stage: Stage) -> Sampler:
    """What `samples` names; `auto` takes DDIM, or Euler steps for rectified flow. What is null there is upstream's."""
    objective, samples = stage.objective, stage.samples
    flow, is_v15 = objective.name == "rectified-flow", stage.model.class_ == "SparseUMMDiT"
    kind: Kind = ("flow-euler" if flow else "ddim") if samples.sampler == "auto" else samples.sampler
    rescale = GUIDANCE_RESCALE if is_v15 else 0.0
    return Sampler(
        kind=kind,
        steps=samples.steps,
        guidance_scale=samples.guidance_scale,
        guidance_rescale=rescale if samples.guidance_rescale is None else samples.guidance_rescale,
        prediction="velocity" if objective.name in ("rectified-flow", "reconstruction") else objective.name,
        schedule=None if flow else NoiseSchedule(objective.betas, zero_terminal_snr=objective.zero_terminal_snr),
        zero_terminal_snr=objective.zero_terminal_snr,
        flow_shift=(FLOW_SHIFT if is_v15 else 1.0) if samples.flow_shift is None else samples.flow_shift,
        flow_grid="continuous" if is_v15 else "levels",
    )


def preview_mask(stage: Stage) -> MaskKind:
    """The kind of mask the previews of an inpainting stage have."""
    ratios = stage.objective.mask_ratios
    if stage.samples.task == "auto":
        return max(ratios, key=lambda name: ratios[name])  # type: ignore[return-value]
    return MASK_OF_TASK[stage.samples.task]


def known_places(kind: MaskKind, frames: int) -> list[int]:
    """Frames of a preview that are known; those that are left to chance in training are the first quarter."""
    match kind:
        case "t2iv":
            return []
        case "i2v":
            return [0]
        case "transition":
            return [0, frames - 1]
        case "clear":
            return list(range(frames))
        case _:
            return list(range(max(1, frames // 4)))


def named_clip(stage: Stage, source: str, kind: MaskKind) -> Tensor:
    """A clip of the stage's shape, uint8 (C, T, H, W), with what a mask leaves of an image, a clip or `FIRST,LAST`; black else.

    Raises UserError SAMPLE_FROM for what cannot be read or has too few frames.
    """
    shape = stage.shape
    places = known_places(kind, shape.frames)
    clip_CTHW = torch.zeros((3, shape.frames, shape.height, shape.width), dtype=torch.uint8)
    first, last = _files(source)
    if kind == "transition":
        clip_CTHW[:, 0] = _frames(stage, first, [0])[:, 0]
        clip_CTHW[:, -1] = _last_frame(stage, last or first)
    elif last is not None:
        raise UserError("SAMPLE_FROM", f"samples.from: expected one file, got two: {source}", "two files are for samples.task: transition")
    elif places:
        clip_CTHW[:, places] = _frames(stage, first, places)
    return clip_CTHW


def _files(source: str) -> tuple[Path, Path | None]:
    names = [source] if Path(source).is_file() else source.split(",")
    for name in names:
        if not Path(name).is_file():
            raise UserError("SAMPLE_FROM", f"samples.from: expected an image or a clip, got no file {name}", "check the path")
    if len(names) > 2:
        raise UserError("SAMPLE_FROM", f"samples.from: expected a file or two, got {len(names)}", "write FIRST,LAST")
    return Path(names[0]), Path(names[1]) if len(names) == 2 else None


def _frames(stage: Stage, path: Path, places: list[int]) -> Tensor:
    """Frames of a file at the stage's frame rate, (C, T, H, W)."""
    row = probed_row(path, path.parent)
    every = row.get("fps", stage.data.fps) / stage.data.fps
    try:
        return _decoded(stage, path, [int(place * every) for place in places])
    except ClipError as cause:
        raise UserError(
            "SAMPLE_FROM",
            f"samples.from: expected {places[-1] + 1} readable frames at {stage.data.fps:g} frames a second, got: {cause}",
            "name a longer clip, or a task that knows fewer frames",
        ) from cause


def _last_frame(stage: Stage, path: Path) -> Tensor:
    row = probed_row(path, path.parent)
    count = int(row.get("num_frames") or 1)
    found: ClipError | None = None
    for place in range(count - 1, max(-1, count - 1 - UNCOUNTED_FRAMES), -1):
        try:
            return _decoded(stage, path, [place])[:, 0]
        except ClipError as cause:
            found = cause
    raise UserError("SAMPLE_FROM", f"samples.from: expected a readable last frame, got: {found}", "name another file")


def _decoded(stage: Stage, path: Path, places: list[int]) -> Tensor:
    wanted = Wanted(str(path), tuple(places), None, stage.shape.height, stage.shape.width, None, (0.5, 0.5))
    return pixels_of(wanted, stage.data.decode_timeout_seconds)
