"""What causal layers remember of a clip while it passes through them in chunks of frames.

A layer that looks back keeps its last frames here; a layer that must look ahead holds back the outputs it cannot
finish yet. So every frame is computed once, and a clip in chunks equals the clip in one piece at every length.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Past:
    """Memory of one clip. Make one per clip and say with each chunk where in the clip it stands."""

    def __init__(self) -> None:
        self.is_first = True
        """The chunk holds frame 0."""
        self.is_last = False
        """No chunk follows: what was held back must come out."""
        self._frames: dict[tuple[nn.Module, str], Tensor] = {}

    def recall(self, layer: nn.Module, what: str = "frames") -> Tensor | None:
        """The frames a layer kept from the chunk before, or None in the first chunk."""
        return self._frames.get((layer, what))

    def keep(self, layer: nn.Module, frames_BCTHW: Tensor, what: str = "frames") -> None:
        """Keeps a copy, so that the chunk it was cut from can be freed."""
        self._frames[layer, what] = frames_BCTHW.clone()

    def in_step(self, layer: nn.Module, what: str, early_BCTHW: Tensor, frames: int) -> Tensor:
        """Joins a branch that runs ahead to one held back: gives out the next `frames` of it and keeps the rest."""
        waiting = self.recall(layer, what)
        joined = early_BCTHW if waiting is None else torch.cat((waiting, early_BCTHW), dim=2)
        self.keep(layer, joined[:, :, frames:], what)
        return joined[:, :, :frames]


def in_chunks(clip_BCTHW: Tensor, sizes: Sequence[int], past: Past) -> Iterator[Tensor]:
    """The chunks of a clip, with `past` saying before each one whether it is the first or the last."""
    start = 0
    for index, size in enumerate(sizes):
        past.is_first, past.is_last = index == 0, index == len(sizes) - 1
        yield clip_BCTHW[:, :, start : start + size]
        start += size
    assert start == clip_BCTHW.shape[2]


def chunk_sizes(frames: int, per_chunk: int) -> list[int]:
    """One frame and the first chunk together, then chunks of `per_chunk`, the last one shorter where it must be."""
    first = min(frames, 1 + per_chunk)
    rest = frames - first
    return [first, *[per_chunk] * (rest // per_chunk), *([rest % per_chunk] if rest % per_chunk else [])]
