"""What the watch finds while a run trains, what the policies make of it, and that a continued run repeats it."""

import math

import pytest
import torch

from osplan.domain.protocol import camel, tagged
from osplan.train.checkpoint import checkpoints_of, folder_of, read_checkpoint

WATCH = {"warmupSteps": 8, "quietSteps": 3, "blockSteps": 10}


def incidents(defaults, **changes):
    """The section of a stage, with a watch that learns quickly."""
    watch = {**defaults["incidents"]["watch"], **WATCH, **changes.pop("watch", {})}
    return {**changes, "watch": watch}


def journal_of(recorder):
    """What the recorder heard, as it stands in a journal."""
    events = [{"event": name, **{camel(key): tagged(value) for key, value in fields.items()}} for name, fields in recorder.events]
    return events + [{"event": "command", **command} for command in recorder.commands]


def wild(loop, steps, factor=50.0):
    """Multiplies the loss of some micro-batches, by their number among those taken."""
    losses, taken = loop.attempt.task.losses, loop.attempt.clips

    def changed(stage, model, batch, at):
        part = losses(stage, model, batch, at)
        if taken.at - 1 not in steps:
            return part
        return type(part)(part.loss * factor, part.by_bin * factor, part.extra)

    loop.attempt.task.losses = changed


def test_an_incident_names_the_clips_the_modules_and_the_numbers_that_are_none(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({2}), steps=4, incidents={"policy": "skip"})
    loop.train()
    (incident,) = recorder.of("incident")
    assert (incident["step"], incident["kind"], incident["action"]) == (3, "non-finite", "skipped the batch")
    assert incident["clips"] == ["clip-2.mp4"]
    assert "transformer_blocks.0" in incident["modules"] and math.isnan(incident["modules"]["transformer_blocks.0"])
    assert incident["overflows"]["transformer_blocks.0"] > 0
    assert incident["source"] and incident["advice"]


def poison_latents(loop, clip):
    """Latents of one clip are no numbers, as a damaged file of latents would have them."""
    task = loop.attempt.task
    latents = task._latents

    def poisoned(stage, batch, generator):
        x0 = latents(stage, batch, generator)
        return x0 * float("nan") if clip in batch.paths else x0

    task._latents = poisoned


def test_a_clip_with_latents_that_are_no_numbers_is_rolled_back_named_and_the_run_finishes(loop_of):
    loop, recorder = loop_of(steps=8, incidents={"policy": "rollback"}, checkpoint={"everySteps": 3, "keepLast": None})
    poison_latents(loop, "clip-4.mp4")
    assert loop.train().reason == "completed"
    (incident,) = recorder.of("incident")
    assert (incident["step"], incident["rolled_back_to"], incident["clips"]) == (5, 3, ["clip-4.mp4"])
    assert list(recorder.losses()) == [1, 2, 3, 4, 5, 6, 7, 8] and loop.attempt.clips.state() == {"at": 10}


def test_with_policy_stop_the_weights_on_disk_are_the_last_good_ones(loop_of):
    loop, _ = loop_of(steps=8, incidents={"policy": "stop"}, checkpoint={"everySteps": 3, "keepLast": None})
    poison_latents(loop, "clip-4.mp4")
    end = loop.train()
    assert (end.reason, end.step) == ("non-finite", 4) and "clip-4.mp4" in end.message
    ((step, folder),) = checkpoints_of(loop.attempt.run)
    quiet, _ = loop_of(steps=8)
    saved = read_checkpoint(folder, 0)
    quiet.commands.stop_at = step
    quiet.train()
    assert step == 3 and all(torch.equal(value, quiet.trained.source.state_dict()[name]) for name, value in saved.model.items())


def test_a_spike_is_noted_and_trained_on_by_default(loop_of, defaults):
    loop, recorder = loop_of(steps=20, incidents=incidents(defaults))
    wild(loop, {14})
    assert loop.train().reason == "completed"
    (incident,) = recorder.of("incident")
    assert (incident["step"], incident["action"]) == (15, "noted") and incident["kind"] in ("loss-spike", "gradient-spike")
    assert incident["clips"] == ["clip-14.mp4"] and incident["overflows"] == {}
    assert all(norm > 0 for norm in incident["modules"].values())
    assert loop.attempt.clips.state() == {"at": 20}


def test_a_spike_can_be_skipped_before_it_moves_anything(loop_of, defaults):
    loop, recorder = loop_of(steps=20, incidents=incidents(defaults, onSpike="skip"))
    wild(loop, {14})
    quiet, without = loop_of(steps=20)
    quiet.attempt.clips.poisoned = frozenset()
    take = quiet.attempt.clips.take
    quiet.attempt.clips.take = lambda: (setattr(quiet.attempt.clips, "at", 15) if quiet.attempt.clips.at == 14 else None, take())[1]
    loop.train()
    quiet.train()
    assert recorder.losses() == without.losses()
    assert [incident["action"] for incident in recorder.of("incident")] == ["skipped the batch"]


def test_a_clipped_spike_moves_the_weights_no_further_than_a_usual_step(loop_of, defaults):
    settings = {"steps": 15, "optimizer": {"name": "sgd", "beta1": 0.0, "weightDecay": 0.0}, "schedule": {"name": "constant"}}
    moved = {}
    for policy in ("note", "clip"):
        loop, recorder = loop_of(**settings, clip={"mode": "none"}, incidents=incidents(defaults, onSpike=policy))
        wild(loop, {14})
        before = {}
        step = loop.trained.optimizer.step

        def remembered(before=before, loop=loop, step=step):
            if loop.trained.step == 14:
                before.update({name: value.clone() for name, value in loop.trained.source.state_dict().items()})
            return step()

        loop.trained.optimizer.step = remembered
        loop.train()
        after = loop.trained.source.state_dict()
        moved[policy] = math.sqrt(sum(float((after[name] - value).double().square().sum()) for name, value in before.items()))
    assert recorder.of("incident")[0]["action"].startswith("cut the gradient to its usual norm")
    usual = float(recorder.of("incident")[0]["action"].rsplit(" ", 1)[1])
    assert moved["clip"] == pytest.approx(1e-3 * usual, rel=0.01)
    assert moved["note"] > 10 * moved["clip"]


def test_a_spike_can_stop_the_run_with_a_reason_of_its_own(loop_of, defaults):
    loop, recorder = loop_of(steps=20, incidents=incidents(defaults, onSpike="stop"), checkpoint={"everySteps": 5})
    wild(loop, {14})
    end = loop.train()
    assert (end.reason, end.step) == ("incident", 14)
    assert "clip-14.mp4" in end.message and "the weights on disk are those of step 10" in end.message
    assert [step for step, _ in checkpoints_of(loop.attempt.run)] == [5, 10]


def test_a_poisoned_learning_rate_is_rolled_back_undone_and_the_run_finishes(loop_of):
    loop, recorder = loop_of(
        steps=12, incidents={"policy": "rollback", "learningRateCut": 0.5}, checkpoint={"everySteps": 4, "keepLast": None}
    )
    recorder.due[6] = [{"id": "a", "name": "set", "path": "learningRate", "value": 1e30}]
    assert loop.train().reason == "completed"
    (incident,) = recorder.of("incident")
    assert incident["kind"] == "non-finite" and incident["rolled_back_to"] == 4
    assert incident["undone"] == {"learningRate": (1e30, 1e-3)}
    assert "learningRate is 0.001 again instead of 1e+30" in incident["action"]
    assert all(bool(value.isfinite().all()) for value in loop.trained.source.state_dict().values())
    assert [fields["learning_rate"] for fields in recorder.of("step")][-1] == pytest.approx(5e-4)


def test_weights_that_are_no_numbers_are_never_kept(loop_of):
    loop, recorder = loop_of(steps=12, incidents={"policy": "stop"}, checkpoint={"everySteps": 1, "keepLast": None})
    recorder.due[6] = [{"id": "a", "name": "set", "path": "learningRate", "value": 1e38}]
    end = loop.train()
    assert end.reason == "non-finite"
    kept = checkpoints_of(loop.attempt.run)
    assert kept and all(value.isfinite().all() for _, folder in kept for value in read_checkpoint(folder, 0).model.values())
    assert f"the weights on disk are those of step {kept[-1][0]}" in end.message


def test_a_lowered_learning_rate_survives_a_roll_back(loop_of):
    loop, recorder = loop_of(poisoned=frozenset({5}), steps=8, incidents={"policy": "rollback"}, checkpoint={"everySteps": 4})
    recorder.due[4] = [{"id": "a", "name": "set", "path": "learningRate", "value": 1e-4}]
    assert loop.train().reason == "completed"
    assert recorder.of("incident")[0]["undone"] == {}
    assert recorder.of("step")[-1]["learning_rate"] == pytest.approx(5e-5)


def test_going_back_goes_further_where_it_did_not_help_and_forgets_the_checkpoints_after(loop_of):
    loop, recorder = loop_of(
        poisoned=frozenset({6, 7, 8, 9, 10, 11}), steps=8, incidents={"policy": "rollback", "maxRetries": 10},
        checkpoint={"everySteps": 2, "keepLast": None},
    )  # fmt: skip
    loop.train()
    went = [incident["rolled_back_to"] for incident in recorder.of("incident")]
    assert went == [6, 4, 2, 0, 0, 0]
    assert [fields["step"] for fields in recorder.of("checkpointDeleted")] == [6, 4, 2]
    assert [step for step, _ in checkpoints_of(loop.attempt.run)] == [0, 2, 4, 6, 8]


def test_a_divergence_goes_back_to_before_it_began(loop_of, defaults):
    loop, recorder = loop_of(
        steps=60, incidents=incidents(defaults, onSpike="rollback", watch={"lossSpike": None, "gradientSpike": None}),
        checkpoint={"everySteps": 10, "keepLast": None}, schedule={"name": "constant"},
    )  # fmt: skip
    rise = {"from": 30}
    losses = loop.attempt.task.losses

    def rising(stage, model, batch, at):
        part = losses(stage, model, batch, at)
        factor = 5.0 if loop.attempt.clips.at > rise["from"] and loop.attempt.clips.at <= 50 else 1.0
        return type(part)(part.loss * factor, part.by_bin * factor, part.extra)

    loop.attempt.task.losses = rising
    assert loop.train().reason == "completed"
    incident = next(fields for fields in recorder.of("incident") if fields["kind"] == "divergence")
    assert incident["rolled_back_to"] == 30 and incident["evidence"]["from"] == 31


def test_retries_count_from_zero_after_calm_steps(loop_of):
    settings = {"poisoned": frozenset({2, 8, 14}), "steps": 14}
    loop, _ = loop_of(**settings, incidents={"policy": "skip", "maxRetries": 1, "forgetSteps": 4})
    assert loop.train().reason == "completed"
    loop, _ = loop_of(**settings, incidents={"policy": "skip", "maxRetries": 1, "forgetSteps": None})
    assert loop.train().reason == "non-finite"


@pytest.mark.parametrize("killed_after", [4, 6])
def test_a_run_continued_after_a_roll_back_repeats_the_unbroken_one(loop_of, killed_after):
    settings = {
        "poisoned": frozenset({7}), "steps": 12, "incidents": {"policy": "rollback"}, "checkpoint": {"everySteps": 2, "keepLast": None},
    }  # fmt: skip
    loop, recorder = loop_of(**settings)
    recorder.due[5] = [{"id": "a", "name": "set", "path": "clip.norm", "value": 0.5}]
    assert loop.train().reason == "completed"
    after = [fields for name, fields in recorder.events if name == "step"][7:]
    (incident,) = recorder.of("incident")
    assert incident["rolled_back_to"] == 6
    journal = journal_of(recorder)
    place = next(place for place, event in enumerate(journal) if event["event"] == "incident")
    known = journal[: place + 1] if killed_after == 6 else journal[: place - 3]
    again, second = loop_of(**settings)
    past = [*known, *(event for event in journal if event["event"] == "command")] if killed_after == 4 else known
    again.restore(read_checkpoint(folder_of(again.attempt.run, killed_after), 0), past, same_run=True)
    assert again.train().reason == "completed"
    losses = {fields["step"]: (fields["loss"], fields["learning_rate"]) for fields in after}
    assert {fields["step"]: (fields["loss"], fields["learning_rate"]) for fields in second.of("step")[-6:]} == losses
    for name, value in loop.trained.source.state_dict().items():
        assert torch.equal(value, again.trained.source.state_dict()[name]), name


def test_what_the_watch_has_learnt_is_part_of_a_checkpoint(loop_of, defaults):
    settings = {"steps": 12, "incidents": incidents(defaults)}
    unbroken, _ = loop_of(**settings)
    unbroken.train()
    stopped, first = loop_of(**settings)
    first.due[7] = [{"id": "a", "name": "stop"}]
    stopped.train()
    going_on, _ = loop_of(**settings)
    going_on.restore(read_checkpoint(folder_of(going_on.attempt.run, 7), 0), [], same_run=True)
    going_on.train()
    rules = [loop.watching.watch.state()["rules"] for loop in (unbroken, going_on)]
    for parts in rules:
        del parts["slow"], parts["memory"], parts["splice"]
    assert rules[0] == rules[1]
