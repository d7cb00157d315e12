"""Hashes of files, remembered: a file is read again only when its size or one of its times has changed.

The memory is a file of lines, appended to by many processes; a torn or foreign line is passed over. The time of change counts too, which
no tool sets back: a file that was replaced by another of the same size and age is noticed.
"""

import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MEMORY = "hashes.jsonl"
SETTLED_SECONDS = 0.05
"""A file that changed within this could change again without its time telling."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file when it was last read."""

    size: int
    modified_ns: int
    changed_ns: int
    sha256: str

    def is_of(self, facts: os.stat_result) -> bool:
        """Whether a file is still as it was."""
        return (self.size, self.modified_ns, self.changed_ns) == (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class FileHashes:
    """SHA-256 of files by content. May be asked from many threads."""

    def __init__(self, derived: Path | None) -> None:
        """Remembers in a folder, or with None in this process alone."""
        self._memory = None if derived is None else derived / MEMORY
        self._root = "" if derived is None else f"{os.path.abspath(derived.parent)}{os.sep}"
        self._known: dict[str, Known] = {}
        self._before: dict[str, str] = {}
        self._lock = threading.Lock()
        self._load()

    def of(self, path: str) -> str:
        """The hash of a file, in hex.

        Raises OSError where it cannot be read.
        """
        facts = os.stat(path)
        key = self._key(path)
        known = self._known.get(key)
        if known is not None and known.is_of(facts):
            return known.sha256
        if abs(time.time() - facts.st_ctime) < SETTLED_SECONDS:
            time.sleep(SETTLED_SECONDS)
        with open(path, "rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        found = Known(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, sha256)
        if found.is_of(after):
            self._remember(key, found)
        return sha256

    def known(self, path: str) -> str | None:
        """The hash of a file that has not changed since it was read; None for another. Nothing is read."""
        known = self._known.get(self._key(path))
        try:
            return known.sha256 if known is not None and known.is_of(os.stat(path)) else None
        except OSError:
            return None

    def before(self, path: str) -> str | None:
        """The hash a file had before it last changed, or the last known one of a file that is gone; None for one that never changed."""
        key = self._key(path)
        known = self._known.get(key)
        if known is not None and self.known(path) is None:
            return known.sha256
        return self._before.get(key)

    def forget(self) -> None:
        """Reads every file again when it is next asked for."""
        with self._lock:
            self._before |= {key: known.sha256 for key, known in self._known.items()}
            self._known = {}

    def _key(self, path: str) -> str:
        absolute = os.path.abspath(path)
        return absolute[len(self._root) :] if self._root and absolute.startswith(self._root) else absolute

    def _take(self, key: str, found: Known) -> None:
        former = self._known.get(key)
        if former is not None and former.sha256 != found.sha256:
            self._before[key] = former.sha256
        self._known[key] = found

    def _remember(self, key: str, found: Known) -> None:
        with self._lock:
            self._take(key, found)
            if self._memory is None:
                return
            line = json.dumps([key, found.size, found.modified_ns, found.changed_ns, found.sha256])
            try:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                opened = os.open(self._memory, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            except OSError:
                # A folder that cannot be written costs reading the file again another time.
                self._memory = None
                return
            try:
                # A line of a process that died may lack its end.
                os.write(opened, f"\n{line}\n".encode())
            except OSError:
                self._memory = None
            finally:
                os.close(opened)

    def _load(self) -> None:
        if self._memory is None:
            return
        try:
            with open(self._memory, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            return
        for line in lines:
            if not line:
                continue
            try:
                key, size, modified_ns, changed_ns, sha256 = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(key, str) and isinstance(sha256, str):
                self._take(key, Known(size, modified_ns, changed_ns, sha256))
