"""Rotary positions in three dimensions.

A head is split into three equal parts for time, height and width; within a part of n channels, channel j turns with channel
j + n/2 by the angle position / scale · 10000^(−2j/n).
Source: Su et al. 2021, "RoFormer", section 3.2 (arXiv:2104.09864).
Shape letters: N tokens, K channels per head.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor

BASE = 10_000.0
TABLES_KEPT = 8

RopePrecision = Literal["fp32", "model"]
Grid = tuple[int, int, int]
"""Tokens in time, height and width."""


def rotary_table(
    grid: Grid, head_dim: int, scales: tuple[float, float, float], device: torch.device, rounded_to: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles, each (N, K) in float32, tokens in the order time, height, width.

    `rounded_to` rounds the angles through a dtype first, as upstream's reduced-precision training saw them.
    """
    part = head_dim // 3
    frequencies = BASE ** (-torch.arange(0, part, 2, device=device, dtype=torch.float32) / part)
    places = torch.meshgrid(*[torch.arange(size, device=device, dtype=torch.float32) for size in grid], indexing="ij")
    angles = []
    for place, scale in zip(places, scales, strict=True):
        half = (place.reshape(-1, 1) / scale) * frequencies
        angles += [half, half]
    table = torch.cat(angles, dim=1)
    if rounded_to is not None:
        table = table.to(rounded_to).float()
    return table.cos(), table.sin()


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns queries or keys (…, N, K) by a table (N, K); the arithmetic is in float32, the result in the dtype of x."""
    t1, t2, h1, h2, w1, w2 = x.float().chunk(6, dim=-1)
    turned = torch.cat([-t2, t1, -h2, h1, -w2, w1], dim=-1)
    return (x.float() * cosine + turned * sine).to(x.dtype)


class RotaryTables:
    """The tables of the last few shapes, shared by all blocks of a model."""

    def __init__(self, head_dim: int, scales: tuple[float, float, float]) -> None:
        self.head_dim, self.scales = head_dim, scales
        self._kept: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def of(self, grid: Grid, device: torch.device, rounded_to: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """The table of a grid of tokens."""
        key = (grid, self.scales, device, rounded_to)
        if key not in self._kept:
            self._kept[key] = rotary_table(grid, self.head_dim, self.scales, device, rounded_to)
            while len(self._kept) > TABLES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
