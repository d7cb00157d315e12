"""What clips say of themselves: size, frames and rate by their own header, captions by the text file beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av

from osplan.data.columns import IMAGE_ENDINGS
from osplan.domain.errors import UserError

LIST_FILE = "merge_data.txt"
ANNOTATION = "annotation.json"


def probed_row(file: Path, root: Path) -> Mapping[str, Any]:
    """A row in upstream's format, without `resolution` where the file has no header of a video or an image.

    Raises UserError DATA_INVALID where the caption beside it is not text.
    """
    row: dict[str, Any] = {
        "path": str(file.relative_to(root)),
        "cap": _caption(file.with_suffix(".txt")),
    }
    try:
        with av.open(str(file)) as container:
            return {**row, **_measured(container.streams.video[0], is_image=file.suffix.lower() in IMAGE_ENDINGS)}
    except (av.FFmpegError, IndexError, OSError):
        return row


def _measured(stream: av.VideoStream, *, is_image: bool) -> Mapping[str, Any]:
    size = {"resolution": {"height": stream.height, "width": stream.width}}
    if is_image:
        return size
    fps = float(stream.average_rate or stream.guessed_rate or 24)
    return {**size, "fps": fps, "num_frames": stream.frames or _estimated_frames(stream, fps)}


def _caption(file: Path) -> str | None:
    """What a text file says; None where it is missing or empty."""
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise UserError(
            "DATA_INVALID",
            f"{file}: expected a caption in UTF-8, got byte 0x{error.object[error.start]:02x} at {error.start}",
            "write it as UTF-8: `iconv -f latin1 -t utf-8 OLD > NEW` where it is Latin-1",
        ) from error


def _estimated_frames(stream: av.VideoStream, fps: float) -> int:
    """From the duration, for containers that do not count frames."""
    if stream.duration is not None and stream.time_base is not None:
        return round(float(stream.duration * stream.time_base) * fps)
    container = stream.container
    duration = getattr(container, "duration", None)
    return round(duration / av.time_base * fps) if duration else 0


def write_annotation(folder: Path, files: list[Path]) -> dict[str, Any]:
    """Measures clips and writes their annotation and list file into the folder; says what it found.

    Files that cannot be opened are named under `unreadable` and left out.
    """
    rows = [probed_row(file, folder) for file in files]
    readable = [row for row in rows if "resolution" in row]
    _replace(folder / ANNOTATION, json.dumps(readable, ensure_ascii=False, indent=1))
    _replace(folder / LIST_FILE, f".,{ANNOTATION}\n")
    return {
        "listFile": str(folder / LIST_FILE),
        "annotation": str(folder / ANNOTATION),
        "entries": len(readable),
        "withoutCaption": [row["path"] for row in readable if row["cap"] is None],
        "unreadable": [row["path"] for row in rows if "resolution" not in row],
    }


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(f"{path.suffix}.tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
