"""What the seconds of a step go into.

On a GPU a part is measured between two events of its stream, and read when the device has passed them anyway: what the optimiser took is
therefore known one step later. On a CPU, and for what a CPU does beside a GPU, it is the clock.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ON_HOST = frozenset({"data", "checkpoint", "communication"})
"""Parts the training thread itself waits in."""


class Split:
    """Seconds by part since they were last taken. A part within another counts for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._within: list[str] = []
        self._open: list[tuple[str, str | None, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the time spent within to one part."""
        outer = self._within[-1] if self._within else None
        self._within.append(name)
        events = self._begin() if self._on_gpu and name not in ON_HOST else None
        started = time.perf_counter()
        try:
            yield
        finally:
            self._within.pop()
            if events is None:
                self._add(name, outer, time.perf_counter() - started)
            else:
                events[1].record()
                self._open.append((name, outer, *events))

    def _begin(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        return first, last

    def _add(self, name: str, outer: str | None, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if outer is not None:
            self._seconds[outer] = self._seconds.get(outer, 0.0) - seconds

    def taken(self) -> dict[str, float]:
        """The parts so far; counting begins anew. Waits for nothing: events the device has not passed stay for the next time."""
        waiting = []
        for name, outer, first, last in self._open:
            if last.query():
                self._add(name, outer, first.elapsed_time(last) / 1000)
            else:
                waiting.append((name, outer, first, last))
        self._open = waiting
        seconds, self._seconds = self._seconds, {}
        return {name: max(0.0, value) for name, value in seconds.items()}
