"""Which frames of a clip an inpainting model is given, and how it is told.

A mask is 1 where something is to be generated and 0 where it is known; it covers whole frames.
Shape letters: B batch, C channels, T frames, H and W height and width; S time stride of the autoencoder, L latent frames, h and w latent
height and width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional

from osplan.domain.errors import UserError

MaskKind = Literal["t2iv", "i2v", "transition", "continuation", "clear", "random_temporal"]
"""Known: nothing, the first frame, the first and the last, the first few, everything, some at random. Upstream's names."""
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)


def draw_kind(ratios: Mapping[str, float], generator: Generator) -> MaskKind:
    """A kind drawn by its ratio; all alike where every ratio is 0.

    Raises UserError MASK_RATIOS_INVALID for no kind, an unknown one, or a ratio that is negative or no number.
    """
    wrong = [name for name, ratio in ratios.items() if name not in MASK_KINDS or not (math.isfinite(ratio) and ratio >= 0)]
    if wrong or not ratios:
        raise UserError(
            "MASK_RATIOS_INVALID",
            f"objective.maskRatios: expected ratios of at least 0 for some of {', '.join(MASK_KINDS)}, got {dict(ratios)}",
            "upstream's video ratios: t2iv 1, i2v 8, transition 8, continuation 2, random_temporal 1",
        )
    weights = torch.tensor([ratios.get(kind, 0.0) for kind in MASK_KINDS], dtype=torch.float64)
    if weights.sum() == 0:
        weights = torch.tensor([float(kind in ratios) for kind in MASK_KINDS], dtype=torch.float64)
    return MASK_KINDS[int(torch.multinomial(weights, 1, generator=generator))]


def known_bounds(frames: int, least: float, most: float) -> tuple[int, int]:
    """Smallest and largest number of known frames for shares of a clip, both possible."""
    return math.floor(frames * least), math.ceil(frames * most)


def draw_frames(kind: MaskKind, frames: int, shares: tuple[float, float], generator: Generator) -> list[int]:
    """The frames that continuation and random masks leave known; empty for the other kinds, which leave nothing to chance."""
    if kind not in ("continuation", "random_temporal"):
        return []
    low, high = known_bounds(frames, *shares)
    count = int(torch.randint(low, high + 1, (1,), generator=generator))
    if kind == "continuation":
        return list(range(count))
    return torch.randperm(frames, generator=generator)[:count].tolist()


def frame_mask(kind: MaskKind, frames: int, chosen: Sequence[int] = ()) -> Tensor:
    """The mask of each frame, float32 (T). `chosen` are the known frames of continuation and random masks."""
    mask_T = torch.ones(frames)
    match kind:
        case "t2iv":
            pass
        case "i2v":
            mask_T[0] = 0
        case "transition":
            mask_T[[0, -1]] = 0
        case "clear":
            mask_T.zero_()
        case "continuation" | "random_temporal":
            mask_T[list(chosen)] = 0
    return mask_T


def masked_pixels(pixels_TCHW: Tensor, mask_T: Tensor) -> Tensor:
    """Pixels of 0 to 255 with the frames to be generated in black."""
    return pixels_TCHW * (mask_T < 0.5).to(pixels_TCHW.device)[:, None, None, None]


def compressed_mask(mask_B1THW: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """A mask on the latent grid, the frames behind a latent frame as channels: (B, 1, T, H, W) to (B, S, L, h, w).

    An odd number of frames repeats the first, as a causal autoencoder keeps it whole. `stride` is time, height, width.
    Raises UserError MASK_SHAPE where the frames do not divide into latent frames or no latent cell is left.
    """
    every, down, across = stride
    batch, _, frames, height, width = mask_B1THW.shape
    size = (height // down, width // across)
    whole = frames + every - 1 if frames % 2 else frames
    if whole % every or 0 in size:
        raise UserError(
            "MASK_SHAPE",
            f"mask: expected 1 + {every}k frames of at least {down}×{across}, got {frames} of {height}×{width}",
            f"use {(frames - 1) // every * every + 1} frames",
        )
    small_BThw = functional.interpolate(mask_B1THW[:, 0], size=size, mode="bilinear", align_corners=False)
    if frames % 2:
        small_BThw = torch.cat([small_BThw[:, :1].expand(-1, every - 1, -1, -1), small_BThw], dim=1)
    return small_BThw.view(batch, whole // every, every, *size).transpose(1, 2).contiguous()
