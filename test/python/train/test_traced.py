import os
from statistics import median

import pytest
import torch

from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train import machine
from osplan.train import probe as probing
from osplan.train.adapters import add_adapters
from osplan.train.architecture import transformer_config, vae_config
from osplan.train.machine import Machine
from osplan.train.probe import beside_loading, calibrated, fits, probe
from osplan.train.traced import Shape, Work, traced_step
from osplan.train.ways import ways_to_fit

SMALL = Shape(2, 5, 32, 32)
MACHINE = Machine(flops=1e11, encode_flops=1e11, bytes=1e10, bytes_in_place=2e10, seconds_per_operation=5e-6)
TOKENS = {"heads": 2, "headDim": 48, "sparse": False, "patch": [1, 1, 1]}
"""A model whose tokens need more memory than its weights."""
KINDS = {
    "v1.3": {},
    "inpaint": {"kind": "inpaint", "model": {"class": "OpenSoraInpaint_v1_3"}},
    "v1.2": {"model": {"class": "OpenSoraT2V", "sparse": False}},
    "latte": {"model": {"class": "LatteT2V"}, "objective": {"name": "epsilon"}},
    "v1.5": {
        "model": {"class": "SparseUMMDiT", "headDim": 32, "stageLayers": [2, 2, 2], "stageSparseN": [1, 2, 1], "sparseBlocks": None},
        "objective": {"name": "rectified-flow"},
        "shape": {"height": 64, "width": 64},
    },
    "older autoencoder": {"vae": {"class": "CausalVAEModel", "baseChannels": 32}},
    "adapters": {"lora": {"rank": 4}},
}


def stage_of(stage_json, **sections):
    return decode_stage(stage_json(**sections))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name == "v1.5" else []) for name in KINDS])
def test_every_model_is_gone_through_without_numbers(stage_json, name):
    stage = stage_of(stage_json, **KINDS[name])
    traced = traced_step(stage, Shape(2, 5, stage.shape.height, stage.shape.width))
    assert traced.forward.flops > 0 and traced.backward.flops > 0.5 * traced.forward.flops and traced.encode.flops > 0
    assert all(size > 0 for size in traced.parts.values())


def test_weights_and_optimiser_are_counted_to_the_byte(stage_json):
    stage = stage_of(stage_json)
    model = build_model(transformer_config(stage))
    size = sum(parameter.nbytes for parameter in model.parameters())
    parts = traced_step(stage, SMALL).parts
    assert (parts["weights"], parts["gradients"], parts["optimizer"], parts["ema"]) == (size, size, 2 * size, size)


def test_adapters_are_counted_as_peft_makes_them(stage_json):
    stage = stage_of(stage_json, lora={"rank": 4})
    model = build_model(transformer_config(stage))
    add_adapters(model, stage.lora, 0)
    adapters = sum(value.nbytes for name, value in model.named_parameters() if ".lora_" in name)
    parts = traced_step(stage, SMALL).parts
    assert parts["gradients"] == parts["ema"] == adapters
    assert parts["weights"] == sum(parameter.nbytes for parameter in model.parameters())


def test_work_of_a_matrix_product_is_what_its_sides_say(stage_json):
    small, large = (traced_step(stage_of(stage_json), Shape(clips, 5, 32, 32)).encode for clips in (1, 2))
    assert large.flops == 2 * small.flops


def test_computing_activations_again_costs_work_and_saves_memory(stage_json):
    shape = Shape(2, 5, 96, 96)
    sizes = {"shape": {"frames": 5, "height": 96, "width": 96}, "model": {**TOKENS, "layers": 4}}
    kept, again = (traced_step(stage_of(stage_json, **sizes, memory={"checkpointing": level}), shape) for level in ("none", "all"))
    assert again.parts["activations"] < kept.parts["activations"]
    assert again.backward.flops == pytest.approx(kept.backward.flops + kept.forward.flops, rel=0.1)


def test_a_cache_saves_the_encoding_and_inpainting_encodes_twice(stage_json):
    once = traced_step(stage_of(stage_json), SMALL).encode
    assert traced_step(stage_of(stage_json, data={"cache": "latents"}), SMALL).encode == Work(0, 0, 0)
    assert traced_step(stage_of(stage_json, **KINDS["inpaint"]), SMALL).encode.flops == pytest.approx(2 * once.flops)


def test_frozen_lower_blocks_need_no_gradients_no_state_and_keep_no_activations(stage_json):
    sizes = {"shape": {"frames": 5, "height": 96, "width": 96}, "model": {**TOKENS, "layers": 4}}
    phases = [{"at": 2, "trainable": ["head", "blocks[2:4]"], "rewarmSteps": 0}, {"at": 4, "trainable": ["all"], "rewarmSteps": 0}]
    found = fits(stage_json(**sizes, trainable=["head"], phases=phases), {"weights": None}, {(5, 96, 96): 4})
    assert [phase["start"] for phase in found["phases"]] == [1, 3, 5]
    for name in ("bytes", "seconds"):
        costs = [phase[name] for phase in found["phases"]]
        assert costs == sorted(costs) and costs[0] < costs[1] < costs[2]
    assert found["phases"][-1]["bytes"] == found["memory"]["estimated"] + found["memory"]["checkpoint"]
    upper, whole = (
        traced_step(stage_of(stage_json, **sizes, trainable=trainable), Shape(2, 5, 96, 96)).parts
        for trainable in (["head", "blocks[2:4]"], ["all"])
    )
    for name in ("gradients", "optimizer", "activations"):
        assert upper[name] < 0.75 * whole[name]


def test_real_tensors_are_as_they_were_after_a_trace(stage_json):
    stage = stage_of(stage_json)
    vae = build_model(vae_config(stage))
    video = torch.rand(1, 3, 5, 32, 32)
    before = vae.encode(video).mode()
    traced_step(stage, SMALL)
    assert torch.equal(vae.encode(video).mode(), before)


def test_ways_that_only_cost_time_come_before_those_that_change_what_is_learnt(stage_json):
    sizes = {"shape": {"frames": 5, "height": 96, "width": 96}, "model": {**TOKENS, "layers": 2}, "batch": {"perDevice": 4}}
    ways = ways_to_fit(stage_of(stage_json, **sizes), Shape(4, 5, 96, 96), MACHINE)
    assert [way.changes_training for way in ways] == sorted(way.changes_training for way in ways)
    named = [next(iter(way.settings)) for way in ways]
    assert {"batch.perDevice", "memory.checkpointing", "lora.rank"} <= set(named)
    adapters = next(way for way in ways if "lora.rank" in way.settings)
    adapted = traced_step(stage_of(stage_json, **sizes, lora={"rank": 16}), Shape(4, 5, 96, 96))
    assert adapters.bytes == adapted.bytes + adapted.checkpoint_bytes
    half = next(way for way in ways if "batch.perDevice" in way.settings)
    assert half.settings == {"batch.perDevice": 2, "batch.accumulate": 2}


def test_a_probe_says_what_it_measured_what_it_had_estimated_and_how_far_off_it_was(stage_json):
    buckets = {(9, 32, 32): 6, (5, 32, 32): 3, (1, 32, 32): 3}
    found = probe(stage_json(), {"weights": None, "vae": None, "data": None}, buckets)
    assert found["largest"] == {"clips": 2, "frames": 9, "height": 32, "width": 32}
    seconds, memory = found["seconds"], found["memory"]
    assert len(seconds["each"]) >= 3 and seconds["error"] == pytest.approx(seconds["estimated"] / seconds["measured"] - 1)
    assert seconds["check"]["shape"]["frames"] == 5
    assert seconds["loading"] == 0 and seconds["perStep"] > 0
    assert seconds["stage"] == pytest.approx(20 * seconds["perStep"])
    assert abs(memory["error"]) < 0.15


def test_pictures_trained_along_are_in_the_estimate_and_in_the_probe(stage_json):
    alone, joint = (traced_step(stage_of(stage_json, data={"imagesPerClip": images}), SMALL) for images in (0, 2))
    assert joint.encode.flops > alone.encode.flops and joint.forward.flops > alone.forward.flops
    found = probe(stage_json(data={"imagesPerClip": 2}), {"weights": None, "vae": None, "data": None}, {})
    assert found["seconds"]["measured"] > 0


def test_both_sides_of_a_game_are_measured_in_the_shares_they_have_of_the_stage(stage_json):
    game = {"name": "reconstruction", "adversarialWeight": 0.5, "discriminatorStart": 10}
    stage = stage_json(kind="vae", objective=game, vae={"weights": None})
    seconds = probe(stage, {"weights": None, "vae": None, "data": None}, {})["seconds"]
    assert len(seconds["each"]) >= 6
    theirs, ours = (median(seconds["each"][turn::2]) for turn in (0, 1))
    # Of 20 steps 11, 13, 15, 17 and 19 are the discriminator's.
    assert seconds["measured"] == pytest.approx(0.25 * theirs + 0.75 * ours)


def test_ranks_that_share_the_weights_need_their_share_of_memory_and_what_is_gathered(stage_json):
    alone, shared = (
        traced_step(stage_of(stage_json, parallel={"processes": 2, "nodes": 2, "strategy": strategy}), SMALL).parts
        for strategy in ("ddp", "hsdp")
    )
    assert all(shared[name] == alone[name] // 2 for name in ("weights", "gradients", "optimizer", "ema"))
    assert shared["gathered"] > 0 and "gathered" not in alone


@pytest.mark.slow
def test_ranks_of_a_probe_start_each_other_and_share_the_weights(stage_json, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    shared = stage_json(parallel={"processes": 2, "strategy": "fsdp2"})
    found = probe(shared, {"weights": None, "vae": None, "data": None}, {})
    whole = traced_step(decode_stage(stage_json()), SMALL).parts
    assert found["ranks"] == 2 and found["threads"] == 1
    parts = found["memory"]["parts"]
    assert {name: parts[name] for name in ("weights", "optimizer", "ema")} == {
        name: whole[name] // 2 for name in ("weights", "optimizer", "ema")
    }
    assert "RANK" not in os.environ


def test_an_estimate_is_calibrated_by_one_measurement_or_on_the_line_through_two():
    assert calibrated(2.0, {4.0: 6.0}) == 3.0
    assert calibrated(2.0, {4.0: 6.0, 1.0: 3.0}) == pytest.approx(4.0)
    assert calibrated(3.0, {4.0: 6.0, 1.0: 3.0, 2.0: 5.0}) == pytest.approx(5.5)


def test_clips_that_are_read_meanwhile_take_their_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(probing, "cores", lambda: 2)
    world = World(0, 1, 0, torch.device("cpu"), 1)
    assert beside_loading(1.0, 1.0, 0.0, 1, world) == 1.0
    assert beside_loading(1.0, 1.0, 0.5, 1, world) == 1.0
    assert beside_loading(1.0, 2.0, 0.5, 1, world) == 1.25
    assert beside_loading(1.0, 1.0, 3.0, 2, world) == 2.0


@pytest.mark.parametrize(("freezes", "adversarial"), [(False, 0.0), (True, 0.5)])
def test_an_autoencoder_that_trains_is_gone_through_as_well(stage_json, freezes, adversarial):
    objective = {"name": "reconstruction", "adversarialWeight": adversarial}
    stage = stage_of(stage_json, kind="vae", objective=objective, vae={"weights": None, "freezeEncoder": freezes})
    traced = traced_step(stage, SMALL)
    assert traced.encode == Work(0, 0, 0) and traced.forward.flops > 0
    assert traced.parts["autoencoder"] == 0
    assert (traced.parts["gradients"] < traced.parts["weights"]) is freezes
