"""Decoding in processes of its own, so that a clip that hangs or crashes its decoder costs one process and not the run."""

import contextlib
import json
import math
import os
import queue
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import torch
from torch import Tensor

import osplan
from osplan.data.decode_worker import SharedMemory, as_request
from osplan.data.decoding import ClipError, Wanted, pixels_of

START_SECONDS = 120.0
"""How long a process may take to import what it needs."""
GRACE_SECONDS = 0.5
"""A process that looks at its own deadline answers within this; one that hangs does not."""
KEPT_BYTES = 1 << 28


class Decoder:
    """One decoding process."""

    def __init__(self) -> None:
        root = str(Path(osplan.__file__ or "").parent.parent)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            # What frames lie in is kept for the next ones, instead of going back to the system and being cleared anew each time.
            "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
            "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
        }
        self._memory = SharedMemory(os.memfd_create("clip"))
        weakref.finalize(self, os.close, self._memory.file)
        command = [sys.executable, "-m", "osplan.data.decode_worker", str(self._memory.file)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment, pass_fds=[self._memory.file]
        )
        self._held = b""
        self._is_ready = False

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def decode(self, wanted: Wanted, deadline_seconds: float) -> Tensor:
        """Pixels of a clip.

        Raises ClipError for a clip that cannot be read; TimeoutError or EOFError where the process hangs or has died, and is of no
        more use.
        """
        if not self._is_ready:
            self._line(time.monotonic() + START_SECONDS)
            self._is_ready = True
        assert self._process.stdin is not None
        count = math.prod(wanted.size)
        if os.fstat(self._memory.file).st_size < count:
            os.ftruncate(self._memory.file, count)
        try:
            self._process.stdin.write(as_request(wanted, deadline_seconds))
        except OSError as cause:
            raise EOFError from cause
        ends_at = time.monotonic() + deadline_seconds + GRACE_SECONDS
        reply = json.loads(self._line(ends_at))
        if "error" in reply:
            raise ClipError(reply["error"])
        return torch.frombuffer(self._memory.view(), dtype=torch.uint8, count=count).reshape(wanted.size).clone()

    def close(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _line(self, ends_at: float) -> bytes:
        while b"\n" not in self._held:
            self._held += self._read(ends_at)
        line, self._held = self._held.split(b"\n", 1)
        return line

    def _read(self, ends_at: float) -> bytes:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, ends_at - time.monotonic()))
        if not readable:
            raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        if not chunk:
            raise EOFError
        return chunk


class Decoders:
    """Some decoding processes, started when they are needed; with none, clips are decoded where they are asked for."""

    def __init__(self, workers: int, deadline_seconds: float) -> None:
        self.workers, self.deadline_seconds = workers, deadline_seconds
        self._idle: queue.LifoQueue[Decoder | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._running: set[Decoder] = set()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._running)

    def decode(self, wanted: Wanted) -> Tensor:
        """Pixels of a clip, (C, T, H, W) uint8; may be called from many threads.

        Raises ClipError where they cannot be had within the deadline. Without processes a hang inside the decoder is not interrupted.
        """
        if self.workers == 0:
            return pixels_of(wanted, self.deadline_seconds)
        decoder = self._idle.get()
        try:
            if decoder is None:
                decoder = self._start()
            return decoder.decode(wanted, self.deadline_seconds)
        except ClipError:
            raise
        except BaseException as cause:
            if decoder is not None:
                self._end(decoder)
                decoder = None
            if not isinstance(cause, TimeoutError | EOFError):
                raise
            found = "a decoder that hangs" if isinstance(cause, TimeoutError) else "a decoder that crashed"
            raise ClipError(f"{wanted.path}: expected to decode within {self.deadline_seconds:g} s, got {found}") from cause
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """Ends every process."""
        _close_all(self._running)

    def _start(self) -> Decoder:
        decoder = Decoder()
        with self._lock:
            self._running.add(decoder)
        return decoder

    def _end(self, decoder: Decoder) -> None:
        with self._lock:
            self._running.discard(decoder)
        decoder.close()


def _close_all(running: set[Decoder]) -> None:
    while running:
        running.pop().close()
