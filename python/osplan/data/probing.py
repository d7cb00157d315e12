"""What clips say of themselves: size, frames and rate by their own header, captions by the text file beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av

from osplan.data.columns import IMAGE_ENDINGS

LIST_FILE = "merge_data.txt"
ANNOTATION = "annotation.json"


def probed_row(file: Path, root: Path) -> Mapping[str, Any] | None:
    """A row in upstream's format; None where the file cannot be opened."""
    caption = file.with_suffix(".txt")
    row: dict[str, Any] = {
        "path": str(file.relative_to(root)),
        "cap": caption.read_text(encoding="utf-8").strip() if caption.is_file() else None,
    }
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            row["resolution"] = {"height": stream.height, "width": stream.width}
            if file.suffix.lower() not in IMAGE_ENDINGS:
                row["fps"] = float(stream.average_rate or stream.guessed_rate or 24)
                row["num_frames"] = stream.frames or _estimated_frames(stream, row["fps"])
    except (av.FFmpegError, IndexError, OSError):
        return None
    return row


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
    rows = [(file, probed_row(file, folder)) for file in files]
    readable = [row for _, row in rows if row is not None]
    unreadable = [str(file) for file, row in rows if row is None]
    _replace(folder / ANNOTATION, json.dumps(readable, ensure_ascii=False, indent=1))
    _replace(folder / LIST_FILE, f".,{ANNOTATION}\n")
    return {
        "listFile": str(folder / LIST_FILE),
        "annotation": str(folder / ANNOTATION),
        "entries": len(readable),
        "withoutCaption": [row["path"] for row in readable if row["cap"] is None],
        "unreadable": unreadable,
    }


def _replace(path: Path, text: str) -> None:
    aside = path.with_suffix(f"{path.suffix}.tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
