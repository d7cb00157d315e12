"""Training clips as micro-batches: in the order of the epoch, cropped by seeds, decoded ahead, damaged ones skipped and counted.

Every choice of a clip (its window, its crop, its caption) comes from (seed, epoch, slot of the global order): it depends neither
on the number of workers or ranks nor on what was done before.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from osplan.data.decoders import Decoders
from osplan.data.decoding import CENTRE, ClipError, Wanted
from osplan.data.joint_images import JointImages
from osplan.data.latents import LatentCache
from osplan.data.order import ClipOrder
from osplan.data.samples import Sample, SampleReader
from osplan.data.selection import Chosen, ChosenClips
from osplan.data.selection import held_out_places as held_out_places
from osplan.data.serial_threads import compute_alone
from osplan.data.views import CropAt, request_for
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

KEPT_BYTES = 1 << 30
"""Decoded clips are kept in memory up to this size per rank: small data sets are decoded once."""
KEPT_WINDOWS = 8
"""Clips of more windows than this are not kept whole."""
LEAST_READ = 100
"""Clips read before the share of damaged ones is judged."""
AHEAD = 4
"""Micro-batches decoded ahead, at least."""


@dataclass(frozen=True)
class Position:
    """Where in the order a run is."""

    epoch: int
    batch: int


class SkippedClips:
    """Damaged clips, by name, and the share that ends the run."""

    def __init__(self, limit: float) -> None:
        self.limit, self.read, self.failures = limit, 0, 0
        self.skipped: list[str] = []

    def succeeded(self) -> None:
        """Counts a clip that was read."""
        self.read += 1

    def failed(self, path: str, cause: Exception) -> bool:
        """Counts a clip that was not; says whether its name is new.

        Raises UserError CLIPS_DAMAGED above the limit.
        """
        self.failures += 1
        is_new = path not in self.skipped
        if is_new:
            self.skipped.append(path)
        tried = self.read + self.failures
        if tried >= LEAST_READ and self.failures > self.limit * tried:
            raise UserError(
                "CLIPS_DAMAGED",
                f"{self.failures} of {tried} clips could not be decoded, limit {self.limit:.0%}; last: {cause}",
                "`stagewright data check --decode` names them all",
            ) from cause
        return is_new

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"skipped": list(self.skipped), "failures": self.failures, "read": self.read}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self.skipped = list(state["skipped"])
        self.failures, self.read = state.get("failures", len(self.skipped)), state.get("read", 0)


class ClipReader:
    """Reads windows of clips, keeping what fits in memory. Windows may be asked for from many threads."""

    def __init__(self, clips: Sequence[Chosen], stage: Stage) -> None:
        self.clips, self.stage = clips, stage
        self.skips = SkippedClips(stage.data.max_skipped_share)
        self._decoders = Decoders(stage.data.workers, stage.data.decode_timeout_seconds)
        self._whole: dict[int, Tensor] = {}
        self._damaged: dict[int, ClipError] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def decode(self, wanted: Wanted) -> Tensor:
        """Pixels of a file, in the stage's worker processes; (C, T, H, W) uint8. Raises ClipError where it cannot be read."""
        return self._decoders.decode(wanted)

    def window(self, place: int, start: int, crop_at: CropAt = CENTRE) -> Tensor:
        """A window of a clip from its `start`-th resampled frame on, (C, T, H, W) uint8 in its bucket's size.

        Raises ClipError where the file cannot be read; a file that once could not is not tried again.
        """
        if place in self._damaged:
            raise self._damaged[place]
        try:
            return self._window(place, start, crop_at)
        except ClipError as cause:
            self._damaged[place] = cause
            raise

    def _window(self, place: int, start: int, crop_at: CropAt) -> Tensor:
        chosen = self.clips[place]
        frames = chosen.bucket[0]
        if crop_at not in (CENTRE, None):
            return self._decoders.decode(request_for(chosen, self.stage, start, frames, crop_at))
        whole = self._whole.get(place)
        if whole is None and chosen.resampled <= KEPT_WINDOWS * frames and self._reserve(chosen):
            whole = self._decoders.decode(request_for(chosen, self.stage, 0, chosen.resampled, crop_at))
            self._whole[place] = whole
        if whole is not None:
            return whole[:, start : start + frames]
        return self._decoders.decode(request_for(chosen, self.stage, start, frames, crop_at))

    def _reserve(self, chosen: Chosen) -> bool:
        size = 3 * chosen.resampled * chosen.bucket[1] * chosen.bucket[2]
        with self._lock:
            if self._kept_bytes + size > KEPT_BYTES:
                return False
            self._kept_bytes += size
            return True


@dataclass(frozen=True)
class Tried:
    """A clip of a batch, and the damaged ones it took the place of."""

    sample: Sample
    damaged: Sequence[tuple[str, ClipError]]


class TrainingLoader:
    """Micro-batches of one rank, without end or for the stage's epochs."""

    def __init__(
        self,
        reader: ClipReader,
        order: ClipOrder,
        stage: Stage,
        rank: int,
        ranks: int,
        report_skip: Callable[[str, int, int], None],
        latents: LatentCache | None = None,
    ) -> None:
        self.reader, self.order, self.stage = reader, order, stage
        self.samples = SampleReader(stage, latents)
        self.images: JointImages | None = None
        """Pictures that go along with each clip."""
        self.rank, self.ranks, self.report_skip = rank, ranks, report_skip
        self.position = Position(0, 0)
        self.micro = 0
        self._pool = ThreadPoolExecutor(max(1, stage.data.workers), "clips", compute_alone)
        self._wanted_ahead = max(AHEAD, -(-2 * stage.data.workers // stage.batch.per_device))
        self._ahead: deque[tuple[Position, int, list[Future[Tried]]]] = deque()

    def with_images(self, images: ChosenClips) -> None:
        """Gives each clip the stage's number of pictures."""
        self.images = JointImages(images, self.stage, self.samples, self.reader.decode, len(self.reader.clips))

    def take(self) -> list[Sample]:
        """The next micro-batch.

        Raises StopIteration after the last epoch.
        """
        while len(self._ahead) < self._wanted_ahead and self._submit():
            pass
        if not self._ahead:
            raise StopIteration
        position, micro, futures = self._ahead.popleft()
        samples = [self._counted(future.result()) for future in futures]
        last = micro + 1 == self.stage.batch.accumulate
        self.position, self.micro = (self._after(position), 0) if last else (position, micro + 1)
        return samples

    def finish_ahead(self) -> int:
        """Waits for what is being read ahead: so many micro-batches."""
        for _, _, futures in self._ahead:
            wait(futures)
        return len(self._ahead)

    def state(self) -> dict[str, Any]:
        """Position after the micro-batches taken so far, in whole global batches."""
        return {
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "globalBatch": self.order.global_batch,
            **self.reader.skips.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a position.

        Raises UserError GLOBAL_BATCH where batches had another size: the position would be another place.
        """
        if state["globalBatch"] != self.order.global_batch:
            raise UserError(
                "GLOBAL_BATCH",
                f"batch: expected a global batch of {state['globalBatch']} as in the checkpoint, got {self.order.global_batch}",
                "set batch.accumulate so that perDevice × accumulate × ranks is the same",
            )
        for _, _, futures in self._ahead:
            for future in futures:
                future.cancel()
        self._ahead.clear()
        self.position, self.micro = Position(state["epoch"], state["batch"]), 0
        self.reader.skips.restore(state)

    def _after(self, position: Position) -> Position:
        last = position.batch + 1 >= self.order.batches_per_epoch
        return Position(position.epoch + 1, 0) if last else Position(position.epoch, position.batch + 1)

    def _submit(self) -> bool:
        if self._ahead:
            position, micro, _ = self._ahead[-1]
            position, micro = (position, micro + 1) if micro + 1 < self.stage.batch.accumulate else (self._after(position), 0)
        else:
            position, micro = self.position, self.micro
        if self.stage.epochs is not None and position.epoch >= self.stage.epochs:
            return False
        batch = self.order.batch(position.epoch, position.batch)
        width = self.stage.batch.per_device
        first = (micro * self.ranks + self.rank) * width
        slots = range(first, first + width)
        self._ahead.append((position, micro, [self._pool.submit(self._sample, position, slot, batch) for slot in slots]))
        return True

    def _counted(self, tried: Tried) -> Sample:
        """Counts when clips are taken, not when they are decoded ahead, so that the counts belong to the position."""
        skips = self.reader.skips
        for path, cause in tried.damaged:
            if skips.failed(path, cause):
                self.report_skip(path, skips.failures, skips.read)
        skips.succeeded()
        return tried.sample

    def _sample(self, position: Position, slot: int, batch: np.ndarray) -> Tried:
        """One clip; a damaged one is replaced by the next of its batch that can be read, with draws of its own."""
        slot_of_epoch = position.batch * self.order.global_batch + slot
        damaged: list[tuple[str, ClipError]] = []
        for offset, candidate in enumerate(self._candidates(slot, batch)):
            rng = np.random.default_rng([self.stage.data.seed & 0xFFFFFFFF, position.epoch, slot_of_epoch, offset])
            try:
                sample, images = self._read(candidate, rng, position.epoch, slot_of_epoch)
                return Tried(sample, [*damaged, *images])
            except ClipError as cause:
                damaged.append((self.reader.clips[candidate].entry.path, cause))
        shape = "×".join(map(str, self.reader.clips[int(batch[slot])].bucket))
        raise UserError(
            "CLIPS_DAMAGED",
            f"expected one readable clip of {shape}, got {len(damaged)} damaged ones; first: {damaged[0][1]}",
            "`stagewright data check --decode` names them all",
        )

    def _candidates(self, slot: int, batch: np.ndarray) -> Iterator[int]:
        """The clip of a slot, then those of the same shape: first of its batch, then of the whole order. Each once."""
        seen: set[int] = set()
        members = next(members for members in self.order.members if batch[slot] in members)
        for candidate in chain(np.roll(batch, -slot), members):
            if int(candidate) not in seen:
                seen.add(int(candidate))
                yield int(candidate)

    def _read(self, place: int, rng: np.random.Generator, epoch: int, slot: int) -> tuple[Sample, list[tuple[str, ClipError]]]:
        chosen = self.reader.clips[place]
        sample = self.samples.read(chosen, place, rng, lambda _, view: self.reader.window(place, view.start, view.crop_at))
        if self.images is None:
            return sample, []
        images, damaged = self.images.beside(sample, chosen.bucket, epoch, slot)
        return replace(sample, images=images), damaged
