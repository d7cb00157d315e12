"""Tensors kept on disk under names that say what they were made from: a cache that many processes may fill and read at once.

    FOLDER/
        cache.json                  what every entry was made with; a folder is for one way of making them
        NUMBER.safetensors          some entries, and a hash of each in the header; written aside, flushed, renamed, never changed
        .writing-*                  a shard somebody writes now, or was killed over

A shard is whole or not there: a kill costs what had not reached one. Several processes may hold the same entry; names are made from
content, so all copies say the same. Each entry is compared with its hash when it is read: what differs is refused by name and
counts as missing; a copy written later takes its place.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from osplan.domain.errors import UserError

FORMAT = 1
DESCRIPTION = "cache.json"
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 20.0
"""A shard is written when its entries have this size, or its first entry this age."""
ABANDONED_SECONDS = 60.0
"""Shards being written that are older, and that nobody holds, were left by a process that died."""
HEADER_LIMIT = 100 << 20
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "U8": torch.uint8}

Parts = Mapping[str, Tensor]
"""The tensors of one entry by name."""


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    type: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    shard: str
    digest: str
    parts: tuple[_Part, ...]


def described_folder(derived: Path, kind: str, description: Mapping[str, Any]) -> Path:
    """Where the entries made in one way lie."""
    text = json.dumps({"format": FORMAT, "kind": kind, **description}, sort_keys=True)
    return derived / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


class TensorStore:
    """The entries of one folder. Reading and writing may be done from many threads."""

    def __init__(self, folder: Path, description: Mapping[str, Any], report: Callable[[str], None] = lambda problem: None) -> None:
        """`report` hears of entries and shards that are refused, and of shards that could not be written.

        Nothing is made on disk before the first entry. Raises UserError CACHE_FOREIGN where the folder says it holds something else.
        """
        self.folder, self.description, self.report = folder, dict(description), report
        self.failure: str | None = None
        """Why entries are no longer written."""
        self._entries: dict[str, _Entry] = {}
        self._pending: dict[str, dict[str, Tensor]] = {}
        self._writing: dict[str, dict[str, Tensor]] = {}
        self._pending_bytes, self._pending_since = 0, 0.0
        self._seen: set[str] = set()
        self._stamp = -1
        self._lock = threading.RLock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._writes: list[Future[None]] = []
        self._check_description()
        self._refresh()

    def __contains__(self, name: str) -> bool:
        with self._lock:
            if name in self._pending or name in self._writing or name in self._entries:
                return True
            self._refresh()
            return name in self._entries

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries.keys() | self._pending.keys() | self._writing.keys())

    def names(self) -> set[str]:
        """Of every entry that is on disk or on its way."""
        with self._lock:
            self._refresh()
            return set(self._entries) | set(self._pending) | set(self._writing)

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None where there is none, or none that can be trusted."""
        with self._lock:
            waiting = self._pending.get(name) or self._writing.get(name)
            if waiting is not None:
                return dict(waiting)
            entry = self._entries.get(name)
            if entry is None:
                self._refresh()
                entry = self._entries.get(name)
        return None if entry is None else self._read(name, entry)

    def put(self, name: str, parts: Parts) -> None:
        """Keeps the tensors of an entry; they reach the disk with others, at the latest when the store is closed."""
        kept = {part: tensor.detach().to("cpu", copy=True).contiguous() for part, tensor in parts.items()}
        with self._lock:
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending[name] = kept
            self._pending_bytes += sum(tensor.nbytes for tensor in kept.values())
            is_old = time.monotonic() - self._pending_since > SHARD_SECONDS
            if self._pending_bytes >= SHARD_BYTES or is_old:
                self._submit()

    def flush(self) -> None:
        """Returns once every entry put so far is on disk, or `failure` says why not."""
        with self._lock:
            self._submit()
            writes, self._writes = self._writes, []
        for write in writes:
            write.result()

    def close(self) -> None:
        """Writes what is left."""
        self.flush()
        self._writer.shutdown()

    def verify(self) -> Iterator[tuple[str, bool]]:
        """Reads every entry on disk: its name and whether it is what was written."""
        with self._lock:
            self._refresh()
            entries = dict(self._entries)
        for name, entry in entries.items():
            yield name, self._read(name, entry) is not None

    def bytes_on_disk(self) -> int:
        """Of all shards."""
        return sum(path.stat().st_size for path in self.folder.glob("[!.]*.safetensors")) if self.folder.is_dir() else 0

    # --- reading --------------------------------------------------------------------------------------------------

    def _check_description(self) -> None:
        file = self.folder / DESCRIPTION
        try:
            found = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return
        except ValueError:
            found = None
        if found != self._described():
            raise UserError(
                "CACHE_FOREIGN",
                f"{file}: expected what the entries were made with, as this stage makes them, got something else",
                "remove the folder; it is filled again",
            )

    def _described(self) -> dict[str, Any]:
        return json.loads(json.dumps({"format": FORMAT, **self.description}))

    def _refresh(self) -> None:
        """Takes note of shards that are new."""
        try:
            stamp = self.folder.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            shards = sorted(name for name in os.listdir(self.folder) if name.endswith(".safetensors") and not name.startswith("."))
        except OSError:
            return
        # A shard of the same clock tick would leave the stamp as it is: only an old one is trusted.
        self._stamp = stamp if time.time_ns() - stamp > 1_000_000_000 else -1
        for shard in shards:
            if shard not in self._seen:
                self._seen.add(shard)
                self._take_note(shard)

    def _take_note(self, shard: str) -> None:
        try:
            self._entries |= _entries_of(self.folder / shard)
        except (OSError, ValueError, KeyError, TypeError) as cause:
            self.report(f"{self.folder / shard}: expected a whole shard of the cache, got {cause}; its entries are not used")

    def _read(self, name: str, entry: _Entry) -> dict[str, Tensor] | None:
        parts: dict[str, Tensor] = {}
        found = "no file"
        with contextlib.suppress(OSError):
            with open(self.folder / entry.shard, "rb") as file:
                for part in entry.parts:
                    file.seek(part.start)
                    content = bytearray(file.read(part.size))
                    if len(content) == part.size:
                        flat = torch.frombuffer(content, dtype=part.type) if content else torch.empty(0, dtype=part.type)
                        parts[part.name] = flat.reshape(part.shape)
            found = "other bytes" if len(parts) == len(entry.parts) else "too few bytes"
        if len(parts) == len(entry.parts) and digest_of(parts) == entry.digest:
            return parts
        with self._lock:
            if self._entries.get(name) is entry:
                del self._entries[name]
        self.report(f"{self.folder / entry.shard}, entry {name}: expected the bytes that were written, got {found}; it is not used")
        return None

    # --- writing --------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        if not self._pending:
            return
        entries, self._pending, self._pending_bytes = self._pending, {}, 0
        self._writing |= entries
        self._writes = [write for write in self._writes if not write.done()]
        self._writes.append(self._writer.submit(self._write, entries))

    def _write(self, entries: dict[str, dict[str, Tensor]]) -> None:
        shard = f"{time.time_ns():020d}-{secrets.token_hex(4)}.safetensors"
        try:
            if self.failure is None:
                self._make_folder()
                _write_shard(self.folder, shard, entries)
        except OSError as cause:
            self.failure = str(cause)
            self.report(f"{self.folder}: expected room for the cache, got {cause}; nothing more is written to it")
        with self._lock:
            if self.failure is None and shard not in self._seen:
                self._seen.add(shard)
                self._take_note(shard)
            for name, parts in entries.items():
                if self._writing.get(name) is parts:
                    del self._writing[name]

    def _make_folder(self) -> None:
        if not (self.folder / DESCRIPTION).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f".{DESCRIPTION}.{secrets.token_hex(4)}"
            aside.write_text(json.dumps(self._described(), indent=1, sort_keys=True))
            os.replace(aside, self.folder / DESCRIPTION)
        remove_abandoned(self.folder)


@dataclass(frozen=True)
class Coverage:
    """How much of what a stage wants is kept."""

    wanted: int
    """Entries the whole stage wants."""
    looked_at: int
    """Entries this is about."""
    found: int
    unread: int
    """Entries nothing is known of: their files are new and were not read for want of time."""
    stale: Sequence[str]
    """Files that have changed since their kept entries were made; those entries are not used."""

    def as_json(self) -> dict[str, Any]:
        """For the plan and the journal."""
        return {"wanted": self.wanted, "lookedAt": self.looked_at, "found": self.found, "unread": self.unread, "stale": list(self.stale)}


LOOKED_AT = 10_000
"""Clips of a larger data set are looked at in even steps, so that a plan stays quick."""


def evenly(count: int, limit: int) -> np.ndarray:
    """At most `limit` places of `count`, evenly spread, int64."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64)) if count else np.empty(0, np.int64)


def digest_of(parts: Parts) -> str:
    """Over names, types, shapes and bytes of an entry's tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(parts):
        tensor = parts[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def lossless(tensor: Tensor) -> Tensor:
    """The tensor in half the bytes where its numbers are those of bfloat16, as they come out of networks that run in it."""
    if tensor.dtype != torch.float32:
        return tensor
    small = tensor.to(torch.bfloat16)
    return small if torch.equal(small.float(), tensor) else tensor


def remove_abandoned(folder: Path) -> None:
    """Removes shards whose writers died: writers hold a lock on what they write."""
    for path in folder.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < ABANDONED_SECONDS:
                continue
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _write_shard(folder: Path, shard: str, entries: Mapping[str, Parts]) -> None:
    tensors = {f"{name}/{part}": tensor for name, parts in entries.items() for part, tensor in parts.items()}
    digests = {name: digest_of(parts) for name, parts in entries.items()}
    content = save(tensors, {"format": str(FORMAT), "digests": json.dumps(digests)})
    aside = folder / f".writing-{shard}"
    with open(aside, "xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.rename(aside, folder / shard)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _entries_of(shard: Path) -> dict[str, _Entry]:
    """The entries of a shard by its header. Raises ValueError, KeyError or TypeError for one that is not whole."""
    with open(shard, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(HEADER_LIMIT, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
    about = header.pop("__metadata__")
    if about["format"] != str(FORMAT):
        raise ValueError(f"format {about['format']}")
    parts: dict[str, list[_Part]] = {}
    for full, facts in header.items():
        name, _, part = full.partition("/")
        start, end = facts["data_offsets"]
        if not 0 <= start <= end <= size - 8 - length:
            raise ValueError(f"a file of {size} bytes that ends before entry {name}")
        parts.setdefault(name, []).append(_Part(part, TYPES[facts["dtype"]], tuple(facts["shape"]), 8 + length + start, end - start))
    digests = json.loads(about["digests"])
    return {name: _Entry(shard.name, digests[name], tuple(found)) for name, found in parts.items()}
