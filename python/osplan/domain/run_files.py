"""The files of a run that the trainer reads: who the run is and the stage it trains."""

import hashlib
import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.protocol import FORMAT_VERSION
from osplan.domain.stage import ADDED


def read_identity(run: Path) -> dict[str, Any]:
    """`run.json`, as `src/domain/protocol.ts` describes it.

    Raises UserError RUN_INVALID where it is missing, broken or of another format.
    """
    identity = _read(run / "run.json")
    if identity.get("formatVersion") != FORMAT_VERSION:
        raise UserError(
            "RUN_INVALID",
            f"{run / 'run.json'}: expected format {FORMAT_VERSION}, got {identity.get('formatVersion')}",
            "use the Stagewright version that made the run",
        )
    return identity


def read_stage(run: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """`stage.json`, the hash of its text, and the fields newer than the run, which have the value that does what was done before them."""
    stage = _read(run / "stage.json")
    content_hash = hashlib.sha256(json.dumps(stage, sort_keys=True).encode()).hexdigest()
    newer = _newer_fields(stage)
    for path, value in newer.items():
        *sections, name = path.split(".")
        reduce(lambda section, key: section[key], sections, stage)[name] = value
    return stage, content_hash, newer


def _newer_fields(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that a stored stage lacks because they came after it, with the value each takes; a section that is missing is none."""
    missing = {}
    for path, value in ADDED.items():
        *sections, name = path.split(".")
        section: Any = stage
        for key in sections:
            section = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and name not in section:
            missing[path] = value
    return missing


def read_replay(run: Path) -> dict[str, Any] | None:
    """`replay.json` of a run that repeats another: what was asked of it (`commands`), each with the first step that saw it and the number
    of roll-backs before it; None for any other run.
    """
    path = run / "replay.json"
    return _read(path) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UserError(
            "RUN_INVALID", f"{path}: expected a JSON file of a run, got {cause}", "start the run again with `stagewright train`"
        ) from cause
    if not isinstance(value, dict):
        raise UserError("RUN_INVALID", f"{path}: expected an object, got {type(value).__name__}")
    return value
