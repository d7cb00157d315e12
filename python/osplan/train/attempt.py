"""What one attempt at a stage is made of, its way out and in, and how it ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from osplan.domain.stage import Stage
from osplan.parallel.world import World
from osplan.train.live import LiveStage
from osplan.train.task import Batch, Task


class Port(Protocol):
    """The loop's way out and in; only rank 0 has a live one."""

    @property
    def is_blocked(self) -> bool:
        """Whether what is said cannot be written, for the disk is full."""
        ...

    def emit(self, event: str, **fields: Any) -> None:
        """Says what happened."""
        ...

    def take(self) -> list[dict[str, Any]]:
        """Commands since the last call."""
        ...

    def acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        """Says what became of a command."""
        ...

    def end_unless_ours(self) -> None:
        """Ends the process where another trainer has taken the run over."""
        ...


class Clips(Protocol):
    """The training clips in their order, without end; its state says how far they are consumed."""

    def take(self) -> Batch:
        """The next micro-batch of this rank.

        Raises StopIteration where the stage's epochs are over.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Position after the batches taken so far; the same on all ranks."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a position."""
        ...


@dataclass(frozen=True)
class Attempt:
    """The parts that stay the same from the first step of an attempt to its last."""

    live: LiveStage
    stage_hash: str
    task: Task
    clips: Clips
    world: World
    port: Port
    run: Path
    """The run's folder."""
    number: int

    @property
    def stage(self) -> Stage:
        """The stage with the live changes made so far."""
        return self.live.stage


@dataclass(frozen=True)
class End:
    """Why the loop ended."""

    reason: str
    message: str
    step: int
