import pytest

from osplan.domain.stage import decode_stage
from osplan.train.plan import ever_trainable, learning_rate_curve, memory, parameters


def test_parameters_are_counted_per_phase_and_group(stage_json):
    stage = decode_stage(
        stage_json(trainable=["blocks[1]"], phases=[{"at": "50%", "trainable": ["all"], "rewarmSteps": 0}], layerDecay=0.5)
    )
    found = parameters(stage)
    first, second = found["phases"]
    assert (first["start"], second["start"]) == (1, 11)
    assert second["trainable"] == found["total"] and second["share"] == 1
    assert 0 < first["share"] < 1
    assert sum(group["parameters"] for group in second["groups"]) == found["total"]
    assert {group["learningRate"] for group in second["groups"]} == {1e-3, 5e-4, 2.5e-4}
    assert found["tensors"] <= len(found["shapes"])


def test_a_frozen_encoder_counts_as_frozen(stage_json):
    vae = {"weights": None, "latentChannels": 4, "baseChannels": 8, "residualBlocks": 1, "attention": False}
    free = parameters(decode_stage(stage_json(kind="vae", objective={"name": "reconstruction"}, vae=vae)))
    kept = parameters(decode_stage(stage_json(kind="vae", objective={"name": "reconstruction"}, vae={**vae, "freezeEncoder": True})))
    assert free["total"] == kept["total"] and kept["phases"][0]["trainable"] < free["phases"][0]["trainable"]


def test_the_curve_begins_with_the_first_step_and_ends_with_the_last(stage_json):
    stage = decode_stage(stage_json(steps=500, schedule={"name": "cosine", "warmupSteps": 10}))
    curve = learning_rate_curve(stage)
    assert (curve[0]["step"], curve[-1]["step"]) == (1, 500)
    assert len(curve) == 60
    assert max(point["learningRate"] for point in curve) == pytest.approx(1e-3, rel=0.01)
    assert curve[-1]["learningRate"] < 1e-6


def test_memory_counts_the_average_only_where_one_is_kept(stage_json):
    with_ema = memory(decode_stage(stage_json()))
    without = memory(decode_stage(stage_json(ema={"enabled": False})))
    assert with_ema["total"] - without["total"] == with_ema["parts"]["ema"] == with_ema["parts"]["weights"]


def test_what_trains_in_any_phase_counts_as_trainable(stage_json):
    later = decode_stage(stage_json(trainable=["blocks[1]"], phases=[{"at": "50%", "trainable": ["blocks[0]"], "rewarmSteps": 0}]))
    blocks = {name.split(".")[1] for name in ever_trainable(later)}
    assert blocks == {"0", "1"}
    assert all(name.startswith("transformer_blocks.") for name in ever_trainable(later))
