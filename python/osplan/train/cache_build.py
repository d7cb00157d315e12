"""Filling the caches of a stage before it trains: every view of every training clip encoded once, what is kept already passed over.

A build may be ended at any moment and started again: it goes on where it was.
"""

import fcntl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osplan.data.decoding import ClipError
from osplan.data.latents import LatentCache
from osplan.data.loading import ClipReader
from osplan.data.selection import Chosen, ChosenClips
from osplan.data.serial_threads import compute_alone
from osplan.data.tensor_store import TensorStore
from osplan.data.texts import all_texts, text_name
from osplan.data.views import View, cut_out, request_for, view_of_variant
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.parallel.world import join_world, leave_world
from osplan.train.assemble import stage_autoencoder
from osplan.train.autoencoder import clip_moments
from osplan.train.caches import check_writable, derived_folder, open_latents, open_texts
from osplan.train.clips import split
from osplan.train.supported import refuse_unsupported
from osplan.train.text import Texts

AHEAD = 4
"""Clips decoded ahead beyond one per worker."""
SAY_SECONDS = 0.5
Say = Callable[..., None]
"""An event and its fields, as JSON."""


class Quiet:
    """A port for the loading of weights, which needs no journal here."""

    def emit(self, event: str, **fields: Any) -> None:
        """Says nothing."""


@dataclass
class Filled:
    """What a build did with one cache."""

    folder: str
    wanted: int
    found: int = 0
    made: int = 0
    refused: list[str] = field(default_factory=list)
    """Kept entries that were not what had been written; made anew."""
    damaged: list[dict[str, str]] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0


def build_caches(stage: Stage, inputs: Mapping[str, Any], say: Say, *, verify: bool = False) -> dict[str, Any]:
    """Fills the caches a stage asks for and says what was done. With `verify` all that is kept is read and compared first, and every file.

    Raises UserError CACHE_OFF for a stage that keeps nothing, CACHE_BUSY beside another build, CACHE_WRITE where the disk is full, and
    CLIPS_DAMAGED above `data.maxSkippedShare`.
    """
    refuse_unsupported(stage)
    if stage.data.cache == "off" or stage.kind == "vae":
        raise UserError("CACHE_OFF", "data.cache: expected what to keep, got off", "pass --set data.cache=latents")
    if stage.memory.tf32:
        torch.set_float32_matmul_precision("high")
    training, _, _ = split(stage, inputs)
    world = join_world(stage.memory.device, stage.memory.threads)
    try:
        with _alone(derived_folder(inputs["data"], inputs.get("cache"))):
            latents = _fill_latents(stage, inputs, training, world.device, say, verify=verify)
            texts = _fill_texts(stage, inputs, training, world.device, say, verify=verify) if stage.data.cache != "latents" else None
            return {"formatVersion": 1, "latents": vars(latents), "text": texts and vars(texts)}
    finally:
        leave_world()


@contextmanager
def _alone(derived: Path) -> Iterator[None]:
    """Two builds at once would encode the same clips twice."""
    check_writable(derived)
    with open(derived / "cache.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise UserError("CACHE_BUSY", f"{derived}: expected no other build, got one that fills it now", "wait for it to end") from cause
        yield


def _fill_latents(
    stage: Stage, inputs: Mapping[str, Any], training: ChosenClips, device: torch.device, say: Say, *, verify: bool
) -> Filled:
    problems: list[str] = []
    latents = open_latents(stage, inputs, problems.append)
    assert latents is not None
    done = Filled(str(latents.store.folder), len(training) * stage.data.cache_variants)
    started = time.monotonic()
    try:
        if verify:
            latents.hashes.forget()
            _verify(latents.store, "latents", say)
        done.refused = list(problems)
        _make_missing(stage, inputs, training, latents, device, done, say)
    finally:
        latents.store.close()
    return _ended(done, latents.store, started)


def _fill_texts(stage: Stage, inputs: Mapping[str, Any], training: ChosenClips, device: torch.device, say: Say, *, verify: bool) -> Filled:
    problems: list[str] = []
    kept = open_texts(stage, inputs, device, problems.append)
    assert kept is not None
    wanted = list(all_texts(training, stage))
    done = Filled(str(kept.store.folder), len(wanted))
    started, said = time.monotonic(), 0.0
    try:
        if verify:
            _verify(kept.store, "text", say)
        done.refused = list(problems)
        texts = Texts(stage, device, kept)
        for text in wanted:
            is_kept = text_name(text) in kept.store
            done.found, done.made = done.found + is_kept, done.made + (not is_kept)
            if not is_kept:
                texts([text])
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                say("filling", kind="text", wanted=done.wanted, found=done.found, made=done.made, damaged=0)
            if kept.store.failure is not None:
                break
    finally:
        kept.store.close()
    return _ended(done, kept.store, started)


def _ended(done: Filled, store: TensorStore, started: float) -> Filled:
    if store.failure is not None:
        raise UserError(
            "CACHE_WRITE",
            f"{store.folder}: expected room for the cache, got {store.failure}",
            "free some space, or set data.cacheFolder, and run this again: it goes on where it was",
        )
    done.bytes, done.seconds = store.bytes_on_disk(), time.monotonic() - started
    return done


def _verify(store: TensorStore, kind: str, say: Say) -> None:
    said, right, read = 0.0, 0, 0
    for read, (_, is_whole) in enumerate(store.verify(), 1):
        right += is_whole
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say("verifying", kind=kind, read=read, right=right)
    say("verified", kind=kind, read=read, right=right)


def _make_missing(
    stage: Stage, inputs: Mapping[str, Any], training: ChosenClips, latents: LatentCache, device: torch.device, done: Filled, say: Say
) -> None:
    vae = None
    said = 0.0
    reader = ClipReader(training, stage)
    for path, found in _decoded_ahead(stage, training, reader, latents):
        if isinstance(found, ClipError):
            reader.skips.failed(path, found)
            done.damaged.append({"path": path, "problem": str(found)})
        else:
            reader.skips.succeeded()
        if isinstance(found, str):
            done.found += 1
        elif isinstance(found, tuple):
            name, pixels = found
            if name in latents.store:
                # Another view of the clip, read ahead beside this one, shows the same.
                done.found += 1
                continue
            vae = vae or stage_autoencoder(stage, inputs, device, Quiet())
            latents.keep(name, clip_moments(vae, pixels[None], stage.memory, device)[0])
            done.made += 1
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say("filling", kind="latents", wanted=done.wanted, found=done.found, made=done.made, damaged=len(done.damaged))
        if latents.store.failure is not None:
            return
    _judge_damaged(stage, done)


def _judge_damaged(stage: Stage, done: Filled) -> None:
    limit = stage.data.max_skipped_share
    if len(done.damaged) > limit * done.wanted:
        raise UserError(
            "CLIPS_DAMAGED",
            f"{len(done.damaged)} of {done.wanted} clips could not be decoded, limit {limit:.0%}; first: {done.damaged[0]['problem']}",
            "`stagewright data check --decode` names them all",
        )


Found = str | tuple[str, Tensor] | ClipError
"""A name that is kept already, or a name and the pixels to encode, or why there are none."""


def _decoded_ahead(stage: Stage, training: ChosenClips, reader: ClipReader, latents: LatentCache) -> Iterator[tuple[str, Found]]:
    """Every view of every clip, in order, decoded by the stage's workers while earlier ones are encoded."""

    def look(place: int, chosen: Chosen, view: View) -> Found:
        try:
            name = latents.name(request_for(chosen, stage, view.start, chosen.bucket[0], view.crop_at), view)
            if name in latents.store:
                return name
            return name, cut_out(reader.window(place, view.start, view.crop_at), view, stage.data.crop_size)
        except ClipError as cause:
            return cause

    waiting: deque[tuple[str, Future[Found]]] = deque()
    with ThreadPoolExecutor(max(1, stage.data.workers), "clips", compute_alone) as pool:
        try:
            for place in range(len(training)):
                chosen = training[place]
                for variant in range(stage.data.cache_variants):
                    waiting.append((chosen.entry.path, pool.submit(look, place, chosen, view_of_variant(chosen, stage, variant))))
                    if len(waiting) > AHEAD + stage.data.workers:
                        path, future = waiting.popleft()
                        yield path, future.result()
            while waiting:
                path, future = waiting.popleft()
                yield path, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
