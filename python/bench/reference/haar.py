"""Haar transforms as convolutions: one per band over single-channel clips, and transposed ones summed on the way back.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from osplan.models.haar import haar_filters_2d, haar_filters_3d


def haar_3d(x_BCTHW: Tensor) -> Tensor:
    """Causal transform, (B, C, T, H, W) to (B, 8C, (T + 1) / 2, H/2, W/2): filters made anew, eight strided convolutions."""
    b, c = x_BCTHW.shape[:2]
    seen = torch.cat((x_BCTHW[:, :, :1], x_BCTHW), dim=2)
    flat = seen.reshape(b * c, 1, *seen.shape[2:])
    bands = [functional.conv3d(flat, f[None, None], stride=2) for f in haar_filters_3d().to(x_BCTHW)]
    return torch.cat([band.reshape(b, c, *band.shape[2:]) for band in bands], dim=1)


def inverse_haar_3d(bands_BCTHW: Tensor) -> Tensor:
    """(B, 8C, T, H, W) to (B, C, 2T - 1, 2H, 2W): eight full-resolution transposed convolutions and their sum."""
    b, nc, *dims = bands_BCTHW.shape
    parts = bands_BCTHW.reshape(b, 8, nc // 8, *dims).unbind(1)
    total = None
    for part, f in zip(parts, haar_filters_3d().to(bands_BCTHW), strict=True):
        band = functional.conv_transpose3d(part.reshape(-1, 1, *dims), f[None, None], stride=2)
        total = band if total is None else total + band
    assert total is not None
    return total.reshape(b, nc // 8, *total.shape[2:])[:, :, 1:]


def haar_2d(x_BCTHW: Tensor) -> Tensor:
    """Per-frame transform, (B, C, T, H, W) to (B, 4C, T, H/2, W/2)."""
    b, c, t, h, w = x_BCTHW.shape
    flat = x_BCTHW.transpose(1, 2).reshape(b * t * c, 1, h, w)
    bands = [functional.conv2d(flat, f[None, None], stride=2) for f in haar_filters_2d().to(x_BCTHW)]
    return torch.cat([band.reshape(b, t, c, h // 2, w // 2).transpose(1, 2) for band in bands], dim=1)


def inverse_haar_2d(bands_BCTHW: Tensor) -> Tensor:
    """(B, 4C, T, H, W) to (B, C, T, 2H, 2W)."""
    b, nc, t, h, w = bands_BCTHW.shape
    parts = bands_BCTHW.reshape(b, 4, nc // 4, t, h, w).unbind(1)
    total = None
    for part, f in zip(parts, haar_filters_2d().to(bands_BCTHW), strict=True):
        band = functional.conv_transpose2d(part.transpose(1, 2).reshape(-1, 1, h, w), f[None, None], stride=2)
        total = band if total is None else total + band
    assert total is not None
    return total.reshape(b, t, nc // 4, 2 * h, 2 * w).transpose(1, 2)
