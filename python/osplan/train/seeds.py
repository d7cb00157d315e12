"""Random numbers that depend on where a run is, not on how it came there.

Every draw of a step comes from a generator made for (seed, purpose, step, place of the micro-batch in the global batch). A run
that was killed and continued therefore draws what an unbroken one draws, without any state to restore, and two ranks draw what
one rank with twice the accumulation draws.
"""

import hashlib

import torch


def seed_for(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for one purpose at one position."""
    text = "/".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose at one position."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, purpose, *position))


def micro_batch_generator(seed: int, purpose: str, step: int, place: int) -> torch.Generator:
    """A generator for one purpose of one micro-batch; `place` counts the micro-batches of a step over all ranks."""
    return generator_for(seed, purpose, step, place, 0)
