"""Moving statistics that one wild value cannot move far."""

import math
from typing import Any

DECAY = 0.98
"""Weight of the past per step: a memory of about fifty steps."""
CAPPED_AT = 3.0
"""Deviations beyond which a value counts as one at that distance."""


class Moving:
    """Mean and deviation of a series. Plain statistics first, exponentially moving ones once there are enough values."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        """Least deviation: a series that happens to stand still is not precise to the last digit."""
        self.mean, self.variance, self.seen = 0.0, 0.0, 0

    @property
    def deviation(self) -> float:
        """Never below the floor."""
        return max(self.floor, math.sqrt(self.variance))

    def score(self, value: float) -> float:
        """Deviations above the mean."""
        return (value - self.mean) / self.deviation

    def add(self, value: float) -> None:
        """Learns a value, from afar no more than one at the cap's distance."""
        if self.seen >= 10:
            reach = CAPPED_AT * self.deviation
            value = min(max(value, self.mean - reach), self.mean + reach)
        self.seen += 1
        weight = max(1 - DECAY, 1 / self.seen)
        delta = value - self.mean
        self.mean += weight * delta
        self.variance = (1 - weight) * (self.variance + weight * delta * delta)

    def state(self) -> list[float]:
        """As JSON."""
        return [self.mean, self.variance, self.seen]

    @staticmethod
    def of(state: Any, floor: float) -> "Moving":
        """Back from its state."""
        moving = Moving(floor)
        moving.mean, moving.variance, moving.seen = float(state[0]), float(state[1]), int(state[2])
        return moving


def log(value: float) -> float:
    """Natural logarithm; a loss or norm of 0 is very small, not impossible."""
    return math.log(max(value, 1e-30))
