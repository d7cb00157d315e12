import errno
import os

import pytest
import torch

from osplan.domain.errors import UserError
from osplan.train import checkpoint, diffusion_task, room
from osplan.train.checkpoint import folder_of, latest_checkpoint, read_checkpoint
from osplan.train.pixels import normalised
from osplan.train.seeds import micro_batch_generator
from osplan.train.trained import Trained

OBJECTIVES = {
    "v-prediction": {"name": "v-prediction", "zeroTerminalSnr": True, "snrGamma": 5},
    "epsilon": {"name": "epsilon"},
    "rectified-flow": {"name": "rectified-flow", "times": "logit-normal"},
}


def plain_losses(loop, steps):
    """What a loop without any machinery does with the same networks, clips and draws."""
    stage, task = loop.attempt.stage, loop.attempt.task
    model, objective, encoders = task.model, task.objective, task.encoders
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=stage.learning_rate,
        betas=(0.9, 0.999),
        eps=stage.optimizer.epsilon,
        weight_decay=stage.optimizer.weight_decay,
    )
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        total = 0.0
        for micro in range(stage.batch.accumulate):
            batch = loop.attempt.clips.take()
            draws = {name: micro_batch_generator(stage.seed, name, step, micro) for name in ("posterior", "noise")}
            posterior = encoders.vae.encode(normalised(batch.pixels_BCTHW, torch.device("cpu")))
            mean, logvar = posterior.moments.chunk(2, dim=1)
            drawn = torch.randn(mean.shape, generator=draws["posterior"])
            x0 = encoders.vae.scaled(mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * drawn)
            noise = objective.draw_noise(x0, draws["noise"])
            t = objective.draw_times(len(x0), draws["noise"], micro, stage.batch.accumulate, frame_tokens=4)
            text = encoders.text(batch.captions)
            prediction = model(objective.noised(x0, noise, t), objective.model_time(t), text.states_B1LD, None, text.mask_B1L)
            loss, _ = objective.loss(prediction, x0, noise, t)
            (loss / stage.batch.accumulate).backward()
            total += loss.item() / stage.batch.accumulate
        torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip.norm)
        optimizer.step()
        losses.append(total)
    return losses


@pytest.mark.parametrize("name", OBJECTIVES)
def test_twenty_steps_equal_those_of_a_plain_loop(loop_of, name):
    # The keys' biases have no gradient but rounding; a larger epsilon keeps the optimiser from blowing that up.
    settings = {"objective": OBJECTIVES[name], "batch": {"perDevice": 2, "accumulate": 2}, "optimizer": {"epsilon": 1e-4}}
    loop, recorder = loop_of(**settings)
    assert loop.train().reason == "completed"
    plain, _ = loop_of(**settings)
    expected = plain_losses(plain, 20)
    assert list(recorder.losses()) == list(range(1, 21))
    torch.testing.assert_close(torch.tensor(list(recorder.losses().values())), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    for (name_, trained), parameter in zip(loop.attempt.task.model.named_parameters(), plain.attempt.task.model.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter, rtol=1e-5, atol=1e-6, msg=name_)


def test_frozen_tensors_are_bit_identical_at_the_end_and_the_others_have_moved(loop_of):
    loop, recorder = loop_of(trainable=["all", "-blocks[0]"], steps=3)
    before = {name: value.clone() for name, value in loop.attempt.task.model.state_dict().items()}
    loop.train()
    after = loop.attempt.task.model.state_dict()
    frozen = [name for name in before if "transformer_blocks.0." in name]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["proj_out.weight"], after["proj_out.weight"])
    proof = recorder.of("phaseProof")[-1]
    assert proof["frozen"] == len(frozen) and proof["frozen_changed"] == []


def test_a_phase_thaws_after_its_step_and_keeps_what_the_optimiser_knew(loop_of):
    loop, recorder = loop_of(
        trainable=["all", "-blocks[0]"], phases=[{"at": 2, "trainable": ["all"], "rewarmSteps": 1}], steps=4, schedule={"name": "constant"}
    )
    loop.train()
    (phase,) = recorder.of("phase")
    assert (phase["step"], phase["index"]) == (2, 1)
    states = {
        name: loop.trained.optimizer.state[parameter]["step"].item() for name, parameter in loop.attempt.task.model.named_parameters()
    }
    assert {value for name, value in states.items() if "transformer_blocks.0." in name} == {2}
    assert {value for name, value in states.items() if "transformer_blocks.0." not in name} == {4}
    rates = [fields["learning_rate"] for fields in recorder.of("step")]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 1e-3])


def test_a_phase_begins_at_a_plateau_where_gains_of_less_than_half_a_percent_do_not_count(loop_of, defaults):
    settings = {
        "steps": 6,
        "learningRate": 1e-6,
        "trainable": ["all", "-blocks[0]"],
        "phases": [{"at": "plateau", "trainable": ["all"], "rewarmSteps": 0}],
        "data": {"heldOutClips": 2},
        "heldOut": {"everySteps": 1, "draws": 2},
        "checkpoint": {"everySteps": 1, "keepLast": 10},
    }
    watch = defaults["incidents"]["watch"] | {"plateau": 3}
    loop, recorder = loop_of(held_out=2, incidents={"watch": watch}, **settings)
    loop.train()
    losses = [fields["ema"]["loss"] for fields in recorder.of("heldOut")]
    assert losses[:4] == sorted(losses[:4], reverse=True) and losses[3] < losses[0]
    (phase,) = recorder.of("phase")
    assert phase["step"] == 3
    again, second = loop_of(held_out=2, incidents={"watch": watch}, **settings)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 2), 0), [], same_run=True)
    again.train()
    assert second.of("phase") == [phase]


def test_what_would_end_a_stage_for_want_of_a_better_loss_begins_the_phase_that_waits_first(loop_of):
    loop, recorder = loop_of(
        steps=9,
        learningRate=0.0,
        trainable=["all", "-blocks[0]"],
        phases=[{"at": "plateau", "trainable": ["all"], "rewarmSteps": 0}],
        data={"heldOutClips": 2},
        heldOut={"everySteps": 1, "draws": 2, "patience": 2},
        held_out=2,
    )
    end = loop.train()
    (phase,) = recorder.of("phase")
    assert (phase["step"], end.reason, end.step) == (2, "plateau", 4)


def test_going_on_from_a_checkpoint_repeats_the_unbroken_losses_bit_for_bit(loop_of):
    settings = {"steps": 8, "batch": {"perDevice": 2, "accumulate": 2}, "clip": {"mode": "zclip"}}
    unbroken, recorder = loop_of(**settings)
    unbroken.train()
    stopped, first = loop_of(**settings)
    first.due[5] = [{"id": "a", "name": "stop"}]
    assert stopped.train().reason == "stopped"
    torch.manual_seed(99)
    going_on, second = loop_of(**settings)
    going_on.restore(read_checkpoint(folder_of(going_on.attempt.run, 5), 0), [], same_run=True)
    assert going_on.train().reason == "completed"
    assert second.losses() == {step: loss for step, loss in recorder.losses().items() if step > 5}
    for name, value in unbroken.attempt.task.model.state_dict().items():
        assert torch.equal(value, going_on.attempt.task.model.state_dict()[name])
    assert unbroken.trained.ema and going_on.trained.ema
    assert all(torch.equal(value, going_on.trained.ema.shadow[name]) for name, value in unbroken.trained.ema.shadow.items())


def test_the_ends_of_phases_and_of_the_stage_are_kept_and_gone_on_from(loop_of):
    settings = {
        "steps": 6,
        "trainable": ["all", "-blocks[0]"],
        "phases": [{"at": 3, "trainable": ["all"], "rewarmSteps": 0}],
        "checkpoint": {"everySteps": 1, "keepLast": 1, "keepEnds": True},
    }
    loop, recorder = loop_of(**settings)
    loop.train()
    (phase,) = recorder.of("phase")
    assert [step for step, _ in checkpoint.checkpoints_of(loop.attempt.run)] == [phase["step"], 6]
    again, second = loop_of(**settings)
    again.restore(read_checkpoint(folder_of(again.attempt.run, phase["step"]), 0), [], same_run=True)
    again.train()
    assert second.losses() == {step: loss for step, loss in recorder.losses().items() if step > phase["step"]}
    assert second.of("phase") == [phase]


def test_a_stop_at_a_later_step_is_obeyed_once(loop_of):
    loop, recorder = loop_of(steps=6)
    recorder.due[0] = [{"id": "a", "name": "stop", "after": 3}]
    end = loop.train()
    assert (end.reason, end.step) == ("stopped", 3)
    again, _ = loop_of(steps=6)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 3), 0), [], same_run=True)
    assert again.train().reason == "completed"


def test_a_live_change_takes_effect_at_the_next_step_and_again_after_going_on(loop_of):
    loop, recorder = loop_of(steps=6, checkpoint={"everySteps": 2, "keepLast": None})
    recorder.due[3] = [{"id": "a", "name": "set", "path": "learningRate", "value": "*0.5"}]
    loop.train()
    assert [fields["learning_rate"] for fields in recorder.of("step")] == pytest.approx([1e-3] * 3 + [5e-4] * 3)
    assert recorder.acknowledged == [("set", 4, "applied", 5e-4)]
    again, second = loop_of(steps=6)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 2), 0), recorder.commands, same_run=True)
    again.train()
    assert second.losses() == {step: loss for step, loss in recorder.losses().items() if step > 2}
    assert second.acknowledged == []


THAWING = {
    "steps": 9,
    "trainable": ["head"],
    "phases": [{"at": 7, "trainable": ["head", "blocks[1]"], "rewarmSteps": 0}, {"at": 8, "trainable": ["all"], "rewarmSteps": 0}],
    "checkpoint": {"everySteps": 3, "keepLast": None},
}


@pytest.mark.parametrize("known", [False, True], ids=["before", "at its boundary"])
def test_a_phase_begun_by_hand_begins_once_also_after_going_on_from_a_checkpoint(loop_of, known):
    loop, recorder = loop_of(**THAWING)
    asked = {"id": "a", "name": "thaw"}
    recorder.due[4] = [asked, {"id": "b", "name": "checkpoint"}] if known else [asked]
    loop.train()
    assert [fields["step"] for fields in recorder.of("phase")] == [4, 8]
    again, second = loop_of(**THAWING)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 4 if known else 3), 0), recorder.commands, same_run=True)
    again.train()
    assert [fields["step"] for fields in second.of("phase")] == ([8] if known else [4, 8])
    assert second.losses() == {step: loss for step, loss in recorder.losses().items() if step in second.losses()}


def test_three_phases_gone_on_with_from_each_end_with_the_weights_of_an_unbroken_run(loop_of):
    phases = [{"at": 3, "trainable": ["head", "blocks[1]"], "rewarmSteps": 1}, {"at": 6, "trainable": ["all"], "rewarmSteps": 1}]
    settings = {"steps": 9, "trainable": ["head"], "phases": phases, "checkpoint": {"everySteps": 2, "keepLast": None}}
    unbroken, recorder = loop_of(**settings)
    unbroken.train()
    expected = {name: value.clone() for name, value in unbroken.trained.source.state_dict().items()}
    proofs = recorder.of("phaseProof")
    assert [(proof["step"], proof["frozen_changed"], proof["frozen"] > 0) for proof in proofs] == [(3, [], True), (6, [], True), (9, [], False)]
    for step in (2, 4, 8):
        again, second = loop_of(**settings)
        again.restore(read_checkpoint(folder_of(again.attempt.run, step), 0), [], same_run=True)
        again.train()
        assert all(torch.equal(value, expected[name]) for name, value in again.trained.source.state_dict().items())
        assert [proof for proof in proofs if proof["step"] > step] == second.of("phaseProof")


def test_a_phase_begun_by_hand_begins_again_after_a_roll_back_to_before_it(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({4}), incidents={"policy": "rollback"}, **THAWING)
    recorder.due[3] = [{"id": "a", "name": "thaw"}]
    assert loop.train().reason == "completed"
    assert [(fields["step"], fields["index"]) for fields in recorder.of("phase")] == [(3, 1), (3, 1), (8, 2)]


def test_a_stop_asked_for_after_the_last_checkpoint_is_kept_by_going_on(loop_of):
    loop, recorder = loop_of(steps=9, checkpoint={"everySteps": 3, "keepLast": None})
    recorder.due[4] = [{"id": "a", "name": "stop", "after": 7}]
    assert loop.train().step == 7
    again, _ = loop_of(steps=9)
    again.restore(read_checkpoint(folder_of(again.attempt.run, 3), 0), recorder.commands, same_run=True)
    assert again.train().step == 7


def test_what_would_do_nothing_is_refused(loop_of):
    loop, recorder = loop_of(steps=3)
    stops = [{"id": f"stop-{after}", "name": "stop", "after": after} for after in (0, 3)]
    recorder.due[1] = [{"id": "a", "name": "thaw"}, {"id": "b", "name": "measure"}, *stops]
    assert loop.train().reason == "completed"
    refused = [(name, status) for name, _, status, _ in recorder.acknowledged]
    assert refused == [(name, "refused") for name in ("thaw", "measure", "stop", "stop")]


def test_a_live_change_of_group_rates_reaches_the_optimiser(loop_of):
    loop, recorder = loop_of(steps=3)
    recorder.due[1] = [{"id": "a", "name": "set", "path": "learningRateRatios", "value": {"head": 0.0}}]
    loop.train()
    rates = {group["ratio"]: group["lr"] for group in loop.trained.optimizer.param_groups}
    assert rates == {1.0: 1e-3, 0.0: 0.0}
    assert loop.trained.optimizer.state[loop.attempt.task.model.get_parameter("proj_out.weight")]["step"] == 3


def test_a_change_that_names_nothing_or_is_not_live_is_refused_and_changes_nothing(loop_of):
    loop, recorder = loop_of(steps=2)
    recorder.due[1] = [
        {"id": "a", "name": "set", "path": "learningRateRatios", "value": {"nosuch": 2}},
        {"id": "b", "name": "set", "path": "batch.perDevice", "value": 4},
    ]
    loop.train()
    assert [status for _, _, status, _ in recorder.acknowledged] == ["refused", "refused"]
    assert loop.attempt.live.changes == {} and dict(loop.attempt.stage.learning_rate_ratios) == {}


def test_a_loss_that_is_no_number_stops_the_run_with_the_weights_of_the_step_before(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({2}), steps=6)
    end = loop.train()
    assert (end.reason, end.step) == ("non-finite", 2)
    assert "clip-2.mp4" in end.message
    assert all(bool(value.isfinite().all()) for value in loop.attempt.task.model.state_dict().values())
    assert recorder.of("incident")[0]["action"] == "stopped"


def test_a_poisoned_batch_can_be_skipped(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({2}), steps=6, incidents={"policy": "skip"})
    assert loop.train().reason == "completed"
    assert list(recorder.losses()) == [1, 2, 3, 4, 5, 6]
    assert loop.attempt.clips.state() == {"at": 7}


def test_skips_end_after_the_retries(loop_of):
    loop, _ = loop_of(poisoned=frozenset(range(2, 20)), steps=6, incidents={"policy": "skip", "maxRetries": 3})
    assert loop.train().reason == "non-finite"
    assert loop.attempt.clips.state() == {"at": 6}


def test_a_roll_back_returns_to_the_last_checkpoint_with_a_cut_rate_and_keeps_live_changes(loop_of):
    loop, recorder = loop_of(
        poisoned=frozenset({4}),
        steps=6,
        incidents={"policy": "rollback", "learningRateCut": 0.1},
        checkpoint={"everySteps": 2, "keepLast": None},
    )
    recorder.due[3] = [{"id": "a", "name": "set", "path": "clip.norm", "value": 0.5}]
    assert loop.train().reason == "completed"
    rates = [(fields["step"], fields["learning_rate"]) for fields in recorder.of("step")]
    assert rates[:4] == [(step, 1e-3) for step in (1, 2, 3, 4)]
    assert rates[4:] == [(5, pytest.approx(1e-4)), (6, pytest.approx(1e-4))]
    assert "rolled back to step 4" in recorder.of("incident")[0]["action"]
    assert loop.attempt.stage.clip.norm == 0.5


def test_held_out_loss_is_measured_for_raw_and_averaged_weights_and_disturbs_nothing(loop_of):
    quiet, without = loop_of(steps=3)
    quiet.train()
    loop, recorder = loop_of(steps=3, held_out=1, data={"heldOutClips": 2}, heldOut={"everySteps": 1, "draws": 2})
    loop.train()
    assert recorder.losses() == without.losses()
    measured = recorder.of("heldOut")
    assert [fields["step"] for fields in measured] == [0, 1, 2, 3]
    assert measured[-1]["raw"]["loss"] != measured[-1]["ema"]["loss"]
    assert {"zero", "swapped_captions"} <= set(measured[0])


def test_a_branch_takes_weights_and_optimiser_but_starts_at_step_zero(loop_of):
    loop, _ = loop_of(steps=3)
    loop.train()
    folder = latest_checkpoint(loop.attempt.run)
    assert folder is not None
    branch, recorder = loop_of(steps=2)
    branch.restore(read_checkpoint(folder, 0), [], same_run=False)
    assert branch.trained.step == 0
    parameter = branch.attempt.task.model.get_parameter("proj_out.weight")
    assert branch.trained.optimizer.state[parameter]["step"] == 3
    assert torch.equal(parameter, loop.attempt.task.model.get_parameter("proj_out.weight"))
    assert branch.train().step == 2


@pytest.fixture
def full_disk(monkeypatch):
    """Lets the disk be full for some looks at it: found so before a checkpoint is begun, or while it is written."""
    left = {"looks": 0, "at once": False}
    save = checkpoint._save

    def has_room(folder, needed):
        left["looks"] -= 1
        return left["looks"] <= 0

    def written(*arguments):
        if left["looks"] > 0 and not left["at once"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*arguments)

    def full(looks, *, at_once):
        left.update({"looks": looks, "at once": at_once})

    free = checkpoint.free_bytes
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 0 if left["looks"] > 0 and left["at once"] else free(folder))
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(room, "has_room", has_room)
    monkeypatch.setattr(checkpoint, "_save", written)
    return full


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("every", [2, 100])
def test_a_full_disk_is_waited_for_and_nothing_is_lost(loop_of, full_disk, at_once, every):
    settings = {"steps": 5, "checkpoint": {"everySteps": every}}
    unbroken, expected = loop_of(**settings)
    unbroken.train()
    loop, recorder = loop_of(**settings)
    full_disk(3, at_once=at_once)
    assert loop.train().reason == "completed" and recorder.losses() == expected.losses()
    (told,), (over,) = recorder.of("diskFull"), recorder.of("diskFree")
    assert told["needed"] > 1 << 20 and over["step"] == told["step"] == (5 if every == 100 else told["step"])
    written = [entry["step"] for entry in recorder.of("checkpoint")]
    assert written[-1] == 5 and (every == 100 or told["step"] in written)
    assert latest_checkpoint(loop.attempt.run) == folder_of(loop.attempt.run, 5)
    assert not list((loop.attempt.run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("at", [2, 5])
def test_a_stop_is_obeyed_while_the_disk_is_full_and_says_what_is_kept(loop_of, full_disk, at):
    loop, recorder = loop_of(steps=5, checkpoint={"everySteps": 1})
    tell, looks = recorder.emit, []

    def emit(event, **fields):
        tell(event, **fields)
        if event == "step" and fields["step"] == at:
            full_disk(1000, at_once=True)
        if event == "diskFull":
            looks.append(recorder.step)
            recorder.due[recorder.step] = [{"id": "a", "name": "stop"}]

    recorder.emit = emit
    end = loop.train()
    assert (end.reason, end.step, looks) == ("stopped", at, [at])
    assert end.message == f"stopped by request after step {at} of 5; the disk is full: the newest checkpoint is of step {at - 1}"
    assert latest_checkpoint(loop.attempt.run) == folder_of(loop.attempt.run, at - 1)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_phase_whose_end_found_no_room_is_ended_and_kept_when_there_is_some(loop_of, full_disk, at_once):
    settings = {
        "steps": 6,
        "trainable": ["all", "-blocks[0]"],
        "phases": [{"at": 3, "trainable": ["all"], "rewarmSteps": 0}],
        "checkpoint": {"everySteps": 4, "keepLast": 1, "keepEnds": True},
    }
    unbroken, expected = loop_of(**settings)
    unbroken.train()
    (phase,) = expected.of("phase")
    loop, recorder = loop_of(**settings)
    tell = recorder.emit

    def emit(event, **fields):
        tell(event, **fields)
        if event == "step" and fields["step"] == phase["step"]:
            full_disk(3, at_once=at_once)

    recorder.emit = emit
    assert loop.train().reason == "completed" and recorder.losses() == expected.losses()
    assert [entry["step"] for entry in recorder.of("diskFull")] == [phase["step"]]
    ends = {step: checkpoint.read_manifest(folder)["isEnd"] for step, folder in checkpoint.checkpoints_of(loop.attempt.run)}
    assert ends == {phase["step"]: True, 6: True}
    again, second = loop_of(**settings)
    again.restore(read_checkpoint(folder_of(again.attempt.run, phase["step"]), 0), [], same_run=True)
    again.train()
    assert second.losses() == {step: loss for step, loss in expected.losses().items() if step > phase["step"]}


def test_a_stop_while_the_end_of_a_phase_finds_no_room_leaves_the_next_phase_to_the_attempt_after(loop_of, full_disk):
    settings = {"steps": 6, "trainable": ["head"], "phases": [{"at": 3, "trainable": ["all"], "rewarmSteps": 0}]}
    settings["checkpoint"] = {"everySteps": 1, "keepEnds": True}
    loop, recorder = loop_of(**settings)
    tell = recorder.emit

    def emit(event, **fields):
        tell(event, **fields)
        if event == "phaseProof":
            full_disk(1000, at_once=True)
        if event == "diskFull":
            recorder.due[recorder.step] = [{"id": "a", "name": "stop"}]

    recorder.emit = emit
    end = loop.train()
    assert (end.reason, end.step, recorder.of("phase")) == ("stopped", recorder.of("phaseProof")[0]["step"], [])


@pytest.mark.parametrize("together", [False, True], ids=["alone", "computed by all ranks"])
def test_samples_that_found_no_room_are_written_when_there_is_some(loop_of, full_disk, monkeypatch, together):
    monkeypatch.setattr(Trained, "computes_together", property(lambda trained: together))
    loop, recorder = loop_of(steps=3, samples={"everySteps": 2, "prompts": ["a red square"], "steps": 1})
    write, left = diffusion_task.write_video, [1]

    def full(*arguments):
        if left.pop() if left else False:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(diffusion_task, "write_video", full)
    loop.train()
    assert [entry["step"] for entry in recorder.of("diskFull")] == [2]
    assert [entry["step"] for entry in recorder.of("sample")] == [2, 3]


def test_a_measurement_is_paired_with_that_of_the_weights_the_stage_started_from(loop_of):
    loop, recorder = loop_of(steps=4, held_out=2, data={"heldOutClips": 4}, heldOut={"draws": 1, "everySteps": 2}, checkpoint={"everySteps": 2})
    loop.train()
    first, *_, last = recorder.of("heldOut")
    assert "againstStart" not in first["raw"] and last["raw"]["againstStart"]["standardError"] > 0
    assert last["raw"]["againstStart"]["difference"] == pytest.approx(last["raw"]["loss"] - first["raw"]["loss"], abs=1e-6)
    assert last["ema"]["againstStart"]["difference"] == pytest.approx(last["ema"]["loss"] - first["raw"]["loss"], abs=1e-6)
    again, second = loop_of(steps=4, held_out=2, data={"heldOutClips": 4}, heldOut={"draws": 1, "everySteps": 2})
    again.restore(read_checkpoint(folder_of(again.attempt.run, 2), 0), [], same_run=True)
    again.train()
    assert second.of("heldOut")[-1]["raw"]["againstStart"] == last["raw"]["againstStart"]
