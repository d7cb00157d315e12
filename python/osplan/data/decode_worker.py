"""A decoding process: asked for clips on stdin, one JSON line each, it answers with a JSON line; pixels lie in memory both share.

The memory is a file without a name, of which it inherits the descriptor that its argument numbers: large enough for what is asked.
It ends when its stdin does. Whoever started it kills it when a clip takes too long.
"""

import json
import mmap
import os
import signal
import sys
from dataclasses import asdict
from typing import IO

import torch

from osplan.data.decoding import ClipError, Wanted, pixels_of


def as_request(wanted: Wanted, deadline_seconds: float) -> bytes:
    """What is asked, as a line."""
    return json.dumps({"wanted": asdict(wanted), "deadline_seconds": deadline_seconds}).encode() + b"\n"


def from_request(line: bytes) -> tuple[Wanted, float]:
    """What was asked."""
    request = json.loads(line)
    wanted = request["wanted"]
    tuples = {name: tuple(wanted[name]) if wanted[name] is not None else None for name in ("places", "box", "crop_at")}
    return Wanted(**{**wanted, **tuples}), request["deadline_seconds"]


class SharedMemory:
    """Memory of an open file, as large as the file is each time."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._mapped: mmap.mmap | None = None

    def view(self) -> memoryview:
        """All of it."""
        size = os.fstat(self.file).st_size
        if self._mapped is None or len(self._mapped) != size:
            self._mapped = mmap.mmap(self.file, size)
        return memoryview(self._mapped)


def answer(line: bytes, replies: IO[bytes], memory: SharedMemory) -> None:
    """Decodes one clip into the memory and says that it is there, or why not."""
    found: dict[str, str] = {}
    try:
        pixels_of(*from_request(line), memory.view())
    except ClipError as cause:
        found["error"] = str(cause)
    replies.write(json.dumps(found).encode() + b"\n")
    replies.flush()


def main() -> int:
    """Answers until stdin ends. Interrupts are for the parent: its end closes stdin."""
    memory = SharedMemory(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # FFmpeg and libraries may print; stdout carries answers alone.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    replies.write(b"{}\n")
    replies.flush()
    for line in sys.stdin.buffer:
        answer(line, replies, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
