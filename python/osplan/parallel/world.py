"""The ranks that train together: who I am, on which device, and the few exchanges a step needs."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from osplan.domain.errors import UserError
from osplan.parallel.sequence import SequenceGroup, join_sequence


@dataclass(frozen=True)
class World:
    """One rank's view of the job; a world of one needs no process group."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    threads: int
    local_size: int = 1
    """Ranks on this machine."""
    sequence: SequenceGroup | None = None
    """The neighbours that share each clip with this rank; None where every rank has clips of its own."""
    writers: Any = None
    """A process group of all ranks for what is written in another thread; None for a rank alone."""

    @property
    def replica(self) -> int:
        """Number among those that train on different clips."""
        return self.rank // (self.sequence.size if self.sequence else 1)

    @property
    def replicas(self) -> int:
        """How many train on different clips."""
        return self.size // (self.sequence.size if self.sequence else 1)

    @property
    def is_first(self) -> bool:
        """Rank 0 writes the journal, the checkpoints and the samples."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all ranks."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def largest(self, value: int) -> int:
        """Largest of one whole number per rank."""
        if self.size == 1:
            return value
        flag = torch.tensor([value], device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag.item())

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank; anything that can be pickled between our own processes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank."""
        if self.size == 1:
            return [value]
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str, threads: int | None, *, sequence: int = 1, grouped: bool = False, timeout_minutes: float = 30) -> World:
    """Reads torchrun's environment and joins the process group where there is more than one rank, or `grouped` asks for it.

    `sequence` neighbouring ranks share each clip.
    Raises UserError DEVICE_MISSING where `cuda` is asked for and there is none, WORLD_SIZE where ranks do not divide into groups.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise UserError(
            "DEVICE_MISSING",
            "memory.device: expected a CUDA device, got none",
            "use `memory.device: cpu` or `auto`, or install a CUDA build of PyTorch",
        )
    on_gpu = has_gpu and device != "cpu"
    if on_gpu:
        torch.cuda.set_device(local_rank)
    chosen = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    per_rank = threads or max(1, len(os.sched_getaffinity(0)) // local_size)
    torch.set_num_threads(per_rank)
    if size % sequence:
        raise UserError(
            "WORLD_SIZE",
            f"parallel.sequence: expected a divisor of the {size} ranks that started, got {sequence}",
            f"start a multiple of {sequence} ranks",
        )
    if size > 1 or grouped:
        # A rank alone may have been started without an address to meet at. Beside NCCL, gloo carries what lies in host memory.
        meeting = {} if size > 1 else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(minutes=timeout_minutes), **meeting)
    shared = join_sequence(rank, size, sequence) if sequence > 1 else None
    writers = dist.new_group(backend="gloo") if size > 1 else None
    return World(rank, size, local_rank, chosen, per_rank, local_size, shared, writers)


def leave_world() -> None:
    """Ends the process group where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
