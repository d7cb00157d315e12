from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from osplan.data.order import ClipOrder, order_of

BUCKETS = st.lists(st.sampled_from([(1, 64, 64), (17, 64, 64), (17, 96, 64)]), min_size=1, max_size=60)


def epoch_of(order, epoch):
    return [order.batch(epoch, number) for number in range(order.batches_per_epoch)]


@settings(max_examples=60, deadline=None)
@given(BUCKETS, st.integers(1, 9), st.integers(-(2**40), 2**40), st.integers(0, 5))
def test_every_clip_comes_each_epoch_and_no_batch_mixes_shapes(buckets, global_batch, seed, epoch):
    batches = epoch_of(ClipOrder(buckets, global_batch, seed), epoch)
    counts = np.bincount(np.concatenate(batches), minlength=len(buckets))
    assert counts.min() >= 1
    for batch in batches:
        assert len(batch) == global_batch
        assert len({buckets[place] for place in batch}) == 1
    repeats = sum(-sum(other == bucket for other in buckets) % global_batch for bucket in set(buckets))
    assert counts.sum() == len(buckets) + repeats


@settings(max_examples=30, deadline=None)
@given(BUCKETS, st.integers(1, 9), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 200)), min_size=1, max_size=5))
def test_a_batch_is_the_same_wherever_one_comes_from(buckets, global_batch, positions):
    order = ClipOrder(buckets, global_batch, 7)
    whole = {epoch: epoch_of(order, epoch) for epoch in range(5)}
    jumping = ClipOrder(buckets, global_batch, 7)
    for epoch, number in positions:
        number %= order.batches_per_epoch
        assert np.array_equal(jumping.batch(epoch, number), whole[epoch][number])


def test_epochs_and_seeds_differ():
    buckets = [(1, 64, 64)] * 40
    orders = [np.concatenate(epoch_of(ClipOrder(buckets, 4, seed), epoch)).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


class Clips:
    """Clips of which nothing is known but their shapes."""

    def __init__(self, buckets):
        self.buckets = buckets

    def __len__(self):
        return len(self.buckets)


def test_without_groups_shapes_mix_in_one_random_order_and_every_clip_still_comes():
    buckets = np.array([[5, 32, 32]] * 6 + [[9, 32, 48]] * 2)
    stages = [SimpleNamespace(data=SimpleNamespace(group_by_shape=grouped, seed=1)) for grouped in (True, False)]
    orders = [order_of(Clips(buckets), 4, stage) for stage in stages]  # type: ignore[arg-type]
    assert [order.batches_per_epoch for order in orders] == [3, 2]
    drawn = [orders[1].batch(epoch, number) for epoch in range(20) for number in range(2)]
    assert all(sorted([*drawn[2 * epoch], *drawn[2 * epoch + 1]]) == list(range(8)) for epoch in range(20))
    assert any(len(np.unique(buckets[batch], axis=0)) > 1 for batch in drawn)
    assert all(len(np.unique(buckets[orders[0].batch(0, number)], axis=0)) == 1 for number in range(3))
