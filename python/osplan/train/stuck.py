"""A clock beside the training thread of every rank: a step that takes too long has its stacks dumped, before anyone kills it.

Every rank writes `logs/rank-N.stacks.txt`; the first also says where all of them stood. The clock never ends anything: a slow step may
still come to its end, and the launcher or the process group has limits of its own.
"""

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOKS_PER_LIMIT = 20
LEAST_LOCKED = 60.0
"""Seconds without Python's lock before a program is taken for one that nothing in Python can look at."""
SILENT = "no Python runs there"
"""Said of a rank whose clock cannot look: it is stopped, gone, or something holds its lock."""
WAITS_FOR_RANKS = 3.0
"""Seconds the first rank gives the others to write where they stand."""
OURS = "/osplan/"


class StuckClock:
    """Watches one rank. `limit` is asked each time, in seconds; None watches nothing."""

    def __init__(
        self, run: Path, rank: int, ranks: int, limit: Callable[[], float | None], say: Callable[..., None], *,
        least_locked: float = LEAST_LOCKED,
    ) -> None:  # fmt: skip
        self.run, self.rank, self.ranks, self.limit, self.say, self.least_locked = run, rank, ranks, limit, say, least_locked
        self.step = 0
        self._beat_at = time.monotonic()
        self._armed_at = float("-inf")
        self._resting = 0
        self._told_at: float | None = None
        self._closing = threading.Event()
        self._main = threading.get_ident()
        self.path = stacks_path(run, rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._thread = threading.Thread(target=self._watch, name="stuck-clock", daemon=True)
        self._thread.start()

    def beat(self, step: int) -> None:
        """The training thread has come to a step boundary."""
        self.step = step
        self._beat_at = time.monotonic()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Within, no step is made: measurements, samples and checkpoints take as long as they take."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1
            self._beat_at = time.monotonic()

    def close(self) -> None:
        """Ends the clock; a file nothing was dumped into goes."""
        self._closing.set()
        self._thread.join(timeout=5)
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()

    def _watch(self) -> None:
        while True:
            limit = self.limit()
            if self._closing.wait(1.0 if limit is None else min(1.0, limit / LOOKS_PER_LIMIT)):
                return
            self._arm(limit)
            silent = time.monotonic() - self._beat_at
            if limit is None or self._resting or silent <= limit or self._told_at == self._beat_at:
                continue
            self._told_at = self._beat_at
            self._dump(silent)
            if self.rank == 0:
                self.say(self.step, silent, limit, self._stacks_of_all(silent))

    def _arm(self, limit: float | None) -> None:
        """Has the stacks dumped should this thread not come back: something holds Python's lock, and nothing in Python can look.

        Frames are read without that lock then, which would end a program whose threads run: as long as they do, this is put off.
        """
        if limit is None or self._resting:
            faulthandler.cancel_dump_traceback_later()
            self._armed_at = float("-inf")
            return
        now, patience = time.monotonic(), max(limit * 2, self.least_locked)
        if now - self._armed_at > patience / 4:
            faulthandler.dump_traceback_later(patience, file=self._file)
            self._armed_at = now

    def _dump(self, silent: float) -> None:
        self._file.write(f"step {self.step + 1}: {silent:.0f} s at {time.strftime('%FT%TZ', time.gmtime())}\nat {self._place()}\n".encode())
        faulthandler.dump_traceback(self._file, all_threads=True)

    def _place(self) -> str:
        """Where the training thread stands: its innermost call, and the line of ours that led there."""
        frame: Any = sys._current_frames().get(self._main)
        if frame is None:
            return "the training thread has ended"
        calls = traceback.extract_stack(frame)
        ours = next((call for call in reversed(calls) if OURS in call.filename), calls[-1])
        inner = calls[-1]
        where = f"{ours.name} ({Path(ours.filename).name}:{ours.lineno})"
        return where if inner is ours else f"{inner.name} ({Path(inner.filename).name}:{inner.lineno}) from {where}"

    def _stacks_of_all(self, silent: float) -> list[dict[str, Any]]:
        """Where every rank stands, as far as it has written it since and it can be read from here."""
        since, until = time.time() - silent - 1, time.monotonic() + WAITS_FOR_RANKS
        paths = {rank: stacks_path(self.run, rank) for rank in range(self.ranks)}
        while time.monotonic() < until and not all(_is_fresh(path, since) for path in paths.values()):
            time.sleep(0.05)
        return [
            {"rank": rank, "at": _last_place(path) if _is_fresh(path, since) else SILENT, "file": str(path.relative_to(self.run))}
            for rank, path in paths.items()
        ]


def stacks_path(run: Path, rank: int) -> Path:
    """Where a rank dumps its stacks."""
    return run / "logs" / f"rank-{rank}.stacks.txt"


def _is_fresh(path: Path, since: float) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size > 0 and status.st_mtime >= since


def _last_place(path: Path) -> str:
    """Where the training thread stood, as its clock wrote it; or as was read without the clock, which lists that thread last."""
    lines = path.read_text(errors="replace").splitlines()
    place = max((number for number, line in enumerate(lines) if line.startswith("at ")), default=-1)
    threads = [number for number, line in enumerate(lines) if line.endswith("(most recent call first):") and number > place]
    if any(line.startswith("Timeout (") for line in lines[place + 1 :]) and threads:
        return f"{SILENT}:{lines[threads[-1] + 1].removeprefix('  File')}"
    return lines[place].removeprefix("at ") if place >= 0 else SILENT
