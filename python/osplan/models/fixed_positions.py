"""Positions as fixed sines and cosines that are added to the tokens.

Shape letters: N tokens of a frame, T frames, D channels.
"""

import torch
from torch import Tensor

MAX_PERIOD = 10_000


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines of positions at `width / 2` frequencies: float64 (positions, width)."""
    frequencies = 1.0 / MAX_PERIOD ** (torch.arange(width // 2, dtype=torch.float64, device=positions.device) / (width / 2))
    angles = positions.double().reshape(-1, 1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def stretched(size: int, base: int, scale: float, device: torch.device) -> Tensor:
    """`size` positions over the range of `base` positions, divided by a scale, float32."""
    return torch.arange(size, dtype=torch.float32, device=device) / (size / base) / scale


def frame_positions(grid: tuple[int, int], base: tuple[int, int], scales: tuple[float, float], width: int, device: torch.device) -> Tensor:
    """Positions within a frame, float32 (N, D): half of the channels for the column, then half for the row."""
    rows = sinusoids(stretched(grid[0], base[0], scales[0], device), width // 2)
    columns = sinusoids(stretched(grid[1], base[1], scales[1], device), width // 2)
    by_column = columns[None].expand(grid[0], -1, -1)
    by_row = rows[:, None].expand(-1, grid[1], -1)
    return torch.cat([by_column, by_row], dim=2).flatten(0, 1).float()


def time_positions(frames: int, base: int, scale: float, width: int, device: torch.device) -> Tensor:
    """Positions in time over the range of `base` frames, float32 (T, D)."""
    return sinusoids(stretched(frames, base, scale, device), width).float()
