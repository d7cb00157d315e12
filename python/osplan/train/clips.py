"""The clips of a stage as its task and loop want them: training micro-batches, held-out batches, and what the plan says of both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from osplan.data.annotations import ClipIndex, open_index, read_entries
from osplan.data.check import bucket_table, steps_of
from osplan.data.decoding import ClipError
from osplan.data.joint_rows import checked_parts
from osplan.data.latents import latent_coverage
from osplan.data.loading import ClipReader, TrainingLoader
from osplan.data.order import order_of
from osplan.data.samples import Sample, stacked
from osplan.data.selection import Chosen, ChosenClips, Selection, choose, held_out_places
from osplan.data.tensor_store import LOOKED_AT
from osplan.data.texts import text_coverage
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.parallel.world import World
from osplan.train.caches import Caches, derived_folder
from osplan.train.task import Batch

MEASURED_TOGETHER = 8
NOTHING_KEPT = Caches()
WHOLE_CLIPS = 64
"""Training clips the latent statistics of an autoencoder are measured on."""


class TrainingClips:
    """Clips of one rank."""

    def __init__(
        self, loader: TrainingLoader, held_out: list[Batch], whole_clips: list[Batch], report: Mapping[str, Any], caches: Caches
    ) -> None:
        self.loader, self.held_out, self.whole_clips, self.report, self.caches = loader, held_out, whole_clips, report, caches

    def take(self) -> Batch:
        """The next micro-batch.

        Raises StopIteration after the last epoch.
        """
        return as_batch(self.loader.take())

    def state(self) -> dict[str, Any]:
        """Position after the steps taken so far."""
        return self.loader.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a position."""
        self.loader.restore(state)


def as_batch(samples: Sequence[Sample]) -> Batch:
    """Samples of one shape as a batch."""
    names = [sample.latent_name for sample in samples if sample.latent_name is not None]
    return Batch(
        stacked(samples),
        [sample.caption for sample in samples],
        [sample.place for sample in samples],
        [sample.path for sample in samples],
        names or None,
        [sample.moments_CTHW for sample in samples] if names else (),
        as_batch([image for sample in samples for image in sample.images]) if samples[0].images else None,
    )


def split(stage: Stage, inputs: Mapping[str, Any]) -> tuple[ChosenClips, ChosenClips, Selection]:
    """Training clips, held-out clips and what the rules dropped. `inputs` has `data` and `cache` as a run's identity has.

    Raises UserError DATA_MISSING, DATA_INVALID or DATA_EMPTY.
    """
    if inputs["data"] is None:
        raise UserError(
            "DATA_MISSING", "data.source: expected a folder or a list file, got none", "set data.source, or pass `--data FOLDER`"
        )
    selection = choose(_index(inputs), stage)
    clips, images = checked_parts(selection.chosen, stage)
    selection = replace(selection, chosen=clips, images=images)
    count = stage.data.held_out_clips
    if count and len(selection.chosen) <= count:
        raise UserError(
            "DATA_EMPTY",
            f"data.heldOutClips: expected fewer than the {len(selection.chosen)} clips there are, got {count}",
            f"set data.heldOutClips to {len(selection.chosen) // 6} or add clips",
        )
    held_out = np.array(held_out_places(selection.chosen, count, stage.data.seed), dtype=np.int64)
    training = np.setdiff1d(np.arange(len(selection.chosen)), held_out)
    return selection.chosen.take(training), selection.chosen.take(held_out), selection


def bucket_counts(stage: Stage, inputs: Mapping[str, Any]) -> dict[tuple[int, int, int], int]:
    """Training clips by their (frames, height, width).

    Raises those of `split`.
    """
    training, _, _ = split(stage, inputs)
    sizes, counts = np.unique(training.buckets, axis=0, return_counts=True)
    return {(frames, height, width): int(count) for (frames, height, width), count in zip(sizes.tolist(), counts, strict=True)}


def _index(inputs: Mapping[str, Any]) -> ClipIndex:
    """The index beside the clips, built by the first rank that asks and mapped by all; one in memory where nothing can be written."""
    source = Path(inputs["data"])
    try:
        return open_index(source, derived_folder(inputs["data"], inputs.get("cache")))
    except OSError:
        return read_entries(source)


def data_report(stage: Stage, training: ChosenClips, held_out: Sequence[Chosen], selection: Selection, global_batch: int) -> dict[str, Any]:
    """What the plan and the journal say: counts, steps per epoch, and where the stage ends and why."""
    steps = steps_of(training, global_batch, stage)
    return {
        "clips": len(training),
        "held_out": len(held_out),
        "dropped": dict(selection.dropped),
        "examples": selection.examples,
        "buckets": {f"{row['frames']}×{row['height']}×{row['width']}": row["clips"] for row in bucket_table(training, global_batch)},
        "joint_images": len(selection.images or ()),
        "steps_per_epoch": steps["stepsPerEpoch"],
        "ends_at": steps["endsAt"],
        "ends_because": steps["endsBecause"],
    }


def open_clips(stage: Stage, inputs: Mapping[str, Any], world: World, port: Any, caches: Caches = NOTHING_KEPT) -> TrainingClips:
    """The clips of a stage; those whose encodings are kept come with them.

    Raises UserError for sources that are missing, wrong or empty.
    """
    training, held_out, selection = split(stage, inputs)
    global_batch = stage.batch.per_device * stage.batch.accumulate * world.replicas
    report = data_report(stage, training, held_out, selection, global_batch)
    if world.is_first:
        _say_what_is_kept(stage, training, caches, port)
    reader = ClipReader(training, stage)
    order = order_of(training, global_batch, stage)

    def report_skip(path: str, total: int, read: int) -> None:
        port.emit("skippedClips", paths=[path], total=total, read=read)

    loader = TrainingLoader(reader, order, stage, world.replica, world.replicas, report_skip, caches.latents)
    if stage.data.images_per_clip > 0 and selection.images is not None:
        loader.with_images(selection.images)
    whole = _fixed_batches(ClipReader(training.take(np.arange(min(WHOLE_CLIPS, len(training)))), stage)) if stage.kind == "vae" else []
    return TrainingClips(loader, _fixed_batches(ClipReader(held_out, stage)), whole, report, caches)


def _say_what_is_kept(stage: Stage, training: ChosenClips, caches: Caches, port: Any) -> None:
    latents, texts = caches.latents, caches.texts
    if latents is not None:
        found = latent_coverage(latents, training, LOOKED_AT)
        port.emit("cache", kind="latents", folder=str(latents.store.folder), **found.as_json())
    if texts is not None:
        found = text_coverage(texts, training, stage, LOOKED_AT)
        port.emit("cache", kind="text", folder=str(texts.store.folder), **found.as_json())


def _fixed_batches(reader: ClipReader) -> list[Batch]:
    """Whole clips in fixed windows from their middle, in batches of one shape.

    Raises UserError CLIPS_DAMAGED for one that cannot be read: what is measured on must be the same in every attempt.
    """
    batches: list[Batch] = []
    waiting: list[Sample] = []
    for place, chosen in enumerate(reader.clips):
        try:
            window = reader.window(place, max(0, chosen.resampled - chosen.bucket[0]) // 2)
        except ClipError as cause:
            raise UserError("CLIPS_DAMAGED", f"held-out clips: expected a readable one, got {cause}", "mend or remove the file") from cause
        sample = Sample(window, chosen.entry.captions[0] if chosen.entry.captions else "", place, chosen.entry.path)
        if waiting and (len(waiting) == MEASURED_TOGETHER or waiting[0].pixels_CTHW.shape != window.shape):
            batches.append(as_batch(waiting))
            waiting = []
        waiting.append(sample)
    return [*batches, as_batch(waiting)] if waiting else batches
