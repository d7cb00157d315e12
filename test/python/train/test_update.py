import math

import pytest
import torch
from torch import nn

from osplan.parallel.world import World
from osplan.train.architecture import latent_shape
from osplan.train.checkpoint import folder_of, read_checkpoint
from osplan.train.live import LiveStage
from osplan.train.loss_scale import GROWS_AFTER, START, LossScale
from osplan.train.split import Split
from osplan.train.task import StepLoss
from osplan.train.update import numbers_of
from osplan.train.utilisation import FlopCount, peak_flops

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU, 1)
HALF = {"memory": {"precision": "fp16", "device": "cpu", "threads": 1}}


def test_what_is_said_of_a_step_is_the_mean_of_its_micro_batches():
    nothing = float("nan")
    parts = [
        StepLoss(torch.tensor(1.0), torch.tensor([2.0, nothing, nothing]), {"kl": torch.tensor(5.0)}),
        StepLoss(torch.tensor(2.0), torch.tensor([4.0, 3.0, nothing]), {"kl": torch.tensor(7.0)}),
    ]
    said = numbers_of(torch.tensor(9.0), parts, ALONE, 12)
    assert (said.norm, said.loss, said.by_bin, said.extra, said.tokens) == (9.0, 1.5, [3.0, 3.0, None], {"kl": 7.0}, 12)
    assert numbers_of(torch.tensor(9.0), [StepLoss(torch.tensor(1.0))], ALONE, 0).by_bin is None


def test_a_part_within_another_counts_for_itself_alone_and_once(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr("osplan.train.split.time.perf_counter", lambda: next(clock))
    split = Split(CPU)
    with split.time("forward"), split.time("vae"):
        pass
    assert split.taken() == {"vae": 3.0, "forward": 7.0}
    assert split.taken() == {}


def test_a_model_is_counted_once_for_each_shape_and_left_as_it_was():
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    count = FlopCount(model)
    model(torch.zeros(7, 8))
    for clips in (3, 5, 3):
        with count.counting((clips,)):
            model(torch.zeros(clips, 8))
    assert count.of((3,)) == 2 * 3 * 8 * 4 and count.of((5,)) == 2 * 5 * 8 * 4 and count.of((7,)) is None
    assert not model._forward_hooks and not model._forward_pre_hooks
    peak = peak_flops(CPU, "fp32", tf32=False)
    assert peak is not None and peak > 1e6


def test_tokens_and_operations_are_those_of_the_clips_of_the_step_in_all_its_passes(loop_of):
    def trained(passes):
        loop, recorder = loop_of(steps=2, batch={"perDevice": 2, "accumulate": passes}, data={"heldOutClips": 0})
        loop.train()
        step = recorder.of("step")[-1]
        return step, step["extra"]["modelFlopUtilisation"] * step["seconds_per_step"] * loop.update._peak

    (one, done), (three, more) = trained(1), trained(3)
    stage = loop_of(steps=1)[0].attempt.stage
    frames, height, width = latent_shape(stage)
    per_clip = frames * (height // stage.model.patch[1]) * (width // stage.model.patch[2])
    assert (one["clips"], one["tokens"]) == (2, 2 * per_clip)
    assert (three["clips"], three["tokens"]) == (6, 6 * per_clip)
    assert three["extra"]["tokensPerSecond"] == pytest.approx(6 * per_clip / three["seconds_per_step"])
    assert more == pytest.approx(3 * done)


def test_a_step_says_how_fast_it_was_and_what_its_time_went_into(loop_of):
    loop, recorder = loop_of(steps=2, checkpoint={"everySteps": 1})
    loop.train()
    first, second = recorder.of("step")
    assert {"data", "vae", "text", "forward", "backward", "optimizer", "communication"} <= set(first["split"])
    assert "checkpoint" in second["split"] and sum(second["split"].values()) < 2 * second["seconds_per_step"] + 1
    extra = second["extra"]
    assert extra["clipsPerSecond"] == pytest.approx(second["clips"] / second["seconds_per_step"])
    assert 0 < extra["modelFlopUtilisation"] < 1


def test_the_scale_halves_when_gradients_overflow_and_doubles_after_many_steps(stage_json):
    scale = LossScale(LiveStage(stage_json(**HALF)).stage)
    assert scale.has_overflowed(is_finite=False) and scale.value == START / 2
    assert not scale.has_overflowed(is_finite=True)
    for _ in range(GROWS_AFTER):
        scale.stepped()
    assert scale.value == START and scale.overflows == 1
    while scale.has_overflowed(is_finite=False):
        pass
    assert scale.value == 2.0**-10
    plain = LossScale(LiveStage(stage_json()).stage)
    assert plain.value == 1 and not plain.has_overflowed(is_finite=False)


def test_half_precision_trains_like_full_precision_and_goes_on_with_its_scale(loop_of):
    full, expected = loop_of(steps=3)
    full.train()
    loop, recorder = loop_of(steps=3, **HALF)
    loop.trained.loss_scale.value = 2.0**40
    assert loop.train().reason == "completed"
    assert loop.trained.loss_scale.overflows > 0 and recorder.of("incident") == []
    assert math.isfinite(loop.trained.loss_scale.value) and loop.trained.loss_scale.value < 2.0**40
    again, _ = loop_of(steps=4, **HALF)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 3), 0), [], same_run=True)
    assert again.trained.loss_scale.state() == loop.trained.loss_scale.state()
    untroubled, half = loop_of(steps=3, **HALF)
    untroubled.train()
    assert list(half.losses().values()) == pytest.approx(list(expected.losses().values()), rel=0.02)


def test_a_loss_that_is_no_number_is_an_incident_in_half_precision_too(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({1}), steps=3, **HALF)
    assert loop.train().reason == "non-finite"
    assert recorder.of("incident")[0]["kind"] == "non-finite" and loop.trained.loss_scale.overflows == 0
