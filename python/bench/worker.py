"""Contestants in processes of their own, run in turns: neither warms caches, fragments memory or leaves threads for the other."""

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEBI = 1024 * 1024

Task = Callable[[], object]


@dataclass(frozen=True)
class Round:
    """One run of a task."""

    wall: float
    """Seconds by the clock."""
    cpu: float
    """Seconds of all threads."""


class Contestant:
    """A process that made its tasks by `make(*arguments)`, a function of a module, and runs one when asked."""

    def __init__(self, make: Callable[..., dict[str, Task]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, task: str) -> Round:
        """Runs a task once."""
        wall, cpu = self._ask("run", task)
        return Round(wall, cpu)

    def peak_mib(self, task: str) -> float:
        """Runs a task once and says how far memory rose above where it stood before, in MiB. On a GPU: that of its tensors."""
        (peak,) = self._ask("peak", task)
        return peak

    def _ask(self, *question: str) -> tuple[float, ...]:
        self._ours.send(question)
        return self._ours.recv()

    def close(self) -> None:
        """Ends the process."""
        self._ours.close()
        self._process.join(timeout=10)


@contextmanager
def contest(**contestants: Contestant) -> Iterator[dict[str, Contestant]]:
    """The contestants by name; their processes end with the block."""
    try:
        yield contestants
    finally:
        for each in contestants.values():
            each.close()


def in_turns(rounds: int, contestants: dict[str, Contestant], task: str, *, warm: bool = True) -> dict[str, list[Round]]:
    """Rounds of every contestant, one after the other; one more before them, uncounted, where they should warm up."""
    series: dict[str, list[Round]] = {name: [] for name in contestants}
    for place in range(-1 if warm else 0, rounds):
        for name, contestant in contestants.items():
            took = contestant.run(task)
            if place >= 0:
                series[name].append(took)
    return series


def walls(series: dict[str, list[Round]]) -> dict[str, list[float]]:
    """Seconds by the clock of every side."""
    return {name: [each.wall for each in rounds] for name, rounds in series.items()}


def cpu_note(series: dict[str, list[Round]]) -> str:
    """The same comparison in processor time, which other programs on the machine disturb less."""
    ours, reference = (sorted(each.cpu for each in series[side])[len(series[side]) // 2] for side in ("ours", "reference"))
    return f"in processor time {ours / reference:.3g}×"


def _serve(pipe: Connection, make: Callable[..., dict[str, Task]], arguments: tuple[Any, ...]) -> None:
    tasks = make(*arguments)
    while True:
        try:
            kind, name = pipe.recv()
        except EOFError:
            return
        pipe.send(_timed(tasks[name]) if kind == "run" else (_peak(tasks[name]),))


def _timed(task: Task) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    _settle_gpu()
    return time.perf_counter() - wall, time.process_time() - cpu


def _peak(task: Task) -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MEBI
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    task()
    return _memory("VmHWM") - before


def _memory(kind: str) -> float:
    """A figure of this process from /proc, MiB. Writing 5 to clear_refs sets the high-water mark to what is used now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) / 1024


def _settle_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
