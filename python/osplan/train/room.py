"""Waiting for room on a full disk: all ranks together, at one step boundary, until somebody has made some."""

import sys
import time
from collections.abc import Iterator

from osplan.domain.full_disk import free_bytes, has_room
from osplan.train.attempt import Attempt

LOOK_SECONDS = 2.0
TELL_SECONDS = 30.0
"""How often what is free is said again."""
LEAST_BYTES = 1 << 20
"""Room for the journal, which the trainer does without in a pinch, and for samples."""


def waited(attempt: Attempt, step: int, needed: int) -> Iterator[None]:
    """Ends when there is room for some bytes; yields once a look, on all ranks alike, and says what it waits for."""
    folder, world, began, told_at = attempt.run / "checkpoints", attempt.world, time.monotonic(), float("-inf")
    needed += LEAST_BYTES
    while True:
        if world.is_first and time.monotonic() - told_at > TELL_SECONDS:
            told_at, free = time.monotonic(), free_bytes(folder)
            attempt.port.emit("diskFull", step=step, needed=needed, free=free)
            print(f"step {step}: the disk is full; waiting for {needed:,} bytes, {free:,} are free", file=sys.stderr, flush=True)
        if world.from_first(world.is_first and not attempt.port.is_blocked and has_room(folder, needed)):
            break
        yield
        time.sleep(LOOK_SECONDS)
    attempt.port.emit("diskFree", step=step, seconds=time.monotonic() - began)
