"""Rotary positions in three dimensions.

A head is split into parts for time, height and width; within a part of n channels, channel j turns with channel j + n/2 by the
angle position / scale · 10000^(−2j/n).
Source: Su et al. 2021, "RoFormer", section 3.2 (arXiv:2104.09864).
Shape letters: B batch, N tokens, M tokens as a skip arranges them, H heads, K channels per head.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from osplan.models.skiparse import Skip

BASE = 10_000.0
TABLES_KEPT = 8

RopePrecision = Literal["fp32", "model"]
Grid = tuple[int, int, int]
"""Tokens in time, height and width."""


@dataclass(frozen=True)
class RotaryTable:
    """Angles of every token, ready to turn queries and keys."""

    cosine: Tensor
    """(N, 1, K), float32."""
    sine: Tensor
    """(N, 1, K), float32; negative in the first half of each part."""
    halves: tuple[int, ...]
    """Channels of half a part: time, height, width."""


def rotary_table(
    grid: Grid,
    parts: tuple[int, int, int],
    scales: tuple[float, float, float],
    device: torch.device,
    *,
    rounded_to: torch.dtype = torch.float32,
    start: Grid = (0, 0, 0),
) -> RotaryTable:
    """The angles of a grid of tokens in the order time, height, width, for heads split into `parts` channels.

    `rounded_to` rounds the angles through a dtype first, as upstream's reduced-precision training saw them; `start` moves the grid.
    """
    axes = [torch.arange(first, first + size, device=device, dtype=torch.float32) for first, size in zip(start, grid, strict=True)]
    cosines, sines = [], []
    for part, place, scale in zip(parts, torch.meshgrid(*axes, indexing="ij"), scales, strict=True):
        frequencies = 1.0 / BASE ** (torch.arange(0, part, 2, device=device, dtype=torch.float32) / part)
        angles = ((place.reshape(-1, 1) / scale) * frequencies).to(rounded_to).float()
        cosines += [angles.cos()] * 2
        sines += [-angles.sin(), angles.sin()]
    return RotaryTable(torch.cat(cosines, 1)[:, None], torch.cat(sines, 1)[:, None], tuple(part // 2 for part in parts))


def rotated(x_BNHK: Tensor, table: RotaryTable) -> Tensor:
    """Turns queries or keys; the arithmetic is in float32, the result in the dtype given."""
    x = x_BNHK.float()
    widths = [half for half in table.halves for _ in range(2)]
    pieces = x.split(widths, dim=-1)
    swapped = torch.cat([pieces[place ^ 1] for place in range(len(pieces))], dim=-1)
    return torch.addcmul(x * table.cosine, swapped, table.sine).to(x_BNHK.dtype)


class RotaryTables:
    """The tables of the last few shapes, shared by all blocks of a model; one more per order in which tokens attend."""

    def __init__(self, parts: tuple[int, int, int], scales: tuple[float, float, float]) -> None:
        self.parts, self.scales = parts, scales
        self._kept: OrderedDict[tuple[object, ...], RotaryTable] = OrderedDict()

    def of(
        self, grid: Grid, skip: Skip, device: torch.device, rounded_to: torch.dtype = torch.float32, start: Grid = (0, 0, 0)
    ) -> RotaryTable:
        """The table of a grid of tokens as a skip arranges them."""
        key = (grid, self.parts, self.scales, skip, device, rounded_to, start)
        if key not in self._kept:
            table = rotary_table(grid, self.parts, self.scales, device, rounded_to=rounded_to, start=start)
            cosine, sine = (skip.arranged(values.transpose(0, 1)).transpose(0, 1) for values in (table.cosine, table.sine))
            self._kept[key] = RotaryTable(cosine, sine, table.halves)
            while len(self._kept) > TABLES_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
