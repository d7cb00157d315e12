"""From a file to uint8 pixels of the wanted frames and size.

Shape letters: C channels (RGB), T frames, H and W height and width.
Source of the resizing: the transforms of Open-Sora-Plan v1.3.1, in uint8 rather than float.
"""

import time
from dataclasses import dataclass

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor
from torch.nn import functional

from osplan.data.columns import Entry

SEEK_FROM = 48
"""A window that starts later than this is sought; before it, decoding from the start is as fast."""
SEEK_MARGIN = 8
CENTRE = (0.5, 0.5)
TRANSFORM = 1
"""Raised whenever the same request gives other pixels than before: encodings that are kept are then no longer found."""


class ClipError(Exception):
    """A clip that cannot be used: damaged, shorter than its annotation says, or too slow to decode."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Frames of a file, and what becomes of them."""

    path: str
    places: tuple[int, ...]
    """Frame numbers of the file, none smaller than the one before."""
    box: tuple[int, int, int, int] | None
    """Left, right, top, bottom that the annotation crops to."""
    height: int
    width: int
    largest_area: int | None
    """Set: scaled to this area and cropped to height × width; None: cropped to the aspect of height × width and scaled to it."""
    crop_at: tuple[float, float] | None
    """Where the crop lies between top and bottom, left and right; None stretches the frame instead of cropping it."""


def frame_places(entry: Entry, every: float, start: int, count: int) -> tuple[int, ...]:
    """Frames of the file that make a window of `count` resampled frames from the `start`-th on."""
    end = entry.first_frame + max(1, entry.frames)
    places = np.arange(entry.first_frame, end, every).astype(np.int64)
    return tuple(places[start : start + count].tolist())


def pixels_of(wanted: Wanted, deadline_seconds: float) -> Tensor:
    """The wanted frames in the wanted size, (C, T, H, W) uint8.

    Each frame is resized as it comes, while it is in the processor's cache, so that no clip is ever held in the file's size.
    Raises ClipError where they cannot be had. The deadline is looked at between frames: what hangs inside one is interrupted by
    the process that asked (decoders.py).
    """
    ends_at = time.monotonic() + deadline_seconds
    pixels_CTHW = torch.empty((3, len(wanted.places), wanted.height, wanted.width), dtype=torch.uint8)
    path, count, written = wanted.path, len(wanted.places), 0
    slots = iter(enumerate(wanted.places))
    slot, next_place = next(slots)
    try:
        with av.open(path, timeout=deadline_seconds) as container:
            stream = container.streams.video[0]
            first = _seek(container, stream, wanted.places[0])
            for place, frame in enumerate(container.decode(stream), first):
                if place == next_place:
                    frame_CHW = _sized(frame, wanted)
                    # Slow playback repeats a frame.
                    while place == next_place:
                        pixels_CTHW[:, slot] = frame_CHW
                        written += 1
                        slot, next_place = next(slots, (-1, -1))
                if written == count:
                    return pixels_CTHW
                if time.monotonic() > ends_at:
                    raise ClipError(f"{path}: expected to decode within {deadline_seconds:g} s, got {written} of {count} frames")
    except (av.FFmpegError, OSError, IndexError, ValueError) as cause:
        raise ClipError(f"{path}: expected a readable clip, got {cause}") from cause
    raise ClipError(f"{path}: expected frame {wanted.places[-1]}, got {written} of {count} frames")


def _sized(frame: av.VideoFrame, wanted: Wanted) -> Tensor:
    """A decoded frame in the wanted size, (C, H, W) uint8."""
    pixels_HWC = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    if wanted.box:
        left, right, top, bottom = wanted.box
        if bottom > pixels_HWC.shape[0] or right > pixels_HWC.shape[1]:
            raise ClipError(f"{wanted.path}: expected at least {bottom}×{right} pixels for its crop, got {tuple(pixels_HWC.shape[:2])}")
        pixels_HWC = pixels_HWC[top:bottom, left:right]
    frames_TCHW = pixels_HWC.permute(2, 0, 1)[None]
    if wanted.largest_area is not None:
        return area_fitted(frames_TCHW, wanted)[0]
    if wanted.crop_at is not None:
        frames_TCHW = cropped_to_aspect(frames_TCHW, wanted.height, wanted.width, wanted.crop_at)
    return resized(frames_TCHW, wanted.height, wanted.width)[0]


def _seek(container: InputContainer, stream: av.VideoStream, first: int) -> int:
    """Moves to a key frame before a frame and says which frame comes next; 0, from the start, where frames are not evenly timed."""
    rate, base, duration = stream.average_rate, stream.time_base, stream.duration
    if first < SEEK_FROM or not rate or not base or not duration or abs(float(duration * base * rate) - stream.frames) > 0.5:
        return 0
    start = stream.start_time or 0
    container.seek(start + round((first - SEEK_MARGIN) / rate / base), stream=stream, backward=True)
    frame = next(container.decode(stream), None)
    if frame is not None and frame.pts is not None:
        number = float((frame.pts - start) * base * rate)
        if abs(number - round(number)) < 0.01 and round(number) <= first:
            container.seek(frame.pts, stream=stream, backward=True)
            return round(number)
    container.seek(start, stream=stream, backward=True)
    return 0


def cropped_to_aspect(frames_TCHW: Tensor, height: int, width: int, crop_at: tuple[float, float] = CENTRE) -> Tensor:
    """The largest part of frames with the aspect of height × width."""
    h, w = frames_TCHW.shape[-2:]
    aspect = height / width
    kept_h, kept_w = (int(w * aspect), w) if h / w > aspect else (h, int(h / aspect))
    top, left = round((h - kept_h) * crop_at[0]), round((w - kept_w) * crop_at[1])
    return frames_TCHW[..., top : top + kept_h, left : left + kept_w]


def area_fitted(frames_TCHW: Tensor, wanted: Wanted) -> Tensor:
    """Frames scaled down to the largest area and centre-cropped to height × width: clips that keep their aspect.

    Raises ClipError where the file has another size than its annotation says.
    """
    height, width = area_size(frames_TCHW.shape[-2], frames_TCHW.shape[-1], wanted.largest_area or 0)
    frames_TCHW = resized(frames_TCHW, height, width)
    h, w = frames_TCHW.shape[-2:]
    if not (wanted.height <= h and wanted.width <= w):
        raise ClipError(f"{wanted.path}: expected at least {wanted.height}×{wanted.width} pixels as its annotation says, got {h}×{w}")
    top, left = (h - wanted.height) // 2, (w - wanted.width) // 2
    return frames_TCHW[..., top : top + wanted.height, left : left + wanted.width]


def area_size(height: int, width: int, largest_area: int) -> tuple[int, int]:
    """A size scaled down to an area where it is larger, each side floored."""
    if height * width <= largest_area:
        return height, width
    scale = (largest_area / (height * width)) ** 0.5
    return int(height * scale), int(width * scale)


def resized(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing and aligned corners, in the type that comes in."""
    if frames_TCHW.shape[-2:] == (height, width):
        return frames_TCHW
    return functional.interpolate(frames_TCHW, size=(height, width), mode="bilinear", antialias=True, align_corners=True)


def fitted(pixels_CTHW: Tensor, height: int, width: int) -> Tensor:
    """Pixels centre-cropped to the aspect of height × width and resized to it."""
    return resized(cropped_to_aspect(pixels_CTHW.transpose(0, 1), height, width), height, width).transpose(0, 1).contiguous()
