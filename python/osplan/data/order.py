"""The order of clips: drawn anew for each epoch from the seed, in global batches of one shape, the same for every number of ranks.

A position is (epoch, batch within it), so that a run goes on where it was with another world size, as long as the global
batch is the same.
"""

from collections.abc import Sequence

import numpy as np

from osplan.data.selection import Bucket


class ClipOrder:
    """The global batches of every epoch."""

    def __init__(self, buckets: Sequence[Bucket], global_batch: int, seed: int) -> None:
        """`buckets[i]` is the shape of clip i."""
        self.global_batch, self.seed = global_batch, seed
        shapes: dict[Bucket, list[int]] = {}
        for place, bucket in enumerate(buckets):
            shapes.setdefault(bucket, []).append(place)
        self.members = [np.array(shapes[bucket], dtype=np.int64) for bucket in sorted(shapes)]
        self.batches_per_epoch = sum(-(-len(members) // global_batch) for members in self.members)
        self._epoch = -1
        self._batches = np.empty((0, global_batch), dtype=np.int64)

    def batch(self, epoch: int, number: int) -> np.ndarray:
        """Clips of one global batch. Every clip comes once an epoch; the last batch of a shape is filled up with clips of that shape."""
        if epoch != self._epoch:
            self._batches, self._epoch = self._drawn(epoch), epoch
        return self._batches[number]

    def _drawn(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed & 0xFFFFFFFF, epoch])
        rows = []
        for members in self.members:
            shuffled = rng.permutation(members)
            missing = -len(shuffled) % self.global_batch
            filling = np.concatenate([rng.permutation(members) for _ in range(-(-missing // len(members)))]) if missing else shuffled[:0]
            rows.append(np.concatenate([shuffled, filling[:missing]]).reshape(-1, self.global_batch))
        return rng.permutation(np.concatenate(rows), axis=0)
