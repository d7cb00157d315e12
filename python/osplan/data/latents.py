"""Encodings of clips, kept under names made from content: the file's hash, the frames, the crop and the size.

What is kept are the moments of the posterior, not samples of it: training from them draws the noise it would draw without.
What encodes (weights, precision) is the store's folder, not the name. Shape letters: Z latent channels, T, H, W of the latent.
"""

import hashlib
import json
import time

from torch import Tensor

from osplan.data.decoding import ClipError, Wanted
from osplan.data.file_hashes import FileHashes
from osplan.data.selection import ChosenClips
from osplan.data.tensor_store import Coverage, TensorStore, evenly, lossless
from osplan.data.views import View, request_for, view_of_variant
from osplan.domain.stage import Stage

MOMENTS = "moments"


HASHING_SECONDS = 5.0
"""Time a plan may spend reading files it does not know yet."""


def latent_name(sha256: str, wanted: Wanted, view: View, side: int | None) -> str:
    """The name of the encoding of one view of a file with this content; `side` is `data.cropSize`."""
    square = None if side is None else [side, view.square]
    seen = [wanted.places, wanted.box, wanted.height, wanted.width, wanted.largest_area, wanted.crop_at, square, view.flipped]
    return hashlib.blake2b(json.dumps([sha256, *seen]).encode(), digest_size=16).hexdigest()


class LatentCache:
    """The kept encodings that one stage can use."""

    def __init__(self, store: TensorStore, hashes: FileHashes, stage: Stage, *, with_pixels: bool) -> None:
        """`with_pixels`: samples need their pixels even where the encoding is known."""
        self.store, self.hashes, self.stage, self.with_pixels = store, hashes, stage, with_pixels

    def name(self, wanted: Wanted, view: View) -> str:
        """What the encoding of a view is kept under.

        Raises ClipError where the file cannot be read.
        """
        try:
            sha256 = self.hashes.of(wanted.path)
        except OSError as cause:
            raise ClipError(f"{wanted.path}: expected a readable clip, got {cause}") from cause
        return latent_name(sha256, wanted, view, self.stage.data.crop_size)

    def find(self, name: str) -> Tensor | None:
        """Moments (2Z, T, H, W) as float32, or None."""
        parts = self.store.get(name)
        return None if parts is None else parts[MOMENTS].float()

    def keep(self, name: str, moments_CTHW: Tensor) -> None:
        """Keeps moments (2Z, T, H, W)."""
        self.store.put(name, {MOMENTS: lossless(moments_CTHW.cpu())})


def latent_coverage(cache: LatentCache, clips: ChosenClips, limit: int, seconds: float = HASHING_SECONDS) -> Coverage:
    """How many views of clips are kept. At most `limit` clips are looked at, and files read for `seconds`."""
    stage, hashes, kept = cache.stage, cache.hashes, cache.store.names()
    variants, side = stage.data.cache_variants, stage.data.crop_size
    places = evenly(len(clips), limit)
    found = unread = 0
    stale: list[str] = []
    ends_at = time.monotonic() + seconds
    for place in places:
        chosen = clips[int(place)]
        path = chosen.entry.path
        sha256 = hashes.known(path) or _hash_until(hashes, path, ends_at)
        if sha256 is None:
            unread += variants
            continue
        views = [view_of_variant(chosen, stage, variant) for variant in range(variants)]
        asked = [(request_for(chosen, stage, view.start, chosen.bucket[0], view.crop_at), view) for view in views]
        have = sum(latent_name(sha256, wanted, view, side) in kept for wanted, view in asked)
        found += have
        before = hashes.before(path)
        if before is None or before == sha256 or have == variants:
            continue
        if any(latent_name(before, wanted, view, side) in kept for wanted, view in asked):
            stale.append(path)
    return Coverage(len(clips) * variants, len(places) * variants, found, unread, stale)


def _hash_until(hashes: FileHashes, path: str, ends_at: float) -> str | None:
    if time.monotonic() > ends_at:
        return None
    try:
        return hashes.of(path)
    except OSError:
        return None
