"""From a file to uint8 pixels of the wanted frames and size.

Shape letters: C channels (RGB), T frames, H and W height and width.
"""

import math
import time
from collections.abc import Sequence

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from osplan.data.annotations import Entry


class ClipError(Exception):
    """A clip that cannot be used: damaged, shorter than its annotation says, or too slow to decode."""


def frame_places(entry: Entry, every: float, start: int, count: int) -> list[int]:
    """Frames of the file that make a window of `count` resampled frames from the `start`-th on."""
    first = entry.cut[0] if entry.cut else 0
    return [first + int((start + place) * every) for place in range(count)]


def decode(entry: Entry, places: Sequence[int], deadline_seconds: float) -> Tensor:
    """The frames at rising places of a file, (C, T, H, W) uint8, cropped as the annotation says.

    Raises ClipError where they cannot be had in time.
    """
    ends_at = time.monotonic() + deadline_seconds
    wanted = set(places)
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(entry.path, timeout=deadline_seconds) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            for place, frame in enumerate(container.decode(stream)):
                if place in wanted:
                    found[place] = frame.to_ndarray(format="rgb24")
                if place >= places[-1]:
                    break
                if time.monotonic() > ends_at:
                    raise ClipError(f"{entry.path}: expected to decode within {deadline_seconds:g} s, got {place} frames")
    except (av.FFmpegError, OSError, IndexError, ValueError) as cause:
        raise ClipError(f"{entry.path}: expected a readable clip, got {cause}") from cause
    if len(found) < len(wanted):
        raise ClipError(f"{entry.path}: expected frame {max(wanted)}, got {len(found)} of {len(wanted)} frames")
    pixels = torch.from_numpy(np.stack([found[place] for place in places])).permute(3, 0, 1, 2)
    if entry.crop:
        left, right, top, bottom = entry.crop
        pixels = pixels[:, :, top:bottom, left:right]
    return pixels.contiguous()


def fitted(pixels_CTHW: Tensor, height: int, width: int) -> Tensor:
    """Centre-cropped to the aspect of height × width and resized to it (bilinear, antialiased), uint8."""
    _, _, h, w = pixels_CTHW.shape
    if h / w > height / width:
        kept_h, kept_w = round(w * height / width), w
    else:
        kept_h, kept_w = h, round(h * width / height)
    top, left = (h - kept_h) // 2, (w - kept_w) // 2
    return resized(pixels_CTHW[:, :, top : top + kept_h, left : left + kept_w], height, width)


def covered(pixels_CTHW: Tensor, height: int, width: int) -> Tensor:
    """Resized by area until it covers height × width, then centre-cropped to it: clips that keep their aspect."""
    _, _, h, w = pixels_CTHW.shape
    scale = max(height / h, width / w)
    tall, wide = max(height, math.ceil(h * scale)), max(width, math.ceil(w * scale))
    pixels = resized(pixels_CTHW, tall, wide)
    top, left = (tall - height) // 2, (wide - width) // 2
    return pixels[:, :, top : top + height, left : left + width].contiguous()


def resized(pixels_CTHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, uint8 in and out."""
    if pixels_CTHW.shape[2:] == (height, width):
        return pixels_CTHW.contiguous()
    frames_TCHW = pixels_CTHW.transpose(0, 1).contiguous()
    return F.interpolate(frames_TCHW, size=(height, width), mode="bilinear", antialias=True).transpose(0, 1).contiguous()
