"""What an annotation says of clips, read strictly: upstream's JSON, JSON lines and CSV tables, as columns.

An entry has `path`, `cap` (a string or several), `resolution` {height, width}, and for videos `num_frames` and `fps` (24 where it
is missing, as upstream); `aesthetic` (or `aes`), `cut` [start, end] and `crop` [x0, x1, y0, y1] are optional. `num_frames` counts
from the start of the cut. Paths are relative to their root and stay inside it: `..` may not lead out, and an absolute path must
lie under the root as written (write `/` as the root to allow any). Links inside the root are followed.
"""

import csv
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson

from osplan.domain.errors import UserError

VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif"})
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
DEFAULT_FPS = 24.0
NO_CAPTION, ONE_CAPTION, CAPTION_LIST = 0, 1, 2
CAPTION_KINDS = {type(None): NO_CAPTION, str: ONE_CAPTION, list: CAPTION_LIST}
ODD_IN_PATHS = ("..", "\0", "\n/")
"""In paths, one after each line end: what has to be looked at path by path."""
CHUNK_BYTES = 2 << 20
CHUNK_ROWS = 4096
BETWEEN_OBJECTS = re.compile(rb"\}(\s*,\s*)\{")
MAX_COUNT = 2**31 - 1
Raw = Mapping[str, Any]
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip or image as its annotation describes it. Nothing has been decoded."""

    path: str
    captions: tuple[str, ...]
    has_caption_list: bool
    """Whether the annotation gave a list of captions rather than one."""
    height: int
    width: int
    frames: int
    """From the start of the cut; 1 for an image."""
    fps: float
    aesthetic: float | None
    first_frame: int
    """Where the cut starts in the file."""
    crop: tuple[int, int, int, int] | None
    """Left, right, top, bottom in pixels."""


@dataclass(frozen=True)
class Columns:
    """Rows of an annotation by column. A missing number is 0, a missing crop is -1, a missing aesthetic score is NaN."""

    numbers: Mapping[str, np.ndarray]
    """`is_image`, `has_caption`, `frames`, `fps`, `height`, `width`, `aesthetic`, `first_frame`, `crop` [N, 4], `path_hash`."""
    paths: Sequence[bytes]
    captions: Sequence[bytes]
    """UTF-8; several captions of a row are parted by a zero byte."""


@dataclass(frozen=True)
class Place:
    """Where rows stand, to name them in an error."""

    file: Path
    first_row: int
    line_of: Any
    """Row within the chunk -> line number."""

    def refuse(self, row: int, field: str, expected: str, got: object) -> NoReturn:
        """Raises UserError DATA_INVALID with file, line, entry and field."""
        where = f"{self.file}:{self.line_of(row)} entry {self.first_row + row + 1}, {field}"
        raise UserError(
            "DATA_INVALID",
            f"{where}: expected {expected}, got {_shown(got)}",
            "correct the annotation; `stagewright data init FOLDER` writes one by measuring the files",
        )


def read_columns(file: Path, root: str) -> Iterator[Columns]:
    """Columns of an annotation, some thousand rows at a time.

    Raises UserError DATA_INVALID or DATA_PATH with file, line, field, what was expected and what was found.
    """
    if file.suffix == ".pkl":
        raise UserError(
            "DATA_INVALID", f"{file}: expected JSON, got a pickle, which could run code", "convert it to JSON once, where you trust it"
        )
    chunks = {".jsonl": _jsonl_chunks, ".csv": _csv_chunks}.get(file.suffix, _json_chunks)
    for place, rows in chunks(file):
        yield columns_of(rows, root, place)


def columns_of(rows: Sequence[Any], root: str, place: Place) -> Columns:
    """Rows as columns; one pass without checks of single values where all have the expected types, else value by value."""
    try:
        return _columns_at_once(rows, root)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return _columns_at_once([_checked(row, number, root, place) for number, row in enumerate(rows)], root)


def _columns_at_once(rows: Sequence[Any], root: str) -> Columns:
    count = len(rows)
    paths = [row["path"] for row in rows]
    if set(map(type, paths)) - {str} or not all(paths) or any(odd in "\n".join(["", *paths]) for odd in ODD_IN_PATHS):
        paths = [_inside(path, root) for path in paths]
    is_image = _are_images(paths)
    captions = _values(rows, "cap")
    has_caption = np.fromiter(map(CAPTION_KINDS.__getitem__, map(type, captions)), np.uint8, count)
    if np.any(has_caption == CAPTION_LIST):
        has_caption[[row for row, caption in enumerate(captions) if caption == []]] = NO_CAPTION
    sizes = [size or {} for size in _values(rows, "resolution")]
    frames = _whole_numbers(_values(rows, "num_frames"))
    encoded = [path.encode() for path in paths]
    numbers = {
        "is_image": is_image,
        "has_caption": has_caption,
        "frames": np.where(is_image, 1, frames).astype(np.int32),
        "fps": _numbers(_values(rows, "fps"), DEFAULT_FPS),
        "height": _whole_numbers(_values(sizes, "height")),
        "width": _whole_numbers(_values(sizes, "width")),
        "aesthetic": _numbers(_aesthetics(rows), math.nan),
        "first_frame": _first_frames(_values(rows, "cut")),
        "crop": _crops(_values(rows, "crop")),
        "path_hash": np.fromiter(map(zlib.crc32, encoded), np.uint32, count),
    }
    return Columns(numbers, encoded, _encoded_captions(captions))


def _are_images(paths: list[str]) -> np.ndarray:
    """Which paths are images; ValueError where one is neither an image nor a video. Most endings have four letters with the dot."""
    endings = [path[-4:] for path in paths]
    known = {ending: ending.lower() in IMAGE_ENDINGS for ending in set(endings)}
    if {ending.lower() for ending in known} - VIDEO_ENDINGS - IMAGE_ENDINGS:
        endings = [path[path.rfind(".") :].lower() for path in paths]
        known = {ending: ending in IMAGE_ENDINGS for ending in set(endings)}
        if known.keys() - VIDEO_ENDINGS - IMAGE_ENDINGS:
            raise ValueError("an ending that is neither a video's nor an image's")
    return np.fromiter(map(known.__getitem__, endings), np.bool_, len(paths))


def _values(rows: Sequence[Any], name: str, missing: Any = None) -> list[Any]:
    """A field of all rows; TypeError where one is no object."""
    return list(map(dict.get, rows, repeat(name), repeat(missing)))


def _aesthetics(rows: Sequence[Any]) -> list[Any]:
    values = _values(rows, "aesthetic", _MISSING)
    if type(_MISSING) not in set(map(type, values)):
        return values
    return [row.get("aes") if value is _MISSING else value for row, value in zip(rows, values, strict=True)]


def _first_frames(cuts: list[Any]) -> np.ndarray:
    return np.zeros(len(cuts), np.int32) if _all_missing(cuts) else _whole_numbers([_cut_start(cut) for cut in cuts])


def _all_missing(values: list[Any]) -> bool:
    return values.count(None) == len(values)


def _whole_numbers(values: list[Any]) -> np.ndarray:
    """Counts of at least 0, a missing one as 0; ValueError for anything else."""
    numbers = _numbers(values, 0.0)
    if numbers.size and (numbers.min() < 0 or numbers.max() > MAX_COUNT or np.any(numbers != np.floor(numbers))):
        raise ValueError("a count that is not a whole number of at least 0")
    return numbers.astype(np.int32)


def _numbers(values: list[Any], missing: float) -> np.ndarray:
    types = set(map(type, values))
    if type(None) in types:
        values = [missing if value is None else value for value in values]
    if types - {int, float, type(None)}:
        raise ValueError("a value that is not a number")
    return np.fromiter(values, np.float64, len(values))


def _cut_start(cut: Any) -> int:
    if cut is None:
        return 0
    if type(cut) is not list or len(cut) != 2 or not 0 <= cut[0] < cut[1]:
        raise ValueError("a cut that is not [start, end]")
    return cut[0]


def _crops(values: list[Any]) -> np.ndarray:
    crops = np.full((len(values), 4), -1, np.int32)
    if _all_missing(values):
        return crops
    for row, crop in enumerate(values):
        if crop is not None:
            if type(crop) is not list or len(crop) != 4 or not (0 <= crop[0] < crop[1] and 0 <= crop[2] < crop[3]):
                raise ValueError("a crop that is not [x0, x1, y0, y1]")
            crops[row] = _whole_numbers(crop)
    return crops


def _encoded_captions(captions: list[Any]) -> list[bytes]:
    if set(map(type, captions)) <= {str, type(None)} and "\0" not in "".join(filter(None, captions)):
        return [caption.encode() if caption else b"" for caption in captions]
    return [_caption_bytes(caption) for caption in captions]


def _caption_bytes(caption: Any) -> bytes:
    if caption is None:
        return b""
    texts = caption if type(caption) is list else [caption]
    if len(texts) == 1:
        return texts[0].encode().replace(b"\0", b" ")
    return b"\0".join(text.encode().replace(b"\0", b" ") for text in texts)


def _inside(path: Any, root: str) -> str:
    """A path relative to its root. Raises ValueError where it would leave it."""
    if type(path) is not str or not path or "\0" in path:
        raise ValueError("a path that is not a file name")
    if path[0] == "/":
        path = os.path.relpath(os.path.normpath(path), root)
    path = os.path.normpath(path)
    if path.split("/", 1)[0] in {"..", "."}:
        raise ValueError("a path that leaves its root")
    return path


def _checked(row: Any, number: int, root: str, place: Place) -> Raw:
    """A row whose every field is right.

    Raises UserError DATA_INVALID or DATA_PATH for the first that is not.
    """
    if not isinstance(row, dict):
        place.refuse(number, "the entry", "an object", row)
    path = row.get("path")
    try:
        _inside(path, root)
    except ValueError:
        if isinstance(path, str) and path:
            where = f"{place.file}:{place.line_of(number)} entry {place.first_row + number + 1}, path"
            raise UserError(
                "DATA_PATH", f"{where}: expected a file under {root}, got {path}", "paths may not leave the root of their line"
            ) from None
        place.refuse(number, "path", "a file name", path)
    assert isinstance(path, str)
    if os.path.splitext(path)[1].lower() not in VIDEO_ENDINGS | IMAGE_ENDINGS:
        place.refuse(number, "path", f"a video ({', '.join(sorted(VIDEO_ENDINGS))}) or an image ({', '.join(sorted(IMAGE_ENDINGS))})", path)
    caption = row.get("cap")
    if (
        caption is not None
        and not isinstance(caption, str)
        and not (isinstance(caption, list) and all(isinstance(text, str) for text in caption))
    ):
        place.refuse(number, "cap", "a caption or a list of captions", caption)
    if not isinstance(row.get("resolution"), dict | None):
        place.refuse(number, "resolution", "{height, width}", row["resolution"])
    _check_numbers(row, number, place)
    return row


def _check_numbers(row: Raw, number: int, place: Place) -> None:
    resolution = row.get("resolution") or {}
    whole = {
        "num_frames": row.get("num_frames"),
        "resolution.height": resolution.get("height"),
        "resolution.width": resolution.get("width"),
    }
    checks: list[tuple[str, Any, Any, str]] = [
        (name, [value], _whole_numbers, "a whole number of at least 0") for name, value in whole.items()
    ]
    checks += [(name, [row.get(name)], lambda values: _numbers(values, 0.0), "a number") for name in ("fps", "aesthetic", "aes")]
    checks += [("cut", row.get("cut"), lambda cut: _whole_numbers([_cut_start(cut)]), "[start, end] with start < end")]
    checks += [("crop", [row.get("crop")], _crops, "[x0, x1, y0, y1] with x0 < x1 and y0 < y1")]
    for name, value, check, expected in checks:
        try:
            check(value)
        except (TypeError, ValueError, OverflowError):
            place.refuse(number, name, expected, value[0] if name != "cut" and isinstance(value, list) else value)


def _shown(value: object) -> str:
    return "nothing" if value is None else (json.dumps(value, default=str)[:80])


Chunk = tuple[Place, Sequence[Any]]


def _json_chunks(file: Path) -> Iterator[Chunk]:
    """A JSON array piece by piece. A piece that parses by itself was cut between two of its entries: strings and brackets are closed."""
    with open(file, "rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            raise UserError("DATA_INVALID", f"{file}:1: expected a list of entries, got an empty file")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            head = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[").match(data)
            if head is None:
                raise UserError("DATA_INVALID", f"{file}:1: expected a list of entries, got {_head(data)}")
            at, row = head.end(), 0
            while at < len(data):
                entries, after = _piece(data, at, file)
                yield Place(file, row, _line_finder(data, at)), entries
                at, row = after, row + len(entries)


def _head(data: mmap.mmap) -> str:
    """The first characters of a file, fit to be printed."""
    return "".join(each if each.isprintable() else "·" for each in data[:40].decode(errors="replace"))


def _piece(data: mmap.mmap, at: int, file: Path) -> tuple[list[Any], int]:
    """Entries from `at` on, and where the next ones start."""
    search = at + CHUNK_BYTES
    while (cut := BETWEEN_OBJECTS.search(data, search)) is not None:
        try:
            return orjson.loads(b"[%b]" % data[at : cut.start() + 1]), cut.end() - 1
        except orjson.JSONDecodeError:
            search = cut.start() + 1
            if search - at > 16 * CHUNK_BYTES:
                break
    try:
        return orjson.loads(b"[%b" % data[at:]), len(data)
    except orjson.JSONDecodeError as cause:
        raise _broken(data, at, file) from cause


def _broken(data: mmap.mmap, at: int, file: Path) -> UserError:
    line = data[:at].count(b"\n")
    try:
        json.loads("[" + data[at:].decode(errors="replace"))
        found = "bytes that are not UTF-8 text or numbers JSON does not have"
    except RecursionError:
        found = "brackets nested hundreds deep"
    except ValueError as cause:
        found = str(cause)
        if isinstance(cause, json.JSONDecodeError):
            line, found = line + cause.lineno - 1, f"{cause.msg} at column {cause.colno}"
    return UserError("DATA_INVALID", f"{file}:{line + 1}: expected JSON, got {found}", "correct the annotation")


def _line_finder(data: mmap.mmap, at: int) -> Any:
    def line_of(row: int) -> int:
        text, decoder, place = data[at:].decode(errors="replace"), json.JSONDecoder(), 0
        for _ in range(row):
            place = _next_value(text, decoder.raw_decode(text, _next_value(text, place))[1])
        return data[:at].count(b"\n") + text.count("\n", 0, _next_value(text, place)) + 1

    return line_of


def _next_value(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _jsonl_chunks(file: Path) -> Iterator[Chunk]:
    first, lines, rows = 1, [], 0
    with open(file, "rb") as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                lines.append((number, line))
            if len(lines) == CHUNK_ROWS:
                yield _parsed_lines(file, rows, lines)
                first, rows, lines = number + 1, rows + CHUNK_ROWS, []
    if lines or first == 1:
        yield _parsed_lines(file, rows, lines)


def _parsed_lines(file: Path, first_row: int, lines: list[tuple[int, bytes]]) -> Chunk:
    numbers = [number for number, _ in lines]
    try:
        entries = [orjson.loads(line) for _, line in lines]
    except orjson.JSONDecodeError:
        for number, line in lines:
            try:
                orjson.loads(line)
            except orjson.JSONDecodeError as cause:
                raise UserError("DATA_INVALID", f"{file}:{number}: expected a JSON object, got {cause}", "one object a line") from cause
        raise
    return Place(file, first_row, numbers.__getitem__), entries


CSV_NUMBERS = ("num_frames", "fps", "aesthetic", "aes", "height", "width")


def _csv_chunks(file: Path) -> Iterator[Chunk]:
    """A table: `path`, `cap`, `num_frames`, `fps`, `height`, `width`, and optionally `aesthetic`, `cut`, `crop` as JSON."""
    with open(file, newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, strict=True)
        try:
            yield from _csv_rows(file, reader)
        except csv.Error as cause:
            raise UserError("DATA_INVALID", f"{file}:{reader.line_num + 1}: expected a table, got {cause}", "correct the table") from cause
        except UnicodeDecodeError as cause:
            raise not_text(file, "a table") from cause


def not_text(file: Path, expected: str) -> UserError:
    """What to say of a file that is not UTF-8, with the first line that is not."""
    with open(file, "rb") as opened:
        line = next((number for number, line in enumerate(opened, 1) if line != line.decode(errors="ignore").encode()), 1)
    return UserError("DATA_INVALID", f"{file}:{line}: expected {expected}, got bytes that are not UTF-8 text", "write it as UTF-8")


def _csv_rows(file: Path, reader: "csv.DictReader[str]") -> Iterator[Chunk]:
    if "path" not in (reader.fieldnames or ()):
        raise UserError("DATA_INVALID", f"{file}:1: expected a column `path`, got {', '.join(reader.fieldnames or ()) or 'none'}")
    rows: list[Any] = []
    lines: list[int] = []
    first = 0
    for row in reader:
        rows.append(_csv_row(row))
        lines.append(reader.line_num)
        if len(rows) == CHUNK_ROWS:
            yield Place(file, first, lines.__getitem__), rows
            first, rows, lines = first + len(rows), [], []
    yield Place(file, first, lines.__getitem__), rows


def _csv_row(row: Mapping[str, str | None]) -> Raw:
    parsed: dict[str, Any] = {"path": row.get("path"), "cap": row.get("cap") or row.get("caption") or row.get("text") or None}
    for name in (*CSV_NUMBERS, "cut", "crop"):
        value = row.get(name)
        if value:
            try:
                parsed[name] = json.loads(value)
            except ValueError:
                parsed[name] = value
    parsed["resolution"] = {"height": parsed.pop("height", None), "width": parsed.pop("width", None)}
    return parsed
