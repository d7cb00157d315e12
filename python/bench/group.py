"""What a group of benchmarks is: one file in `groups/` with a `GROUP`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

QUICK_ROUNDS = 2


@dataclass(frozen=True)
class Goal:
    """A number to reach, and from which side."""

    at: Literal["most", "least"]
    value: float


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is said of a benchmark before it runs. The figure is made from the series `ours` and `reference`."""

    name: str
    what: str
    """What is measured against what, with sizes, in a line."""
    figure: Literal["ratio", "paired-ratio", "difference", "value"] = "ratio"
    unit: str = "×"
    goal: Goal | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rounds of every side of a benchmark, taken in turns."""

    name: str
    series: dict[str, list[float]]
    note: str = ""


@dataclass(frozen=True)
class Skipped:
    """A benchmark that this machine cannot run, and why."""

    name: str
    skipped: str


@dataclass(frozen=True)
class Bench:
    """What a group may use while it measures."""

    scratch: Path
    """Empty or holding what other groups left; gone at the end."""
    quick: bool

    def rounds(self, wanted: int) -> int:
        """How many rounds to take where `wanted` would be right; two in a quick run."""
        return min(QUICK_ROUNDS, wanted) if self.quick else wanted


@dataclass(frozen=True)
class Group:
    """Benchmarks that belong together. `measure` yields one answer for each."""

    benchmarks: list[Benchmark]
    measure: Callable[[Bench], Iterator[Measured | Skipped]] = field(repr=False)


def as_json(value: Benchmark | Measured | Skipped) -> dict[str, Any]:
    """The value as the line or list that `npm run bench` reads."""
    return asdict(value)
