"""Contestants in processes of their own, run in turns: neither warms caches, fragments memory or leaves threads for the other."""

import ctypes
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEBI = 1024 * 1024
SETTLE_SECONDS = 0.02
"""How long threads in the background have after a task to end what it gave them, before processor time is read."""

Task = Callable[[], object]


@dataclass(frozen=True)
class Round:
    """One run of a task."""

    wall: float
    """Seconds by the clock."""
    cpu: float
    """Seconds of all threads and of the processes that the task started, with what they still do in the moment after it."""


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
    return _turns(rounds, {name: partial(each.run, task) for name, each in contestants.items()}, warm=warm)


def tasks_in_turns(rounds: int, contestant: Contestant, tasks: dict[str, str]) -> dict[str, list[Round]]:
    """The same for tasks of one contestant, by the side each is: what differs by little is best compared within one process."""
    return _turns(rounds, {side: partial(contestant.run, task) for side, task in tasks.items()}, warm=True)


def _turns(rounds: int, sides: dict[str, Callable[[], Round]], *, warm: bool) -> dict[str, list[Round]]:
    series: dict[str, list[Round]] = {name: [] for name in sides}
    for place in range(-1 if warm else 0, rounds):
        # Every other round the other way about: who comes after whom makes no difference then.
        for name in list(sides) if place % 2 else list(sides)[::-1]:
            took = sides[name]()
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
    # Standard output belongs to results.
    os.dup2(2, 1)
    tasks = make(*arguments)
    while True:
        try:
            kind, name = pipe.recv()
        except EOFError:
            return
        pipe.send(_timed(tasks[name]) if kind == "run" else (_peak(tasks[name]),))


def _timed(task: Task) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    task()
    _settle_gpu()
    wall = time.perf_counter() - wall
    time.sleep(SETTLE_SECONDS)
    return wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    """Of this process and the processes it started that still run; of ended ones when they have been waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = (child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split())
    # The clock of another process: clock_getcpuclockid(3).
    running = sum(time.clock_gettime(~int(child) << 3 | 2) for child in children)
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


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
