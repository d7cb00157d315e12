"""Encodings of clips, kept under names made from content: the file's hash, the frames, the crop and the size.

What is kept are the moments of the posterior, not samples of it: training from them draws the noise it would draw without.
What encodes (weights, precision) is the store's folder, not the name. Shape letters: Z latent channels, T, H, W of the latent.
"""

import hashlib
import json
import time

from torch import Tensor

from osplan.data.decoding import ClipError
from osplan.data.file_hashes import FileHashes
from osplan.data.selection import Chosen, ChosenClips
from osplan.data.tensor_store import Coverage, TensorStore, evenly, lossless
from osplan.data.views import View, request_for, view_of_variant
from osplan.domain.stage import Stage

MOMENTS = "moments"


HASHING_SECONDS = 5.0
"""Time a plan may spend reading files it does not know yet."""


def latent_name(sha256: str, chosen: Chosen, stage: Stage, view: View) -> str:
    """The name of the encoding of one view of a clip whose file has this content."""
    wanted = request_for(chosen, stage, view.start, chosen.bucket[0], view.crop_at)
    square = None if stage.data.crop_size is None else [stage.data.crop_size, view.square]
    seen = [wanted.places, wanted.box, wanted.height, wanted.width, wanted.largest_area, wanted.crop_at, square, view.flipped]
    return hashlib.blake2b(json.dumps([sha256, *seen]).encode(), digest_size=16).hexdigest()


class LatentCache:
    """The kept encodings that one stage can use."""

    def __init__(self, store: TensorStore, hashes: FileHashes, stage: Stage, *, with_pixels: bool) -> None:
        """`with_pixels`: samples need their pixels even where the encoding is known."""
        self.store, self.hashes, self.stage, self.with_pixels = store, hashes, stage, with_pixels

    def name(self, chosen: Chosen, view: View) -> str:
        """What the encoding of a view is kept under.

        Raises ClipError where the file cannot be read.
        """
        path = chosen.entry.path
        try:
            sha256 = self.hashes.of(path)
        except OSError as cause:
            raise ClipError(f"{path}: expected a readable clip, got {cause}") from cause
        return latent_name(sha256, chosen, self.stage, view)

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
    variants = stage.data.cache_variants
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
        have = sum(latent_name(sha256, chosen, stage, view) in kept for view in views)
        found += have
        before = hashes.before(path)
        if have < variants and before not in (None, sha256) and any(latent_name(before, chosen, stage, view) in kept for view in views):
            stale.append(path)
    return Coverage(len(clips) * variants, len(places) * variants, found, unread, stale)


def _hash_until(hashes: FileHashes, path: str, ends_at: float) -> str | None:
    if time.monotonic() > ends_at:
        return None
    try:
        return hashes.of(path)
    except OSError:
        return None
