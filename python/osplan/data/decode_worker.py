"""A decoding process: asked for clips on stdin, one JSON line each, it answers with a JSON line and raw pixels on stdout.

It ends when its stdin does. Whoever started it kills it when a clip takes too long.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import IO

import numpy as np
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


def answer(line: bytes, replies: IO[bytes]) -> None:
    """Decodes one clip and writes it."""
    try:
        pixels = pixels_of(*from_request(line))
    except ClipError as cause:
        replies.write(json.dumps({"error": str(cause)}).encode() + b"\n")
    else:
        replies.write(json.dumps({"shape": list(pixels.shape)}).encode() + b"\n")
        replies.write(np.ascontiguousarray(pixels.numpy()).data)
    replies.flush()


def main() -> int:
    """Answers until stdin ends. Interrupts are for the parent: its end closes stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # FFmpeg and libraries may print; stdout carries pixels alone.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    replies.write(b"{}\n")
    replies.flush()
    for line in sys.stdin.buffer:
        answer(line, replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
