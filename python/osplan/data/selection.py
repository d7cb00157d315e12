"""Which clips a stage trains on and why the others are dropped: upstream's rules, each under its own setting.

Nothing is decoded: the rules see metadata alone.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from osplan.data.annotations import Entry
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

ASPECT_RANGE = (0.5, 2.0)
SAME_RATE = 0.1
"""Frame rates closer than this are not resampled."""

Bucket = tuple[int, int, int]
"""Frames, height and width shared by the clips of one batch."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A clip a stage can train on."""

    entry: Entry
    bucket: Bucket
    every: float
    """Frames of the file per frame of the clip."""
    resampled: int
    """Frames of the whole file after resampling; a clip is a window of `bucket[0]` of them."""


@dataclass
class Selection:
    """What the rules left, and what each took away."""

    chosen: list[Chosen] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, rule: str, entry: Entry) -> None:
        """Counts a dropped clip and keeps the first few by name."""
        self.dropped[rule] += 1
        self.examples.setdefault(rule, [])
        if len(self.examples[rule]) < 5:
            self.examples[rule].append(entry.path)


def choose(entries: Sequence[Entry], stage: Stage) -> Selection:
    """Applies every rule in upstream's order.

    Raises UserError DATA_EMPTY, with the rule that took most and the change that would keep them, where nothing is left.
    """
    selection = Selection()
    for entry in entries:
        verdict = _judge(entry, stage)
        if isinstance(verdict, str):
            selection.drop(verdict, entry)
        else:
            selection.chosen.append(verdict)
    _drop_small_buckets(selection, stage)
    if not selection.chosen:
        raise _empty(selection, len(entries), stage)
    return selection


def _judge(entry: Entry, stage: Stage) -> Chosen | str:
    if not entry.captions and stage.kind != "vae":
        return "no-caption"
    if entry.height == 0 or entry.width == 0:
        return "no-resolution"
    size = _size(entry, stage)
    if isinstance(size, str):
        return size
    if entry.frames == 1:
        return Chosen(entry, (1, *size), 1.0, 1)
    return _judge_length(entry, stage, size)


def _size(entry: Entry, stage: Stage) -> tuple[int, int] | str:
    height, width = (entry.crop[3] - entry.crop[2], entry.crop[1] - entry.crop[0]) if entry.crop else (entry.height, entry.width)
    aspect = height / width
    shape = stage.shape
    if shape.fixed:
        wanted = shape.height / shape.width
        return (shape.height, shape.width) if ASPECT_RANGE[0] * wanted <= aspect <= ASPECT_RANGE[1] * wanted else "aspect"
    largest = shape.max_pixels or shape.height * shape.width
    smallest = shape.min_pixels or largest // 4
    if height * width > largest:
        scale = math.sqrt(largest / (height * width))
        height, width = int(height * scale), int(width * scale)
    height, width = height // shape.multiple_of * shape.multiple_of, width // shape.multiple_of * shape.multiple_of
    if height * width < smallest or height == 0 or width == 0:
        return "too-few-pixels"
    return (height, width) if ASPECT_RANGE[0] <= height / width <= ASPECT_RANGE[1] else "aspect"


def _judge_length(entry: Entry, stage: Stage, size: tuple[int, int]) -> Chosen | str:
    wanted, data = stage.shape.frames, stage.data
    if entry.fps <= 0:
        return "no-frame-rate"
    first, last = entry.cut or (0, entry.frames)
    available = last - first
    if available > data.max_duration_ratio * wanted * entry.fps / data.fps * data.speed:
        return "too-long"
    every = (1.0 if abs(entry.fps - data.fps) < SAME_RATE else entry.fps / data.fps) * data.frame_stride * data.speed
    resampled = max(0, math.ceil(available / every))
    frames = min(resampled, wanted)
    if frames < wanted and data.drop_short >= 1:
        return "too-short"
    stride = stage.vae.stride[0]
    frames = (frames - 1) // stride * stride + 1 if frames else 0
    if frames < max(1, data.min_frames):
        return "under-min-frames"
    return Chosen(entry, (frames, *size), every, resampled)


def _drop_small_buckets(selection: Selection, stage: Stage) -> None:
    parallel = stage.parallel
    global_batch = stage.batch.per_device * stage.batch.accumulate * parallel.processes * parallel.nodes // parallel.sequence
    least = stage.data.min_bucket_batches * global_batch
    sizes = Counter(chosen.bucket for chosen in selection.chosen)
    kept = []
    for chosen in selection.chosen:
        if sizes[chosen.bucket] < least:
            selection.drop("small-bucket", chosen.entry)
        else:
            kept.append(chosen)
    selection.chosen = kept


RELAXED = {
    "no-caption": "add captions: a text file beside each clip, or `cap` in the annotation",
    "no-resolution": "add `resolution` to the annotation; `stagewright data init` measures it",
    "no-frame-rate": "add `fps` to the annotation; `stagewright data init` measures it",
    "aspect": "set shape.height and shape.width to the aspect of the clips",
    "too-few-pixels": "lower shape.minPixels",
    "too-long": "raise data.maxDurationRatio",
    "too-short": "lower shape.frames, or set data.dropShort below 1 to shorten clips",
    "under-min-frames": "lower data.minFrames",
    "small-bucket": "set data.minBucketBatches to 0",
}
"""The smallest change that keeps what a rule drops."""


def _empty(selection: Selection, total: int, stage: Stage) -> UserError:
    if not selection.dropped:
        return UserError("DATA_EMPTY", "data.source: expected clips, got none", "add clips, or run `stagewright data init FOLDER`")
    rule, count = selection.dropped.most_common(1)[0]
    counts = ", ".join(f"{name} {number}" for name, number in selection.dropped.most_common())
    return UserError(
        "DATA_EMPTY",
        f"data.source: expected at least one clip of {total}, got none after the rules ({counts})",
        f"{RELAXED[rule]}: that alone is about {count} clips",
    )
