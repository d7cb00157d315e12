"""Where clips come from: upstream's list files and annotations, or a folder of clips beside their captions.

A list file has one `root,annotation.json` a line. An annotation is a list of entries with `path`, `cap` (a string or several),
`resolution` {height, width}, and for videos `num_frames` and `fps`; `cut` [start, end] and `crop` [x0, x1, y0, y1] are optional.
Paths are relative to their root and may not leave it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from osplan.domain.errors import UserError

VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip or image as its annotation describes it. Nothing has been decoded."""

    path: str
    captions: tuple[str, ...]
    height: int
    width: int
    frames: int
    """1 for an image."""
    fps: float
    aesthetic: float | None
    cut: tuple[int, int] | None
    crop: tuple[int, int, int, int] | None
    """Left, right, top, bottom in pixels."""


def read_entries(source: Path) -> list[Entry]:
    """Every entry of a source: a folder, a list file, an annotation, or a table (`.csv`, `.jsonl`) with the same fields.

    Raises UserError DATA_MISSING where there is no such file, DATA_INVALID with file, line and field where one is wrong.
    """
    if source.is_dir():
        listed = source / "merge_data.txt"
        return read_entries(listed) if listed.is_file() else list(_folder(source))
    if not source.is_file():
        raise UserError(
            "DATA_MISSING",
            f"data.source: expected a folder or a list file, got {source}, which does not exist",
            "`stagewright data init FOLDER` writes one from a folder of clips",
        )
    if source.suffix == ".txt":
        return [entry for root, annotation in _listed(source) for entry in _annotated(annotation, root)]
    return list(_annotated(source, source.parent))


def _listed(source: Path) -> Iterator[tuple[Path, Path]]:
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        root, comma, annotation = line.strip().partition(",")
        if not comma:
            raise UserError("DATA_INVALID", f"{source}:{number}: expected `root,annotation.json`, got `{line.strip()[:80]}`")
        folder = source.parent / root.strip()
        path = folder / annotation.strip()
        if not path.is_file():
            beside = source.parent / annotation.strip()
            if not beside.is_file():
                raise UserError(
                    "DATA_MISSING",
                    f"{source}:{number}: expected an annotation at {path}, got no file",
                    "the annotation lies under the root of its line",
                )
            path = beside
        yield folder, path


def _annotated(path: Path, root: Path) -> Iterator[Entry]:
    if path.suffix == ".pkl":
        raise UserError(
            "DATA_INVALID", f"{path}: expected JSON, got a pickle, which could run code", "convert it to JSON once, where you trust it"
        )
    for number, raw in enumerate(_rows(path), 1):
        yield _entry(raw, root, f"{path}, entry {number}")


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        elif path.suffix == ".csv":
            yield from _csv_rows(path)
        else:
            rows = json.loads(path.read_bytes())
            if not isinstance(rows, list):
                raise UserError("DATA_INVALID", f"{path}: expected a list of entries, got {type(rows).__name__}")
            yield from rows
    except ValueError as cause:
        raise UserError("DATA_INVALID", f"{path}: expected JSON, got {cause}") from cause


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = {key: json.loads(row[key]) for key in ("num_frames", "fps", "aesthetic") if row.get(key)}
            resolution = {"height": int(row["height"]), "width": int(row["width"])} if row.get("height") and row.get("width") else None
            yield {
                "path": row.get("path"),
                "cap": row.get("cap") or row.get("caption"),
                **numbers,
                **({"resolution": resolution} if resolution else {}),
            }


def _entry(raw: Any, root: Path, where: str) -> Entry:
    if not isinstance(raw, Mapping):
        raise UserError("DATA_INVALID", f"{where}: expected an object, got {type(raw).__name__}")
    path = raw.get("path")
    if not isinstance(path, str) or not path:
        raise UserError("DATA_INVALID", f"{where}, path: expected a file name, got {path!r}")
    file = _inside(root, path, where)
    caption = raw.get("cap")
    captions = tuple(text for text in (caption if isinstance(caption, list) else [caption]) if isinstance(text, str))
    resolution = raw.get("resolution") or {}
    is_image = file.suffix.lower() in IMAGE_ENDINGS
    return Entry(
        path=str(file),
        captions=captions,
        height=int(_number(resolution, "height", where, 0)),
        width=int(_number(resolution, "width", where, 0)),
        frames=1 if is_image else int(_number(raw, "num_frames", where, 0)),
        fps=_number(raw, "fps", where, 24.0),
        aesthetic=raw.get("aesthetic", raw.get("aes")),
        cut=_numbers(raw, "cut", 2, where),
        crop=_numbers(raw, "crop", 4, where),
    )


def _inside(root: Path, path: str, where: str) -> Path:
    file = Path(path) if Path(path).is_absolute() else root / path
    if not Path(path).is_absolute() and not file.resolve().is_relative_to(root.resolve()):
        raise UserError("DATA_INVALID", f"{where}, path: expected a file under {root}, got {path}", "paths may not leave their root")
    return file


def _number(raw: Mapping[str, Any], key: str, where: str, default: float) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise UserError("DATA_INVALID", f"{where}, {key}: expected a number of at least 0, got {value!r}")
    return float(value)


def _numbers(raw: Mapping[str, Any], key: str, count: int, where: str) -> Any:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count or not all(isinstance(entry, int | float) for entry in value):
        raise UserError("DATA_INVALID", f"{where}, {key}: expected {count} numbers, got {value!r}")
    return tuple(int(entry) for entry in value)


def _folder(folder: Path) -> Iterator[Entry]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS | IMAGE_ENDINGS)
    if not files:
        raise UserError("DATA_EMPTY", f"{folder}: expected clips ({', '.join(sorted(VIDEO_ENDINGS))}) or images, got none")
    for file in files:
        probed = probe(file)
        if probed is not None:
            yield probed


def probe(file: Path) -> Entry | None:
    """What a file's own header says, with the caption of the text file beside it; None where it cannot be opened."""
    caption = file.with_suffix(".txt")
    texts = (caption.read_text(encoding="utf-8").strip(),) if caption.is_file() else ()
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 24)
            frames = stream.frames or (
                round(float(stream.duration * stream.time_base) * rate) if stream.duration and stream.time_base else 0
            )
            is_image = file.suffix.lower() in IMAGE_ENDINGS
            return Entry(str(file), texts, stream.height, stream.width, 1 if is_image else frames, rate, None, None, None)
    except (av.FFmpegError, IndexError, OSError):
        return None


def as_annotation(entry: Entry, root: Path) -> dict[str, Any]:
    """An entry in upstream's format."""
    body: dict[str, Any] = {
        "path": str(Path(entry.path).relative_to(root)),
        "cap": list(entry.captions),
        "resolution": {"height": entry.height, "width": entry.width},
    }
    if entry.frames > 1:
        body |= {"num_frames": entry.frames, "fps": entry.fps}
    return body
