"""Which part of a clip a sample shows: drawn from its own generator before anything is read.

Shape letters: C channels (RGB), T frames, H and W height and width.
"""

import os
import zlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from osplan.data.decoding import CENTRE, Wanted, fitted, frame_places
from osplan.data.selection import Chosen
from osplan.domain.stage import Stage

CropAt = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is drawn about the pixels of one sample."""

    start: int
    """First of the clip's resampled frames."""
    crop_at: CropAt
    """Where the crop to the bucket's aspect lies; None stretches."""
    square: tuple[int, int] | None
    """Top and left of a square of `data.cropSize` cut out of the bucket's size; None with a crop size: the whole clip made small."""
    flipped: bool
    """Mirrored left to right."""


def drawn_view(chosen: Chosen, stage: Stage, rng: np.random.Generator) -> View:
    """A random window, crop and mirroring as the stage allows them."""
    spare = max(0, chosen.resampled - chosen.bucket[0])
    return _view_from(int(rng.integers(spare + 1)), chosen, stage, rng)


def view_of_variant(chosen: Chosen, stage: Stage, variant: int) -> View:
    """One of the `data.cacheVariants` views of a clip that are kept: windows spread evenly, the rest drawn from its name and number.

    The same whatever other clips there are, so that a data set that grows keeps its views.
    """
    spare = max(0, chosen.resampled - chosen.bucket[0])
    variants = stage.data.cache_variants
    start = round(variant * spare / (variants - 1)) if variants > 1 else spare // 2
    return _view_from(start, chosen, stage, np.random.default_rng([stage.data.seed & 0xFFFFFFFF, _number_of(chosen), variant]))


def caption_generator(chosen: Chosen, seed: int, caption: int) -> np.random.Generator:
    """What draws once and for all what is said beside one of a clip's captions."""
    return np.random.default_rng([seed & 0xFFFFFFFF, _number_of(chosen), caption, 1])


def _number_of(chosen: Chosen) -> int:
    """The same for a clip whatever other clips there are and wherever they lie."""
    return zlib.crc32(f"{os.path.basename(chosen.entry.path)}/{chosen.entry.first_frame}".encode())


def _view_from(start: int, chosen: Chosen, stage: Stage, rng: np.random.Generator) -> View:
    crop_at = _crop_at(stage, rng)
    side = stage.data.crop_size
    square = None if side is None else _square(chosen, side, stage.data.crop, rng)
    return View(start, crop_at, square, bool(stage.data.flip and rng.random() < stage.data.flip))


def _crop_at(stage: Stage, rng: np.random.Generator) -> CropAt:
    data = stage.data
    if data.crop == "none":
        return None
    return (rng.random(), rng.random()) if data.crop == "random" and data.crop_size is None and stage.shape.fixed else CENTRE


def _square(chosen: Chosen, side: int, crop: str, rng: np.random.Generator) -> tuple[int, int] | None:
    """By halves a random square at full detail or the whole clip made small."""
    _, height, width = chosen.bucket
    if crop != "random" or rng.random() < 0.5 or min(height, width) < side:
        return None
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))


def request_for(chosen: Chosen, stage: Stage, start: int, count: int, crop_at: CropAt = CENTRE) -> Wanted:
    """What is decoded for `count` resampled frames of a clip from the `start`-th on."""
    _, height, width = chosen.bucket
    shape = stage.shape
    largest_area = None if shape.fixed else shape.max_pixels or shape.height * shape.width
    places = frame_places(chosen.entry, chosen.every, start, count)
    return Wanted(chosen.entry.path, places, chosen.entry.crop, height, width, largest_area, crop_at)


def shown_size(chosen: Chosen, side: int | None) -> tuple[int, int, int]:
    """Frames, height and width of a sample of a clip; `side` is `data.cropSize`."""
    frames, height, width = chosen.bucket
    return (frames, height, width) if side is None else (frames, side, side)


def cut_out(pixels_CTHW: Tensor, view: View, side: int | None) -> Tensor:
    """The part of a window that a view shows; `side` is `data.cropSize`."""
    if side is not None:
        if view.square is None:
            pixels_CTHW = fitted(pixels_CTHW, side, side)
        else:
            top, left = view.square
            pixels_CTHW = pixels_CTHW[:, :, top : top + side, left : left + side]
    return pixels_CTHW.flip(-1) if view.flipped else pixels_CTHW
