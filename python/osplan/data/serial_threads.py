"""Threads whose tensor operations are not spread over cores.

Every thread that runs a parallel operation gets a team of OpenMP threads of its own. Together they are more than there are cores, and
libgomp then lets all of them sleep after a moment instead of waiting: a training step on as many threads as cores takes twice as long.
"""

import ctypes

import torch

_PROCESS = ctypes.CDLL(None)


def compute_alone() -> None:
    """Makes this thread's tensor operations its own work. `torch.set_num_threads` would do so for all of the process."""
    # PyTorch sets a thread's number when it first asks, and not again.
    torch.get_num_threads()
    if hasattr(_PROCESS, "omp_set_num_threads"):
        _PROCESS.omp_set_num_threads(1)
