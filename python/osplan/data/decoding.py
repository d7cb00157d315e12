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
from av.video.reformatter import VideoReformatter
from torch import Tensor
from torch.nn import functional

from osplan.data.columns import Entry

SEEK_FROM = 48
"""A window that starts later than this is sought; before it, decoding from the start is as fast."""
SEEK_MARGIN = 8
CENTRE = (0.5, 0.5)
QUICK_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""FFmpeg turns these into packed pixels of four bytes, and into planes, quicker than into three bytes, with the same numbers."""
QUICK_WIDTH = 16
"""But only for widths in multiples of this: in others it leaves the last columns of four bytes and of planes as memory was."""
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

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of what becomes of them."""
        return 3, len(self.places), self.height, self.width


def frame_places(entry: Entry, every: float, start: int, count: int) -> tuple[int, ...]:
    """Frames of the file that make a window of `count` resampled frames from the `start`-th on."""
    end = entry.first_frame + max(1, entry.frames)
    places = np.arange(entry.first_frame, end, every).astype(np.int64)
    return tuple(places[start : start + count].tolist())


def pixels_of(wanted: Wanted, deadline_seconds: float, memory: memoryview | None = None) -> Tensor:
    """The wanted frames in the wanted size, (C, T, H, W) uint8, at the beginning of `memory` where that is given.

    Each frame is resized as it comes, while it is in the processor's cache, so that no clip is ever held in the file's size.
    One thread decodes: those of a decoder cost more than they bring where several clips are decoded at once.
    Raises ClipError where they cannot be had. The deadline is looked at between frames: what hangs inside one is interrupted by
    the process that asked (decoders.py).
    """
    ends_at = time.monotonic() + deadline_seconds
    pixels_CTHW = np.ndarray(wanted.size, np.uint8, memory) if memory is not None else np.empty(wanted.size, np.uint8)
    path, count, written = wanted.path, len(wanted.places), 0
    slots, converter = iter(enumerate(wanted.places)), _Converter()
    slot, next_place = next(slots)
    try:
        with av.open(path, timeout=deadline_seconds) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            first = _seek(container, stream, wanted.places[0])
            for place, frame in enumerate(container.decode(stream), first):
                if place == next_place:
                    _write_sized(frame, wanted, converter, pixels_CTHW[:, slot])
                    written, first_slot = written + 1, slot
                    slot, next_place = next(slots, (-1, -1))
                    # Slow playback repeats a frame.
                    while place == next_place:
                        pixels_CTHW[:, slot] = pixels_CTHW[:, first_slot]
                        written += 1
                        slot, next_place = next(slots, (-1, -1))
                if written == count:
                    return torch.from_numpy(pixels_CTHW)
                if time.monotonic() > ends_at:
                    raise ClipError(f"{path}: expected to decode within {deadline_seconds:g} s, got {written} of {count} frames")
    except (av.FFmpegError, OSError, IndexError, ValueError) as cause:
        raise ClipError(f"{path}: expected a readable clip, got {cause}") from cause
    raise ClipError(f"{path}: expected frame {wanted.places[-1]}, got {written} of {count} frames")


class _Converter:
    """Frames of one clip to another pixel format, by one context. A frame that converts itself makes one of its own, with threads."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def packed(self, frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
        """(H, W, C) uint8."""
        return self._converted(frame, pixel_format).to_ndarray()

    def planes(self, frame: av.VideoFrame) -> tuple[np.ndarray, ...]:
        """Red, green and blue, each (H, W) uint8."""
        planes = self._converted(frame, "gbrp").planes
        views = [np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in planes]
        return tuple(views[place][: frame.height, : frame.width] for place in (2, 0, 1))

    def _converted(self, frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
        return self._reformatter.reformat(frame, format=pixel_format, threads=1)


def _write_sized(frame: av.VideoFrame, wanted: Wanted, converter: _Converter, target_CHW: np.ndarray) -> None:
    """A decoded frame in the wanted size, uint8."""
    left, right, top, bottom = wanted.box or (0, frame.width, 0, frame.height)
    if bottom > frame.height or right > frame.width:
        got = (frame.height, frame.width)
        raise ClipError(f"{wanted.path}: expected at least {bottom}×{right} pixels for its crop, got {got}")
    is_quick = frame.format.name in QUICK_FORMATS and frame.width % QUICK_WIDTH == 0
    if is_quick and (part := _part_as_it_is(wanted, left, right, top, bottom)):
        for target_HW, plane_HW in zip(target_CHW, converter.planes(frame), strict=True):
            target_HW[:] = plane_HW[part]
        return
    packed_HWC = torch.from_numpy(converter.packed(frame, "rgba" if is_quick else "rgb24"))[top:bottom, left:right]
    frames_TCHW = packed_HWC[None].permute(0, 3, 1, 2)
    if wanted.largest_area is not None:
        frames_TCHW = area_fitted(frames_TCHW, wanted)
    else:
        if wanted.crop_at is not None:
            frames_TCHW = cropped_to_aspect(frames_TCHW, wanted.height, wanted.width, wanted.crop_at)
        frames_TCHW = resized(frames_TCHW, wanted.height, wanted.width)
    _write_packed(frames_TCHW[0].permute(1, 2, 0).contiguous().numpy(), target_CHW)


def _write_packed(pixels_HWC: np.ndarray, target_CHW: np.ndarray) -> None:
    """Pixels of three bytes as they stand, of four by shifts of whole words, which is twice as quick."""
    if pixels_HWC.shape[-1] == 3:
        target_CHW[:] = pixels_HWC.transpose(2, 0, 1)
        return
    words_HW = pixels_HWC.view("<u4")[..., 0]
    np.copyto(target_CHW[0], words_HW, casting="unsafe")
    for channel in (1, 2):
        np.copyto(target_CHW[channel], words_HW >> np.uint32(8 * channel), casting="unsafe")


def _part_as_it_is(wanted: Wanted, left: int, right: int, top: int, bottom: int) -> tuple[slice, slice] | None:
    """Rows and columns of a frame that are the wanted pixels without resizing; None where they have to be resized."""
    height, width = bottom - top, right - left
    if wanted.largest_area is None and wanted.crop_at is not None:
        above, before, height, width = aspect_part(height, width, wanted.height, wanted.width, wanted.crop_at)
        top, left = top + above, left + before
    elif wanted.largest_area is not None and height * width > wanted.largest_area:
        return None
    if (height, width) != (wanted.height, wanted.width):
        return None
    return slice(top, top + height), slice(left, left + width)


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


def aspect_part(h: int, w: int, height: int, width: int, crop_at: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest part of h × w with the aspect of height × width: top, left, height, width."""
    aspect = height / width
    kept_h, kept_w = (int(w * aspect), w) if h / w > aspect else (h, int(h / aspect))
    return round((h - kept_h) * crop_at[0]), round((w - kept_w) * crop_at[1]), kept_h, kept_w


def cropped_to_aspect(frames_TCHW: Tensor, height: int, width: int, crop_at: tuple[float, float] = CENTRE) -> Tensor:
    """The largest part of frames with the aspect of height × width."""
    top, left, kept_h, kept_w = aspect_part(frames_TCHW.shape[-2], frames_TCHW.shape[-1], height, width, crop_at)
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
