"""Which clips a stage trains on and why the others are dropped: upstream's rules in upstream's order, each under its own setting.

Nothing is decoded: the rules see the columns of the index alone, all rows at once.
Source: the data rules of Open-Sora-Plan v1.3.1; `min_frames` and `min_bucket_batches` are 29 and 4 there, not settings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from osplan.data.annotations import ClipIndex
from osplan.data.columns import NO_CAPTION, Entry
from osplan.domain.errors import UserError
from osplan.domain.global_batch import global_batch
from osplan.domain.stage import Stage

ASPECT_RANGE = (0.5, 2.0)
SAME_RATE = 0.1
"""Frame rates closer than this are not resampled."""
EXAMPLES = 5

Bucket = tuple[int, int, int]
"""Frames, height and width shared by the clips of one batch."""

KEPT = "kept"
RULES = (
    KEPT,
    "no-caption",
    "no-resolution",
    "under-multiple",
    "too-few-pixels",
    "aspect",
    "no-frame-count",
    "no-frame-rate",
    "too-long",
    "too-short",
    "under-min-frames",
    "small-bucket",
)
"""In the order they are asked; a clip is dropped by the first that refuses it."""
RELAXED = {
    "no-caption": "add captions: a text file beside each clip, or `cap` in the annotation",
    "no-resolution": "replace a file that no player opens; add `resolution` to an annotation, `stagewright data init` measures it",
    "under-multiple": "lower shape.multipleOf",
    "too-few-pixels": "lower shape.minPixels",
    "aspect": "set shape.height and shape.width to the aspect of the clips",
    "no-frame-count": "add `num_frames` to the annotation; `stagewright data init` measures it",
    "no-frame-rate": "correct `fps` in the annotation; `stagewright data init` measures it",
    "too-long": "raise data.maxDurationRatio",
    "too-short": "lower shape.frames, or set data.dropShort below 1 to shorten clips",
    "under-min-frames": "lower data.minFrames",
    "small-bucket": "set data.minBucketBatches to 0",
}
"""What keeps the clips a rule drops."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings that decide over clips."""

    needs_captions: bool
    frames: int
    height: int
    width: int
    fixed: bool
    max_pixels: int | None
    min_pixels: int | None
    multiple_of: int
    fps: float
    speed: float
    frame_stride: int
    drop_short: float
    min_frames: int
    max_duration_ratio: float
    min_bucket_batches: int
    time_stride: int
    """Pixel frames per latent frame."""
    sequence: int
    """Ranks that share a clip: latent frames are a multiple of it."""
    global_batch: int
    seed: int
    joint_images: bool = False
    """Images go along with clips: they make no batches of their own."""

    @classmethod
    def of(cls, stage: Stage) -> "Rules":
        """The rules of a stage; the global batch is that of the stage's own number of ranks."""
        shape, data = stage.shape, stage.data
        return cls(
            needs_captions=stage.kind != "vae",
            frames=shape.frames,
            height=shape.height,
            width=shape.width,
            fixed=shape.fixed,
            max_pixels=shape.max_pixels,
            min_pixels=shape.min_pixels,
            multiple_of=shape.multiple_of,
            fps=data.fps,
            speed=data.speed,
            frame_stride=data.frame_stride,
            drop_short=data.drop_short,
            min_frames=data.min_frames,
            max_duration_ratio=data.max_duration_ratio,
            min_bucket_batches=data.min_bucket_batches,
            time_stride=stage.vae.stride[0],
            # Upstream shortens clips to latents that its ranks share evenly; ours share any number of tokens.
            sequence=1,
            global_batch=global_batch(stage),
            seed=data.seed,
            joint_images=data.images_per_clip > 0 and not data.images_from_clips,
        )

    @property
    def largest_area(self) -> int:
        """Largest area of a frame when the shape is not fixed."""
        return self.max_pixels or self.height * self.width

    @property
    def smallest_area(self) -> int:
        """Smallest area of a frame when the shape is not fixed."""
        return self.largest_area // 4 if self.min_pixels is None else self.min_pixels


@dataclass(frozen=True)
class Judged:
    """What the rules say of every row of an index."""

    rule: np.ndarray
    """Place in RULES of the rule that drops the row; 0 where it is kept. uint8 [N]."""
    frames: np.ndarray
    """Frames of the clip, int32 [N]; meaningful where the rules came so far."""
    height: np.ndarray
    width: np.ndarray
    every: np.ndarray
    """Frames of the file per frame of the clip, float64 [N]."""
    resampled: np.ndarray
    """Frames of the whole cut after resampling, int32 [N]."""

    def buckets(self, rows: np.ndarray) -> np.ndarray:
        """Frames, height, width of some rows, int32 [N, 3]."""
        return np.stack([self.frames[rows], self.height[rows], self.width[rows]], axis=1)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A clip a stage can train on."""

    entry: Entry
    bucket: Bucket
    every: float
    """Frames of the file per frame of the clip."""
    resampled: int
    """Frames of the whole cut after resampling; a clip is a window of `bucket[0]` of them."""


class ChosenClips(Sequence[Chosen]):
    """The rows of an index that a stage trains on; entries are read when they are asked for."""

    def __init__(self, entries: ClipIndex, judged: Judged, rows: np.ndarray) -> None:
        self.entries, self.judged, self.rows = entries, judged, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Chosen: ...
    @overload
    def __getitem__(self, place: slice) -> "ChosenClips": ...
    def __getitem__(self, place: int | slice) -> "Chosen | ChosenClips":
        if isinstance(place, slice):
            return ChosenClips(self.entries, self.judged, self.rows[place])
        row, judged = int(self.rows[place]), self.judged
        bucket = (int(judged.frames[row]), int(judged.height[row]), int(judged.width[row]))
        return Chosen(self.entries[row], bucket, float(judged.every[row]), int(judged.resampled[row]))

    @property
    def buckets(self) -> np.ndarray:
        """Frames, height, width of each, int32 [N, 3]."""
        return self.judged.buckets(self.rows)

    def take(self, places: np.ndarray) -> "ChosenClips":
        """Some of the clips."""
        return ChosenClips(self.entries, self.judged, self.rows[places])


@dataclass(frozen=True)
class Selection:
    """What the rules left, and what each took away."""

    chosen: ChosenClips
    dropped: Counter[str]
    examples: Mapping[str, list[str]]
    """The first few dropped clips of each rule."""
    images: ChosenClips | None = None
    """Pictures that go along with the clips, where a stage wants some."""


def choose(index: ClipIndex, stage: Stage) -> Selection:
    """Applies every rule of a stage.

    Raises UserError DATA_EMPTY, with the rule that took most and the change that would keep them, where nothing is left.
    """
    return select(index, Rules.of(stage))


def select(index: ClipIndex, rules: Rules) -> Selection:
    """Applies every rule; DATA_EMPTY as in `choose`."""
    judged = judge(index.columns, rules)
    counts = np.bincount(judged.rule, minlength=len(RULES))
    dropped = Counter({RULES[place]: int(count) for place, count in enumerate(counts) if place and count})
    if not counts[0]:
        raise empty_error(dropped, len(index))
    examples = {rule: [index.path(int(row)) for row in np.flatnonzero(judged.rule == RULES.index(rule))[:EXAMPLES]] for rule in dropped}
    return Selection(ChosenClips(index, judged, np.flatnonzero(judged.rule == 0)), dropped, examples)


def judge(columns: Mapping[str, np.ndarray], rules: Rules) -> Judged:
    """Every rule on every row of an index's columns."""
    count = len(columns["frames"])
    rule = np.zeros(count, np.uint8)

    def refuse(name: str, where: np.ndarray) -> None:
        rule[(rule == 0) & where] = RULES.index(name)

    is_video = ~columns["is_image"]
    file_height, file_width = _cropped_size(columns)
    height, width = _size(file_height, file_width, rules)
    if rules.needs_captions:
        refuse("no-caption", columns["has_caption"] == NO_CAPTION)
    refuse("no-resolution", (file_height <= 0) | (file_width <= 0))
    if not rules.fixed:
        refuse("under-multiple", (height <= 0) | (width <= 0))
        refuse("too-few-pixels", height.astype(np.int64) * width < rules.smallest_area)
    refuse("aspect", ~_fits_aspect(file_height, file_width, height, width, rules))
    fps, available = columns["fps"], columns["frames"]
    refuse("no-frame-count", is_video & (available <= 0))
    refuse("no-frame-rate", is_video & ~((fps > 0) & np.isfinite(fps)))
    refuse("too-long", is_video & (available > rules.max_duration_ratio * duration_unit(fps, rules)))
    every, resampled = _resampled(columns, rules)
    refuse("too-short", is_video & (resampled < rules.frames) & (chance(columns, rules.seed) < rules.drop_short))
    frames = np.where(is_video, whole_latents(np.minimum(resampled, rules.frames), rules), 1).astype(np.int32)
    refuse("under-min-frames", is_video & (frames < max(1, rules.min_frames)))
    judged = Judged(rule, frames, height, width, np.where(is_video, every, 1.0), np.where(is_video, resampled, 1).astype(np.int32))
    least = rules.min_bucket_batches * rules.global_batch
    if least > 0:
        kept = np.flatnonzero((rule == 0) & (is_video | (not rules.joint_images)))
        _, places, sizes = np.unique(bucket_keys(judged.buckets(kept)), return_inverse=True, return_counts=True)
        rule[kept[sizes[places] < least]] = RULES.index("small-bucket")
    return judged


def bucket_keys(buckets: np.ndarray) -> np.ndarray:
    """One number per bucket that sorts as frames, height, width do: far faster to sort than three. int64 [N]; sides under 2^20."""
    wide = buckets.astype(np.int64, copy=False)
    return wide[:, 0] << 40 | wide[:, 1] << 20 | wide[:, 2]


def _cropped_size(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    crop = columns["crop"]
    is_cropped = crop[:, 0] >= 0
    return np.where(is_cropped, crop[:, 3] - crop[:, 2], columns["height"]), np.where(is_cropped, crop[:, 1] - crop[:, 0], columns["width"])


def _size(file_height: np.ndarray, file_width: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    if rules.fixed:
        return np.full(len(file_height), rules.height, np.int32), np.full(len(file_width), rules.width, np.int32)
    height, width = area_fit(file_height, file_width, rules.largest_area)
    return height // rules.multiple_of * rules.multiple_of, width // rules.multiple_of * rules.multiple_of


def area_fit(height: np.ndarray, width: np.ndarray, largest_area: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes scaled down to an area where they are larger, each side floored; int32."""
    area = height.astype(np.float64) * width
    with np.errstate(divide="ignore"):
        scale = np.where(area > largest_area, np.sqrt(largest_area / area), 1.0)
    return (height * scale).astype(np.int32), (width * scale).astype(np.int32)


def _fits_aspect(file_height: np.ndarray, file_width: np.ndarray, height: np.ndarray, width: np.ndarray, rules: Rules) -> np.ndarray:
    wanted = rules.height / rules.width if rules.fixed else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = file_height / file_width if rules.fixed else height / width
    return (aspect >= ASPECT_RANGE[0] * wanted) & (aspect <= ASPECT_RANGE[1] * wanted)


def duration_unit(fps: np.ndarray, rules: Rules) -> np.ndarray:
    """Frames of the file that a clip of the wanted length spans: what data.maxDurationRatio is a multiple of."""
    return rules.frames * fps / rules.fps * rules.speed


def _resampled(columns: Mapping[str, np.ndarray], rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the file per frame of the clip, and how many frames the cut then has."""
    fps = np.where(columns["fps"] > 0, columns["fps"], rules.fps)
    every = np.where(np.abs(fps - rules.fps) < SAME_RATE, 1.0, fps / rules.fps) * rules.frame_stride * rules.speed
    return every, np.ceil(columns["frames"] / every).astype(np.int32)


def whole_latents(frames: np.ndarray, rules: Rules) -> np.ndarray:
    """The most frames of at most these that make whole latent frames, a multiple of the ranks sharing a clip; 0 where none do."""
    latents = np.where(frames > 0, (frames - 1) // rules.time_stride + 1, 0) // rules.sequence * rules.sequence
    return np.where(latents > 0, (latents - 1) * rules.time_stride + 1, 0)


def chance(columns: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    """A number in [0, 1) per row that depends on its path, its cut and the seed alone. float64 [N]."""
    mixed = columns["path_hash"].astype(np.uint64) | columns["first_frame"].astype(np.uint64) << np.uint64(32)
    mixed = mixed + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
    return (mixed ^ mixed >> np.uint64(31)) / 2.0**64


def held_out_places(clips: ChosenClips, count: int, seed: int = 0) -> list[int]:
    """The clips that are never trained on: those with the lowest chance by path and seed, so that adding clips moves few."""
    row_chance = chance(clips.entries.columns, seed)[clips.rows]
    return sorted(int(place) for place in np.argsort(row_chance, kind="stable")[:count])


def empty_error(dropped: Counter[str], total: int) -> UserError:
    """DATA_EMPTY, naming the rule that took most and the change that keeps its clips."""
    if not dropped:
        return UserError("DATA_EMPTY", "data.source: expected clips, got none", "add clips, or run `stagewright data init FOLDER`")
    rule, count = dropped.most_common(1)[0]
    counts = ", ".join(f"{name} {number}" for name, number in dropped.most_common())
    return UserError(
        "DATA_EMPTY",
        f"data.source: expected at least one clip of {total}, got none after the rules ({counts})",
        f"{RELAXED[rule]}: that alone is about {count} clips",
    )
