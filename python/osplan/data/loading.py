"""Training clips as micro-batches: in the order of the epoch, cropped by seeds, decoded ahead, damaged ones skipped and counted.

Every choice of a clip (its window, its crop, its caption) comes from (seed, epoch, slot of the global order): it depends neither
on the number of workers or ranks nor on what was done before.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osplan.data.decoding import ClipError, covered, decode, fitted, frame_places
from osplan.data.order import ClipOrder
from osplan.data.selection import Chosen
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

KEPT_BYTES = 1 << 30
"""Decoded clips are kept in memory up to this size per rank: small data sets are decoded once."""
LEAST_READ = 100
"""Clips read before the share of damaged ones is judged."""
AHEAD = 4


@dataclass(frozen=True)
class Sample:
    """One clip ready to train on."""

    pixels_CTHW: Tensor
    caption: str
    place: int
    """A number that is the same whenever the pixels are the same."""
    path: str


@dataclass(frozen=True)
class Position:
    """Where in the order a run is."""

    epoch: int
    batch: int


class SkippedClips:
    """Damaged clips, by name, and the share that ends the run."""

    def __init__(self, limit: float) -> None:
        self.limit, self.read, self.skipped = limit, 0, []
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """Counts a clip that was read."""
        with self._lock:
            self.read += 1

    def failed(self, path: str, cause: Exception) -> None:
        """Counts a clip that was not.

        Raises UserError CLIPS_DAMAGED above the limit.
        """
        with self._lock:
            self.skipped.append(path)
            tried = self.read + len(self.skipped)
        if tried >= LEAST_READ and len(self.skipped) > self.limit * tried:
            raise UserError(
                "CLIPS_DAMAGED",
                f"{len(self.skipped)} of {tried} clips could not be decoded, limit {self.limit:.0%}; last: {cause}",
                "`stagewright data check --decode` names them all",
            ) from cause


class ClipReader:
    """Reads windows of clips, keeping what fits in memory."""

    def __init__(self, clips: Sequence[Chosen], stage: Stage) -> None:
        self.clips, self.stage = clips, stage
        self.skips = SkippedClips(stage.data.max_skipped_share)
        self._whole: dict[int, Tensor] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def window(self, place: int, start: int) -> Tensor:
        """A window of a clip from its `start`-th resampled frame on, in its bucket's size.

        Raises ClipError where the file cannot be read.
        """
        chosen = self.clips[place]
        frames = chosen.bucket[0]
        whole = self._whole.get(place)
        if whole is not None:
            return whole[:, start : start + frames]
        size = 3 * chosen.resampled * chosen.bucket[1] * chosen.bucket[2]
        if self._kept_bytes + size <= KEPT_BYTES and chosen.resampled <= 8 * frames:
            return self._keep(place, size)[:, start : start + frames]
        return self._fit(
            chosen, decode(chosen.entry, frame_places(chosen.entry, chosen.every, start, frames), self.stage.data.decode_timeout_seconds)
        )

    def _keep(self, place: int, size: int) -> Tensor:
        chosen = self.clips[place]
        places = frame_places(chosen.entry, chosen.every, 0, chosen.resampled)
        whole = self._fit(chosen, decode(chosen.entry, places, self.stage.data.decode_timeout_seconds))
        with self._lock:
            if place not in self._whole:
                self._whole[place] = whole
                self._kept_bytes += size
        return whole

    def _fit(self, chosen: Chosen, pixels_CTHW: Tensor) -> Tensor:
        _, height, width = chosen.bucket
        return fitted(pixels_CTHW, height, width) if self.stage.shape.fixed else covered(pixels_CTHW, height, width)


class TrainingLoader:
    """Micro-batches of one rank, without end or for the stage's epochs."""

    def __init__(
        self, reader: ClipReader, order: ClipOrder, stage: Stage, rank: int, ranks: int, report_skip: Callable[[str, int, int], None]
    ) -> None:
        self.reader, self.order, self.stage = reader, order, stage
        self.rank, self.ranks, self.report_skip = rank, ranks, report_skip
        self.position = Position(0, 0)
        self.micro = 0
        self._pool = ThreadPoolExecutor(max(1, stage.data.workers), thread_name_prefix="clips")
        self._ahead: deque[tuple[Position, int, list[Future[Sample]]]] = deque()

    def take(self) -> list[Sample]:
        """The next micro-batch.

        Raises StopIteration after the last epoch.
        """
        while len(self._ahead) < AHEAD and self._submit():
            pass
        if not self._ahead:
            raise StopIteration
        position, micro, futures = self._ahead.popleft()
        samples = [future.result() for future in futures]
        last = micro + 1 == self.stage.batch.accumulate
        self.position, self.micro = (self._after(position), 0) if last else (position, micro + 1)
        return samples

    def state(self) -> dict[str, Any]:
        """Position after the micro-batches taken so far, in whole global batches."""
        return {
            "epoch": self.position.epoch,
            "batch": self.position.batch,
            "globalBatch": self.order.global_batch,
            "skipped": list(self.reader.skips.skipped),
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
        self._ahead.clear()
        self.position, self.micro = Position(state["epoch"], state["batch"]), 0
        self.reader.skips.skipped = list(state["skipped"])

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
        self._ahead.append((position, micro, [self._pool.submit(self._sample, int(batch[slot]), position, slot, batch) for slot in slots]))
        return True

    def _sample(self, place: int, position: Position, slot: int, batch: np.ndarray) -> Sample:
        """One clip; a damaged one is replaced by the next of its batch that can be read."""
        slot_of_epoch = position.batch * self.order.global_batch + slot
        rng = np.random.default_rng([self.stage.data.seed & 0xFFFFFFFF, position.epoch, slot_of_epoch])
        for offset in range(len(batch)):
            candidate = place if offset == 0 else int(batch[(slot + offset) % len(batch)])
            try:
                sample = self._read(candidate, rng)
                self.reader.skips.succeeded()
                return sample
            except ClipError as cause:
                self.reader.skips.failed(self.reader.clips[candidate].entry.path, cause)
                self.report_skip(self.reader.clips[candidate].entry.path, len(self.reader.skips.skipped), self.reader.skips.read)
        raise UserError(
            "CLIPS_DAMAGED", f"expected one readable clip among {len(batch)}, got none", "`stagewright data check --decode` names them all"
        )

    def _read(self, place: int, rng: np.random.Generator) -> Sample:
        chosen, data = self.reader.clips[place], self.stage.data
        spare = chosen.resampled - chosen.bucket[0]
        variant = int(rng.integers(data.cache_variants)) if data.cache != "off" else None
        start = (
            _variant_start(variant, data.cache_variants, spare) if variant is not None else int(rng.integers(spare + 1)) if spare > 0 else 0
        )
        pixels = self.reader.window(place, start)
        if data.crop_size is not None:
            pixels = _vae_crop(pixels, data.crop_size, data.crop, rng)
        if data.flip and rng.random() < data.flip:
            pixels = pixels.flip(-1)
        captions = chosen.entry.captions
        caption = captions[int(rng.integers(len(captions)))] if captions else ""
        return Sample(pixels, caption, place * data.cache_variants + (variant or 0), chosen.entry.path)


def _variant_start(variant: int, variants: int, spare: int) -> int:
    return round(variant * max(0, spare) / max(1, variants - 1)) if variants > 1 else max(0, spare) // 2


def _vae_crop(pixels_CTHW: Tensor, side: int, crop: str, rng: np.random.Generator) -> Tensor:
    """A square of a clip: by halves a random one at full detail or the whole clip made small."""
    _, _, height, width = pixels_CTHW.shape
    if crop != "random" or rng.random() < 0.5 or min(height, width) < side:
        return fitted(pixels_CTHW, side, side)
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return pixels_CTHW[:, :, top : top + side, left : left + side]


def held_out_places(clips: Sequence[Chosen], count: int) -> list[int]:
    """The clips that are never trained on: those whose names hash lowest, so that adding clips moves few."""
    ranked = sorted(
        range(len(clips)), key=lambda place: hashlib.blake2b(clips[place].entry.path.rsplit("/", 1)[-1].encode(), digest_size=8).digest()
    )
    return sorted(ranked[:count])


def stacked(samples: Sequence[Sample]) -> Tensor:
    """Pixels of samples of one shape, (B, C, T, H, W)."""
    return torch.stack([sample.pixels_CTHW for sample in samples]).contiguous()
