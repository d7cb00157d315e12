"""Who may write a run: the trainer that was started last. One that was given up for lost, on a machine nobody reached, finds here that
another has its place, and writes no more.
"""

import json
import os
import uuid
from pathlib import Path

from osplan.domain.errors import UserError
from osplan.domain.full_disk import is_full

FILE = "writer.json"


class Lease:
    """A trainer's claim on a run. Files on storage that several machines share say the same to all of them once they are opened."""

    def __init__(self, run: Path, attempt: int) -> None:
        """Takes the run over from whoever wrote it before.

        Raises UserError ATTEMPT_OLD where a later attempt has been started.
        """
        self._path = run / FILE
        known = _read(self._path)
        newest = _attempt_in(known)
        if newest > attempt:
            raise UserError(
                "ATTEMPT_OLD", f"{run}: expected attempt {newest} or a later one, got {attempt}", "`stagewright attach` follows the newest"
            )
        self._text = json.dumps({"attempt": attempt, "host": os.uname().nodename, "pid": os.getpid(), "start": uuid.uuid4().hex})
        temporary = run / f".{FILE}.{uuid.uuid4().hex}"
        try:
            temporary.write_text(self._text)
            os.replace(temporary, self._path)
        except OSError as cause:
            temporary.unlink(missing_ok=True)
            if not is_full(cause):
                raise
            # A run may be gone on with on a full disk; whoever held it before is not told.
            self._text = known or ""

    def is_held(self) -> bool:
        """Whether no other trainer has taken the run over. A file that cannot be read says nothing about that."""
        found = _read(self._path)
        return found is None or found == self._text


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _attempt_in(text: str | None) -> int:
    try:
        return int(json.loads(text or "{}").get("attempt", 0))
    except (ValueError, TypeError, AttributeError):
        return 0
