import pytest
import torch

from osplan.domain.errors import UserError
from osplan.domain.global_batch import global_batch
from osplan.domain.stage import decode_stage
from osplan.parallel.sequence import SequenceGroup
from osplan.parallel.world import World
from osplan.train.diffusion_task import strata_of
from osplan.train.task import MicroBatch
from osplan.train.world_size import as_trained_by

CPU = torch.device("cpu")


def world_of(size, shared=1, rank=0):
    return World(rank, size, rank, CPU, 1, size, SequenceGroup(rank % shared, shared, None) if shared > 1 else None)


@pytest.mark.parametrize(("ranks", "passes"), [(1, 12), (2, 6), (4, 3), (12, 1)])
def test_another_number_of_ranks_makes_more_or_fewer_passes_of_the_same_clips(stage_json, ranks, passes):
    asked = stage_json(batch={"perDevice": 2, "accumulate": 3}, parallel={"processes": 2, "nodes": 2})
    trained = decode_stage(as_trained_by(asked, world_of(ranks)))
    assert (trained.batch.per_device, trained.batch.accumulate) == (2, passes)
    assert global_batch(trained) == global_batch(decode_stage(asked)) == 24


def test_clips_of_a_pass_of_ranks_that_share_them_are_one_number_from_then_on(stage_json):
    asked = stage_json(batch={"perDevice": 1, "accumulate": 4}, parallel={"processes": 4, "sequence": 2, "sequenceBatch": 3})
    trained = decode_stage(as_trained_by(asked, world_of(8, shared=2)))
    assert (trained.batch.per_device, trained.batch.accumulate, trained.parallel.sequence_batch) == (3, 2, 1)
    assert global_batch(trained) == global_batch(decode_stage(asked)) == 24


def test_a_number_of_ranks_that_cannot_keep_the_clips_is_refused_with_those_that_can(stage_json):
    with pytest.raises(UserError, match="global batch of 8 clips in passes of 2, got 3") as caught:
        as_trained_by(stage_json(batch={"perDevice": 2, "accumulate": 4}), world_of(3))
    assert caught.value.code == "GLOBAL_BATCH" and "1, 2, 4 ranks" in caught.value.hint


def test_times_are_spread_over_the_groups_that_share_clips_and_as_upstream_over_what_its_leaders_draw(stage_json):
    sections = {"parallel": {"processes": 4, "sequence": 2}, "batch": {"perDevice": 1, "accumulate": 2}}
    at = MicroBatch(step=1, micro=1, rank=1, ranks=2)
    assert strata_of(decode_stage(stage_json(**sections)), at) == (3, 4)
    assert strata_of(decode_stage(stage_json(**sections, compat={"times": "upstream"})), at) == (2, 4)


def test_a_rank_knows_its_clips_by_its_group_and_its_tokens_by_its_place_in_it():
    world = world_of(4, shared=2, rank=3)
    assert (world.replica, world.replicas) == (1, 2) and world.sequence is not None
    tokens = torch.arange(5.0).view(1, 5, 1)
    assert world.sequence.split(tokens).flatten().tolist() == [3.0, 4.0, 0.0]
    assert world.sequence.share(5) == 3
