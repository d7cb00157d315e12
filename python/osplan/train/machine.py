"""How fast this machine computes, from a moment's measurement, and what a step's work takes on it."""

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from osplan.train.precision import DTYPES
from osplan.train.traced import Observed, TracedStep, Work

_PROCESS = ctypes.CDLL(None)
ROUNDS = 5
SIDE = {"cpu": 768, "cuda": 4096}
"""Of the square matrices that are multiplied."""
COPIED = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Bytes of the copy that shows the bandwidth. On a CPU of a size that is found again and not asked of the system anew."""
COPIES = 8
"""Copies of a round."""
READS_PER_WRITE = 2.0
"""An operation reads about as much as it writes, twice."""


@dataclass(frozen=True)
class Machine:
    """Rates of one device."""

    flops: float
    """Multiplications and additions a second in matrix products of the stage's precision."""
    encode_flops: float
    """The same in the autoencoder's."""
    bytes: float
    """Bytes copied a second."""
    bytes_in_place: float
    """Bytes a second of tensors that are changed where they lie, as an optimiser does."""
    seconds_per_operation: float
    """Of an operation on next to nothing, with what Python and autograd do around it."""

    def seconds(self, work: Work, flops: float | None = None, *, in_place: bool = False) -> float:
        """Estimate for some work."""
        moved = work.written * (1 + READS_PER_WRITE) / 2 / (self.bytes_in_place if in_place else self.bytes)
        return work.flops / (flops or self.flops) + moved + work.operations * self.seconds_per_operation

    def step_seconds(self, step: TracedStep, passes: int) -> dict[str, float]:
        """Estimate for an update over some micro-batches, by the parts a step's time is told in."""
        return {
            "forward": passes * (self.seconds(step.encode, self.encode_flops) + self.seconds(step.forward)),
            "backward": passes * self.seconds(step.backward),
            "optimizer": self.seconds(step.update, in_place=True),
        }


def measured_machine(device: torch.device, precision: str, encode_precision: str) -> Machine:
    """Measures a device, in about a second."""
    side, size = SIDE[device.type], COPIED[device.type]
    numbers = torch.zeros(size // 4, device=device)

    def matrix_rate(name: str) -> float:
        a = torch.randn(side, side, device=device).to(DTYPES[name])
        return 2 * side**3 / _fastest(lambda: a @ a, device)

    return Machine(
        flops=matrix_rate(precision),
        encode_flops=matrix_rate(encode_precision),
        bytes=COPIES * size / _fastest(lambda: _repeated(numbers.clone), device),
        bytes_in_place=COPIES * size / _fastest(lambda: _repeated(lambda: numbers.mul_(0.5)), device),
        seconds_per_operation=_seconds_per_operation(device),
    )


def _repeated(work: Callable[[], object]) -> None:
    for _ in range(COPIES):
        work()


def _seconds_per_operation(device: torch.device) -> float:
    """Of forward and backward passes through layers that have next to nothing to compute."""
    layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(20))).to(device)
    x = torch.zeros(8, 8, device=device)

    def there_and_back() -> None:
        layers(x).sum().backward()

    with Observed(layers) as observed:
        there_and_back()
    return _fastest(there_and_back, device) / observed.operations


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def available_bytes(device: torch.device) -> int:
    """Memory a rank may use: the GPU's, or what the host has to give now."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    with open("/proc/meminfo") as file:
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")}
    return found.get("MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def resident_bytes() -> int:
    """Bytes this process holds now, without those it has no use for any more."""
    if hasattr(_PROCESS, "malloc_trim"):
        _PROCESS.malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def most_resident_bytes() -> int:
    """The most bytes this process has held since the last `forget_most_resident`."""
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), resident_bytes())


def forget_most_resident() -> None:
    """Begins to look for the most anew, where the system allows it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return
