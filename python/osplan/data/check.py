"""What a stage will make of a data set, from its metadata alone: what every rule drops, the change that keeps it, the steps there are.

Nothing is decoded and torch is not imported; decode_check.py reads the clips themselves.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from osplan.data.annotations import ClipIndex, media_files, open_index, read_entries
from osplan.data.joint_rows import has_joint_images, parted
from osplan.data.order import order_of
from osplan.data.probing import write_annotation
from osplan.data.selection import (
    EXAMPLES,
    RELAXED,
    RULES,
    ChosenClips,
    Judged,
    Rules,
    area_fit,
    bucket_keys,
    duration_unit,
    held_out_places,
    judge,
)
from osplan.domain.errors import UserError
from osplan.domain.global_batch import clips_per_pass
from osplan.domain.stage import Stage


@dataclass(frozen=True)
class Change:
    """A value of one setting that keeps clips a rule drops."""

    setting: str
    field: str
    """Name of the setting in Rules."""
    value: float | bool


def check(source: str, stage: Stage, world: int, derived: Path | None = None) -> dict[str, Any]:
    """What a stage makes of a source at a number of ranks; every value is JSON.

    Raises UserError DATA_MISSING, DATA_INVALID or DATA_PATH. A data set that is emptied is reported (`empty`), not raised.
    """
    path = Path(source)
    index = open_index(path, derived) if derived is not None else read_entries(path)
    global_batch = clips_per_pass(stage) * stage.batch.accumulate * max(1, world // stage.parallel.sequence)
    rules = replace(Rules.of(stage), global_batch=global_batch)
    judged = judge(index.columns, rules)
    kept = np.flatnonzero(judged.rule == 0)
    clips, images = parted(ChosenClips(index, judged, kept), stage)
    held_out = held_out_places(clips, stage.data.held_out_clips, stage.data.seed) if len(clips) else []
    training = clips.take(np.setdiff1d(np.arange(len(clips)), np.array(held_out, np.int64), assume_unique=True))
    return {
        "formatVersion": 1,
        "source": str(path),
        "entries": len(index),
        "images": int(np.count_nonzero(index.columns["is_image"])),
        "kept": len(kept),
        "heldOut": len(held_out),
        "training": len(training),
        "jointImages": len(images),
        "empty": len(training) == 0 or (has_joint_images(stage) and not len(images)),
        "dropped": [_dropped(rule, index, judged, rules) for rule in range(1, len(RULES)) if np.any(judged.rule == rule)],
        "buckets": bucket_table(training, global_batch),
        "globalBatch": global_batch,
        **steps_of(training, global_batch, stage),
    }


def _dropped(rule: int, index: ClipIndex, judged: Judged, rules: Rules) -> dict[str, Any]:
    rows = np.flatnonzero(judged.rule == rule)
    return {
        "rule": RULES[rule],
        "clips": len(rows),
        "examples": [index.path(int(row)) for row in rows[:EXAMPLES]],
        "remedy": RELAXED[RULES[rule]],
        "change": _smallest_change(rule, rows, index, judged, rules),
    }


def _smallest_change(rule: int, rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> dict[str, Any] | None:
    """The change of one setting that keeps most of the dropped clips; of two that keep as many, the first. None where none keeps any."""
    best: dict[str, Any] | None = None
    before = int(np.count_nonzero(judged.rule == 0))
    for change in CHANGES.get(RULES[rule], _no_changes)(rows, index, judged, rules):
        after = judge(index.columns, replace(rules, **{change.field: change.value})).rule
        kept = int(np.count_nonzero(after[rows] == 0))
        if kept > (best["keeps"] if best else 0):
            now = getattr(rules, change.field)
            best = {
                "setting": change.setting,
                "from": now,
                "to": change.value,
                "keeps": kept,
                "keptInAll": int(np.count_nonzero(after == 0)),
                "keptBefore": before,
            }
    return best


Changes = Callable[[np.ndarray, ClipIndex, Judged, Rules], Sequence[Change]]


def _no_changes(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    return ()


def _under_multiple(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    smallest = int(np.minimum(*_fitted_sides(rows, index, rules)).min())
    return [Change("shape.multipleOf", "multiple_of", 1 << int(math.log2(smallest)))] if smallest >= 1 else []


def _too_few_pixels(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    areas = judged.height[rows].astype(np.int64) * judged.width[rows]
    return [Change("shape.minPixels", "min_pixels", int(areas.min()))]


def _aspect(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    if not rules.fixed:
        return ()
    middle = float(np.median(index.columns["height"][rows] / index.columns["width"][rows]))
    area = rules.height * rules.width
    height = max(rules.multiple_of, round(math.sqrt(area * middle) / rules.multiple_of) * rules.multiple_of)
    turned = [Change("shape.fixed", "fixed", False)]
    return [*turned, Change("shape.height", "height", height)]


def _too_long(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    ratios = index.columns["frames"][rows] / duration_unit(index.columns["fps"][rows], rules)
    # Rounded up to a readable value that still keeps the longest.
    return [Change("data.maxDurationRatio", "max_duration_ratio", math.ceil(float(ratios.max()) * 100) / 100)]


def _too_short(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    longest = int(judged.frames[rows].min())
    fewer = [Change("shape.frames", "frames", longest)] if longest >= 1 else []
    return [Change("data.dropShort", "drop_short", 0.0), *fewer]


def _under_min_frames(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    reachable = judged.frames[rows]
    reachable = reachable[reachable > 0]
    return [Change("data.minFrames", "min_frames", int(reachable.min()))] if reachable.size else []


def _small_bucket(rows: np.ndarray, index: ClipIndex, judged: Judged, rules: Rules) -> Sequence[Change]:
    _, sizes = np.unique(bucket_keys(judged.buckets(rows)), return_counts=True)
    return [Change("data.minBucketBatches", "min_bucket_batches", int(sizes.min()) // rules.global_batch)]


def _fitted_sides(rows: np.ndarray, index: ClipIndex, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    return area_fit(index.columns["height"][rows], index.columns["width"][rows], rules.largest_area)


CHANGES: Mapping[str, Changes] = {
    "under-multiple": _under_multiple,
    "too-few-pixels": _too_few_pixels,
    "aspect": _aspect,
    "too-long": _too_long,
    "too-short": _too_short,
    "under-min-frames": _under_min_frames,
    "small-bucket": _small_bucket,
}


def bucket_table(clips: ChosenClips, global_batch: int) -> list[dict[str, int]]:
    """Buckets by falling size; `repeated` clips fill up the last batch of each."""
    if not len(clips):
        return []
    buckets = clips.buckets
    _, firsts, sizes = np.unique(bucket_keys(buckets), return_index=True, return_counts=True)
    shapes = buckets[firsts]
    return [
        {
            "frames": int(shapes[place][0]),
            "height": int(shapes[place][1]),
            "width": int(shapes[place][2]),
            "clips": int(sizes[place]),
            "batches": -(-int(sizes[place]) // global_batch),
            "repeated": -int(sizes[place]) % global_batch,
        }
        for place in np.argsort(-sizes, kind="stable")
    ]


def steps_of(clips: ChosenClips, global_batch: int, stage: Stage) -> dict[str, Any]:
    """Steps per epoch, and where the stage ends and why."""
    if not len(clips):
        return {"stepsPerEpoch": 0, "endsAt": 0, "endsBecause": "there is no clip to train on"}
    per_epoch = order_of(clips, global_batch, stage).batches_per_epoch
    by_epochs = None if stage.epochs is None else stage.epochs * per_epoch
    if by_epochs is not None and by_epochs < stage.steps:
        because = f"{stage.epochs} epochs of {per_epoch} steps are over before {stage.steps} steps"
        return {"stepsPerEpoch": per_epoch, "endsAt": by_epochs, "endsBecause": because}
    because = f"steps is {stage.steps}, that is {stage.steps / per_epoch:.1f} epochs of {per_epoch} steps"
    return {"stepsPerEpoch": per_epoch, "endsAt": stage.steps, "endsBecause": because}


def write_list_of(folder: str) -> dict[str, Any]:
    """Writes upstream's annotation and list file for a folder of clips by measuring them.

    Raises UserError DATA_MISSING where there is no such folder, DATA_EMPTY where it has no clips.
    """
    path = Path(os.path.abspath(folder))
    if not path.is_dir():
        raise UserError(
            "DATA_MISSING",
            f"{path}: expected a folder of clips, got no folder",
            "name a folder with .mp4 files and .txt captions beside them",
        )
    return write_annotation(path, media_files(path))
