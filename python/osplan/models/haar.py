"""Haar wavelet transforms of clips, each as one matrix product over the cells of two by two (by two) pixels.

A level halves height and width, and in 3-D also time; the bands of all channels lie band-major in the channels.
In 3-D the transform is causal: frame 0 counts twice going in, and the first frame coming out is dropped,
so 1 + 2k frames become 1 + k and come back as 1 + 2k.
Shape letters: B batch, C channels, T frames, H and W height and width, N bands of a cell (4 or 8).
Source: Li et al. 2024, "WF-VAE", section 3.2 (arXiv:2411.17459).
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from osplan.models.past import Past

HaarConstant = Literal["upstream", "exact"]
"""`upstream` scales a 3-D cell by 0.3536, as all published weights were trained; `exact` by 1 / (2 sqrt 2)."""

BAND_NAMES_2D = ("aa", "ad", "da", "dd")
"""Upstream's names of the 2-D bands, in channel order: low, high along height, high along width, both."""
BAND_NAMES_3D = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
"""Upstream's names of the 3-D bands, in channel order: low, +w, +h, +hw, then the same with +t."""

_SUM_AND_DIFFERENCE = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64, device="cpu")


def haar_filters_2d() -> Tensor:
    """The four filters (4, 2, 2) over (h, w). Exactly orthonormal, hence its own inverse."""
    axes = torch.einsum("ia,jb->jiab", _SUM_AND_DIFFERENCE, _SUM_AND_DIFFERENCE)
    return (axes / 2).reshape(4, 2, 2).float()


def haar_filters_3d(constant: HaarConstant = "upstream") -> Tensor:
    """The eight filters (8, 2, 2, 2) over (t, h, w)."""
    scale = 0.3536 if constant == "upstream" else 1 / math.sqrt(8)
    axes = torch.einsum("ia,jb,kc->ijkabc", _SUM_AND_DIFFERENCE, _SUM_AND_DIFFERENCE, _SUM_AND_DIFFERENCE)
    return (axes * scale).reshape(8, 2, 2, 2).float()


@lru_cache(maxsize=64)
def haar_matrix(dims: Literal[2, 3], constant: HaarConstant, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bands by cell positions, on a device. Kept out of modules so that no checkpoint or `to_empty` can change it."""
    with torch.inference_mode(False):
        filters = haar_filters_2d() if dims == 2 else haar_filters_3d(constant)
        return filters.reshape(len(filters), -1).to(device, dtype)


def haar_2d(x_BCTHW: Tensor) -> Tensor:
    """Per-frame transform: (B, C, T, H, W) to (B, 4C, T, H/2, W/2)."""
    b, c, t, h, w = x_BCTHW.shape
    cells = x_BCTHW.reshape(b, c, t, h // 2, 2, w // 2, 2).permute(0, 4, 6, 1, 2, 3, 5).reshape(b, 4, -1)
    bands = haar_matrix(2, "upstream", cells.device, cells.dtype) @ cells
    return bands.view(b, 4 * c, t, h // 2, w // 2)


def inverse_haar_2d(bands_BCTHW: Tensor) -> Tensor:
    """Inverse of `haar_2d`: (B, 4C, T, H, W) to (B, C, T, 2H, 2W)."""
    b, nc, t, h, w = bands_BCTHW.shape
    bands = bands_BCTHW.reshape(b, 4, -1)
    cells = haar_matrix(2, "upstream", bands.device, bands.dtype).t() @ bands
    return cells.view(b, 2, 2, nc // 4, t, h, w).permute(0, 3, 4, 5, 1, 6, 2).reshape(b, nc // 4, t, 2 * h, 2 * w)


def haar_3d(x_BCTHW: Tensor, constant: HaarConstant = "upstream", past: Past | None = None) -> Tensor:
    """Causal transform: (B, C, T, H, W) to (B, 8C, (T + 1) / 2, H/2, W/2) for an odd T.

    A later chunk of a clip brings an even T and becomes T/2 coefficient frames.
    """
    if past is None or past.is_first:
        x_BCTHW = torch.cat((x_BCTHW[:, :, :1], x_BCTHW), dim=2)
    b, c, t, h, w = x_BCTHW.shape
    cells = x_BCTHW.reshape(b, c, t // 2, 2, h // 2, 2, w // 2, 2).permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(b, 8, -1)
    bands = haar_matrix(3, constant, cells.device, cells.dtype) @ cells
    return bands.view(b, 8 * c, t // 2, h // 2, w // 2)


def inverse_haar_3d(bands_BCTHW: Tensor, constant: HaarConstant = "upstream", past: Past | None = None) -> Tensor:
    """Transpose of `haar_3d` without its doubled frame: (B, 8C, T, H, W) to (B, C, 2T - 1, 2H, 2W).

    The inverse up to rounding with the exact constant, 1.0003 times the clip with upstream's. Later chunks keep all 2T frames.
    """
    b, nc, t, h, w = bands_BCTHW.shape
    bands = bands_BCTHW.reshape(b, 8, -1)
    cells = haar_matrix(3, constant, bands.device, bands.dtype).t() @ bands
    x_BCTHW = cells.view(b, 2, 2, 2, nc // 8, t, h, w).permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(b, nc // 8, 2 * t, 2 * h, 2 * w)
    return x_BCTHW[:, :, 1:] if past is None or past.is_first else x_BCTHW
