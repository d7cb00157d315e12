"""The index of a data set: its annotations as columns, built once, memory-mapped by every rank and worker.

A source is upstream's list file (a line is `root,annotation`), one annotation (`.json`, `.jsonl`, `.csv`), or a folder: with a
`merge_data.txt` in it, or of clips with a `.txt` caption beside each, which are measured once. Relative roots start at the list
file's folder; an annotation is looked for under its root, then beside the list file, then in the current folder.
The index is stored under the hash of what it was built from (size, times and head of each file), written aside and renamed.
"""

import fcntl
import gc
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from osplan.data.columns import (
    CAPTION_LIST,
    IMAGE_ENDINGS,
    NO_CAPTION,
    VIDEO_ENDINGS,
    Columns,
    Entry,
    Place,
    columns_of,
    not_text,
    read_columns,
)
from osplan.data.probing import probed_row
from osplan.domain.errors import UserError

FORMAT = 1
HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class SourceFile:
    """An annotation and the folder its paths start from; a folder of clips is its own root without an annotation."""

    root: Path
    annotation: Path | None


class ClipIndex(Sequence[Entry]):
    """The entries of a data set in the order of their annotations. Nothing but the asked rows is read from disk."""

    def __init__(self, roots: Sequence[str], columns: Mapping[str, np.ndarray], paths: np.ndarray, captions: np.ndarray) -> None:
        """`columns` as in annotations.Columns, with `root` and the [N + 1] offsets `path_at` and `caption_at` into the byte arrays."""
        self.roots, self.columns, self._paths, self._captions = roots, columns, paths, captions

    def __len__(self) -> int:
        return len(self.columns["frames"])

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        column = self.columns
        aesthetic, crop = float(column["aesthetic"][row]), column["crop"][row]
        return Entry(
            path=self.path(row),
            captions=self.captions(row),
            has_caption_list=bool(column["has_caption"][row] == CAPTION_LIST),
            height=int(column["height"][row]),
            width=int(column["width"][row]),
            frames=int(column["frames"][row]),
            fps=float(column["fps"][row]),
            aesthetic=None if np.isnan(aesthetic) else aesthetic,
            first_frame=int(column["first_frame"][row]),
            crop=None if crop[0] < 0 else (int(crop[0]), int(crop[1]), int(crop[2]), int(crop[3])),
        )

    def path(self, row: int) -> str:
        """Where the file of a row lies."""
        return os.path.join(self.roots[int(self.columns["root"][row])], self._slice(self._paths, "path_at", row).decode())

    def captions(self, row: int) -> tuple[str, ...]:
        """The captions of a row; empty where it has none."""
        if self.columns["has_caption"][row] == NO_CAPTION:
            return ()
        return tuple(self._slice(self._captions, "caption_at", row).decode().split("\0"))

    def _slice(self, buffer: np.ndarray, offsets: str, row: int) -> bytes:
        at = self.columns[offsets]
        return buffer[at[row] : at[row + 1]].tobytes()


def read_entries(source: Path) -> ClipIndex:
    """The index of a source in memory.

    Raises UserError DATA_MISSING, DATA_INVALID or DATA_PATH.
    """
    with tempfile.TemporaryFile() as captions:
        return _collect(_source_files(source), captions)


def open_index(source: Path, derived: Path) -> ClipIndex:
    """The index of a source, built under `derived` by the first who asks and memory-mapped by all.

    Raises UserError DATA_MISSING, DATA_INVALID or DATA_PATH.
    """
    files = _source_files(source)
    folder = derived / f"index-{_key(source, files)}"
    if not (folder / "index.json").is_file():
        derived.mkdir(parents=True, exist_ok=True)
        with open(derived / "index.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "index.json").is_file():
                _build(files, folder)
    return _opened(folder)


def _build(files: Sequence[SourceFile], folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".index-", dir=folder.parent))
    try:
        with open(aside / "captions.bin", "w+b") as captions:
            index = _collect(files, captions)
        index._paths.tofile(aside / "paths.bin")
        for name, column in index.columns.items():
            np.save(aside / f"{name}.npy", column)
        (aside / "index.json").write_text(json.dumps({"format": FORMAT, "roots": list(index.roots), "columns": sorted(index.columns)}))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _opened(folder: Path) -> ClipIndex:
    described = json.loads((folder / "index.json").read_text())
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in described["columns"]}
    return ClipIndex(described["roots"], columns, _mapped(folder / "paths.bin"), _mapped(folder / "captions.bin"))


def _mapped(file: Path) -> np.ndarray:
    return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)


def _collect(files: Sequence[SourceFile], captions: IO[bytes]) -> ClipIndex:
    """Reads every annotation; captions go to the file as they come, so that they need no memory."""
    with collection_paused():
        return _collect_chunks(files, captions)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Millions of short-lived dicts without cycles would have the collector look through everything imported, again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _collect_chunks(files: Sequence[SourceFile], captions: IO[bytes]) -> ClipIndex:
    parts: list[dict[str, np.ndarray]] = []
    paths: list[bytes] = []
    for number, file in enumerate(files):
        for chunk in _chunks(file):
            captions.write(b"".join(chunk.captions))
            paths.append(b"".join(chunk.paths))
            lengths = {"path_at": chunk.paths, "caption_at": chunk.captions}
            part = {name: np.fromiter(map(len, texts), np.int64, len(texts)) for name, texts in lengths.items()}
            parts.append({**chunk.numbers, **part, "root": np.full(len(chunk.paths), number, np.int32)})
    captions.flush()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    for name in ("path_at", "caption_at"):
        columns[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(columns[name])])
    size = os.fstat(captions.fileno()).st_size
    mapped = np.memmap(captions, np.uint8, "r") if size else np.empty(0, np.uint8)
    return ClipIndex([str(file.root) for file in files], columns, np.frombuffer(b"".join(paths), np.uint8), mapped)


def _chunks(file: SourceFile) -> Iterator[Columns]:
    if file.annotation is not None:
        return read_columns(file.annotation, str(file.root))
    rows = [probed_row(media, file.root) for media in media_files(file.root)]
    return iter([columns_of(rows, str(file.root), Place(file.root, 0, lambda row: row + 1))])


def media_files(folder: Path) -> list[Path]:
    """Videos and images in a folder and below, by name.

    Raises UserError DATA_EMPTY where there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS | IMAGE_ENDINGS and path.is_file())
    if not found:
        raise UserError(
            "DATA_EMPTY",
            f"{folder}: expected clips ({', '.join(sorted(VIDEO_ENDINGS))}) or images, got none",
            "put clips there, with captions in text files of the same names",
        )
    return found


def _source_files(source: Path) -> list[SourceFile]:
    source = Path(os.path.abspath(source))
    if source.is_dir():
        listed = source / "merge_data.txt"
        return _listed(listed) if listed.is_file() else [SourceFile(source, None)]
    if not source.is_file():
        raise UserError(
            "DATA_MISSING",
            f"data.source: expected a folder, a list file or an annotation, got {source}, which does not exist",
            "`stagewright data init FOLDER` writes one from a folder of clips",
        )
    return _listed(source) if source.suffix == ".txt" else [SourceFile(source.parent, source)]


def _listed(source: Path) -> list[SourceFile]:
    files = []
    for number, line in enumerate(_text_of(source).splitlines(), 1):
        if not line.strip():
            continue
        root, comma, annotation = (part.strip() for part in line.partition(","))
        if not comma or not annotation:
            raise UserError(
                "DATA_INVALID",
                f"{source}:{number}: expected `root,annotation.json`, got `{line.strip()[:80]}`",
                "one root and one annotation a line",
            )
        folder = Path(os.path.normpath(source.parent / root))
        candidates = [folder / annotation, source.parent / annotation, Path(os.path.abspath(annotation))]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise UserError(
                "DATA_MISSING",
                f"{source}:{number}: expected an annotation at {candidates[0]}, got no file",
                "it may lie under the root of its line or beside the list file",
            )
        files.append(SourceFile(folder, found))
    if not files:
        raise UserError("DATA_EMPTY", f"{source}: expected `root,annotation.json` lines, got none")
    return files


def _text_of(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as cause:
        raise not_text(source, "`root,annotation.json` lines") from cause


def _key(source: Path, files: Sequence[SourceFile]) -> str:
    digest = hashlib.blake2b(digest_size=10)
    digest.update(json.dumps([FORMAT, str(os.path.abspath(source))]).encode())
    for file in files:
        digest.update(str(file.root).encode() + b"\0")
        stamped = [file.annotation] if file.annotation else _clips_and_captions(file.root)
        for path in stamped:
            digest.update(_stamp(path, with_head=file.annotation is not None))
    return digest.hexdigest()


def _clips_and_captions(folder: Path) -> list[Path]:
    endings = VIDEO_ENDINGS | IMAGE_ENDINGS | {".txt"}
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings and path.is_file()]


def _stamp(path: Path, *, with_head: bool) -> bytes:
    facts = path.stat()
    stamp: list[Any] = [str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    if with_head:
        with open(path, "rb") as opened:
            stamp.append(hashlib.blake2b(opened.read(HEAD_BYTES), digest_size=8).hexdigest())
    return json.dumps(stamp).encode()
