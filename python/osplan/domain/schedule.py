"""Courses of the learning rate over a stage, as factors on its highest value.

Source: the schedules of upstream's trainer (diffusers `get_scheduler`), and warm-up–stable–decay (Hu et al. 2024,
"MiniCPM", section 4, arXiv:2404.06395).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The settings of one course. Steps count from 1; step s is the s-th update."""

    name: str
    warmup_steps: int
    horizon_steps: int
    """Steps the course is drawn for."""
    cycles: float
    power: float
    decay_share: float
    floor_ratio: float

    def factor(self, step: int) -> float:
        """Factor on the highest learning rate in update `step`, in [0, 1]."""
        if self.name != "constant" and step <= self.warmup_steps:
            return step / (self.warmup_steps + 1)
        span = max(1, self.horizon_steps - self.warmup_steps)
        progress = min(1.0, max(0.0, (step - 1 - self.warmup_steps) / span))
        return self.floor_ratio + (1 - self.floor_ratio) * self._shape(progress)

    def _shape(self, progress: float) -> float:
        match self.name:
            case "constant" | "constant-with-warmup" | "piecewise-constant":
                return 1.0
            case "linear":
                return 1 - progress
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))
            case "cosine-with-restarts":
                return 0.0 if progress >= 1 else 0.5 * (1 + math.cos(math.pi * ((self.cycles * progress) % 1.0)))
            case "polynomial":
                return (1 - progress) ** self.power
            case "wsd":
                started = progress - (1 - self.decay_share)
                return 1.0 if started <= 0 else 1 - started / max(self.decay_share, 1e-12)
            case _:
                raise AssertionError(f"unknown schedule {self.name}")
