"""The order of clips: drawn anew for each epoch from the seed, in global batches of one shape, the same for every number of ranks.

A position is (epoch, batch within it), so that a run goes on where it was with another world size, as long as the global batch
is the same. Every clip comes at least once an epoch: the last batch of a shape is filled up with clips of that shape, drawn again.
"""

from collections.abc import Sequence

import numpy as np

from osplan.data.selection import Bucket, ChosenClips, bucket_keys
from osplan.domain.stage import Stage


def order_of(clips: ChosenClips, global_batch: int, stage: Stage) -> "ClipOrder":
    """The order of a stage's clips: in batches of one shape, or all mixed where the stage does not group them."""
    return ClipOrder(clips.buckets if stage.data.group_by_shape else np.zeros((len(clips), 3)), global_batch, stage.data.seed)


class ClipOrder:
    """The global batches of every epoch."""

    def __init__(self, buckets: Sequence[Bucket] | np.ndarray, global_batch: int, seed: int) -> None:
        """`buckets[i]` is the shape of clip i: frames, height, width."""
        self.global_batch, self.seed = global_batch, seed
        shapes = np.asarray(buckets, dtype=np.int64).reshape(-1, 3)
        key = bucket_keys(shapes)
        by_shape = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[by_shape])) + 1
        self.members = [members for members in np.split(by_shape, starts) if len(members)]
        self.batches_per_epoch = sum(-(-len(members) // global_batch) for members in self.members)
        self._epoch = -1
        self._batches = np.empty((0, global_batch), dtype=np.int64)

    def batch(self, epoch: int, number: int) -> np.ndarray:
        """Clips of one global batch, int64 [global_batch]."""
        if epoch != self._epoch:
            self._batches, self._epoch = self._drawn(epoch), epoch
        return self._batches[number]

    def _drawn(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed & 0xFFFFFFFF, epoch])
        rows = []
        for members in self.members:
            shuffled = rng.permutation(members)
            missing = -len(shuffled) % self.global_batch
            filling = [rng.permutation(members) for _ in range(-(-missing // len(members)))]
            rows.append(np.concatenate([shuffled, *filling])[: len(shuffled) + missing].reshape(-1, self.global_batch))
        batches = np.concatenate(rows)
        return batches[rng.permutation(len(batches))]
