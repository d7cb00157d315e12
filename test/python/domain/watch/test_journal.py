"""The watch over made journals: what it says, and what it keeps quiet about."""

import json
import math
import random

import pytest

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.journal import JournalWatch, events_of
from osplan.domain.watch.watch import Watch, rules_as_json

THRESHOLDS = Thresholds(
    warmup_steps=50, quiet_steps=20, loss_spike=7, gradient_spike=7, spike_ratio=2.5, block_steps=50, divergence=1.25, plateau=8,
    dead_gradient=0.001, discriminator_steps=100, slow_steps=2, memory_growth=0.2, stuck_seconds=600,
)  # fmt: skip


def steps(count, seed=0, first=1, **changes):
    """Steps of a healthy run whose loss falls, in ten time bins of very different losses."""
    draw = random.Random(seed)
    for step in range(first, first + count):
        bins = [None] * 10
        for place in draw.sample(range(10), 3):
            bins[place] = (0.05 + 0.2 * place) * (0.5 + math.exp(-step / 100)) * math.exp(draw.gauss(0, 0.15))
        present = [loss for loss in bins if loss is not None]
        fields = {
            "event": "step", "step": step, "ts": 1000.0 + step, "loss": sum(present) / len(present), "lossByBin": bins,
            "learningRate": 1e-3,
            "gradientNorm": math.exp(draw.gauss(0, 0.2)), "secondsPerStep": 0.5 + 0.1 * draw.random(), "memoryBytes": 10**9,
        }  # fmt: skip
        yield {**fields, **{name: value(step, fields) if callable(value) else value for name, value in changes.items()}}


def said(events, thresholds=THRESHOLDS):
    watched = JournalWatch(thresholds)
    return [(alert.rule, alert.step) for event in events for alert in watched.event(event)]


def at(step, factor):
    """A change of one step by a factor, of the loss in all bins."""
    return {
        "loss": lambda at, fields: fields["loss"] * (factor if at == step else 1),
        "lossByBin": lambda at, fields: [loss and loss * (factor if at == step else 1) for loss in fields["lossByBin"]],
    }


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_said_of_a_healthy_run_although_its_times_vary_the_loss_twentyfold(seed):
    assert said(steps(600, seed)) == []


@pytest.mark.parametrize("step", [90, 333])
def test_a_loss_spike_is_seen_in_its_step_and_said_once(step):
    assert said(steps(400, 1, **at(step, 6.0))) == [("loss-spike", step)]


def test_the_same_loss_is_a_spike_in_one_time_bin_and_usual_in_another():
    def run(place, loss):
        events = list(steps(300))
        bins = [None] * 10
        bins[place] = loss
        return said([*events, {**events[-1], "step": 301, "loss": loss, "lossByBin": bins}])

    assert run(9, 0.9) == []
    assert run(0, 0.9) == [("loss-spike", 301)]


def test_a_wild_gradient_is_seen_and_a_spike_of_loss_and_gradient_is_one_incident():
    wild = {"gradientNorm": lambda step, fields: fields["gradientNorm"] * (20 if step == 200 else 1)}
    assert said(steps(300, **wild)) == [("gradient-spike", 200)]
    assert said(steps(300, **wild, **at(200, 6.0))) == [("loss-spike", 200)]


def test_after_a_changed_learning_rate_only_a_lasting_spike_counts():
    change = {"event": "command", "name": "set", "status": "applied", "path": "learningRate", "step": 201, "ts": 1.0}
    once = [*steps(200), change, *steps(100, 5, 201, **at(205, 6.0))]
    assert said(once) == []
    lasting = {"gradientNorm": lambda step, fields: fields["gradientNorm"] * (20 if step > 202 else 1)}
    assert said([*steps(200), change, *steps(100, 5, 201, **lasting)])[0] == ("gradient-spike", 205)


def test_three_spikes_are_advice_to_lower_the_learning_rate():
    spikes = {"gradientNorm": lambda step, fields: fields["gradientNorm"] * (30 if step in (200, 240, 280) else 1)}
    assert said(steps(300, **spikes)) == [
        ("gradient-spike", 200),
        ("gradient-spike", 240),
        ("gradient-spike", 280),
        ("repeated-spikes", 280),
    ]


def test_a_slow_rise_is_divergence_after_two_blocks_and_noise_is_not():
    rising = {
        "loss": lambda step, fields: fields["loss"] * (1 + max(0, step - 300) / 150),
        "lossByBin": lambda step, fields: [loss and loss * (1 + max(0, step - 300) / 150) for loss in fields["lossByBin"]],
    }
    found = said(steps(600, **rising))
    assert [rule for rule, _ in found] == ["divergence"]
    assert 350 <= found[0][1] <= 450


def test_dead_gradients_are_said_after_five_steps_and_a_discriminators_turn_is_not_one():
    assert said(steps(300, gradientNorm=lambda step, fields: 0.0 if step >= 200 else fields["gradientNorm"])) == [("dead-gradients", 204)]
    turn = {"discriminator": 0.9, "logitsReal": 0.2, "logitsFake": -0.2}
    assert said(steps(300, gradientNorm=0.0, extra=turn)) == []


def test_a_discriminator_that_always_wins_or_sees_nothing_is_said():
    won = {"discriminator": 0.01, "logitsReal": 3.0, "logitsFake": -3.0}
    assert said(steps(120, extra=won)) == [("discriminator-collapse", 100)]
    blind = {"discriminator": 1.0, "logitsReal": 0.01, "logitsFake": 0.01}
    assert said(steps(120, extra=blind)) == [("discriminator-collapse", 100)]


def test_an_autoencoders_loss_may_jump_or_turn_negative_where_its_adversarial_part_begins():
    parts = {
        "lossByBin": None,
        "extra": lambda step, fields: {"reconstruction": fields["loss"]},
        "loss": lambda step, fields: fields["loss"] * (1 if step < 150 else -9) + (100 if step > 250 else 0),
    }
    draw = random.Random(5)
    events = [{**event, "loss": math.exp(draw.gauss(0, 0.1))} for event in steps(400)]
    changed = [
        {**event, **{name: value(event["step"], event) if callable(value) else value for name, value in parts.items()}} for event in events
    ]
    assert said(changed) == []
    checkpoint, started = {"event": "checkpoint", "step": 200, "ts": 1.0}, {"event": "started", "step": 200, "ts": 1.0}
    assert said([*changed[:200], checkpoint, started, *changed[200:]]) == []
    assert said([*changed[:300], {**changed[300], "extra": {"reconstruction": 20.0}}]) == [("loss-spike", 301)]


def test_slow_steps_and_creeping_memory_are_said():
    slow = {"secondsPerStep": lambda step, fields: fields["secondsPerStep"] * (3 if step > 250 else 1)}
    assert said(steps(500, **slow)) == [("slow-steps", 350)]
    assert [rule for rule, _ in said(steps(500, memoryBytes=lambda step, _: 10**9 + step * 10**6))] == ["memory-creep"]
    assert said(steps(500, memoryBytes=lambda step, _: 10**9 + step % 100 * 10**6)) == []


def held_out(step, raw, ema=None):
    return {"event": "heldOut", "step": step, "ts": 1.0, "raw": {"loss": raw}, "ema": None if ema is None else {"loss": ema}}


def test_held_out_losses_that_stand_still_are_a_plateau_only_while_the_learning_rate_is_high():
    flat = [held_out(step, 0.5) for step in range(0, 100, 10)]
    assert said([*steps(1), *flat]) == [("plateau", 80)]
    low = [*steps(1), *steps(1, first=2, learningRate=1e-5)]
    assert said([*low, *flat]) == []
    assert said([*steps(1), *(held_out(step, 0.5 * 0.99 ** (step / 10)) for step in range(0, 200, 10))]) == []


def test_held_out_losses_that_rise_while_training_falls_are_overfitting_at_the_best_step():
    losses = {100: 0.5, 200: 0.4, 300: 0.42, 400: 0.43, 500: 0.44}
    events = []
    for step, loss in losses.items():
        events += [*steps(100, step, step - 99), held_out(step, loss)]
    watched = JournalWatch(THRESHOLDS)
    (alert,) = [alert for event in events for alert in watched.event(event)]
    assert (alert.rule, alert.step, alert.severity) == ("overfitting", 500, "advice")
    assert "at step 200" in alert.message and alert.evidence.values[0] == (200, 0.4)


def test_raw_weights_far_worse_than_their_average_are_noise():
    assert said([held_out(step, 0.5, 0.4) for step in (1, 2, 3)]) == [("noise-dominated", 3)]
    assert said([held_out(step, 0.5, 0.49) for step in (1, 2, 3)]) == []


def test_a_silent_run_is_stuck_and_said_once():
    beats = [{"event": "heartbeat", "step": 20, "ts": 1020.0 + silent} for silent in (10, 500, 601, 900)]
    assert said([*steps(20), *beats]) == [("stuck-rank", 20)]


def test_null_switches_a_rule_off():
    from dataclasses import replace

    off = replace(THRESHOLDS, loss_spike=None, gradient_spike=None)
    assert said(steps(400, 1, **at(333, 50.0)), off) == []


def test_going_back_to_a_checkpoint_goes_back_to_what_was_known_there():
    straight = JournalWatch(THRESHOLDS)
    for event in steps(300, 3):
        straight.event(event)
    again = JournalWatch(THRESHOLDS)
    first, checkpoint = list(steps(200, 3)), {"event": "checkpoint", "step": 200, "ts": 1.0}
    lost = list(steps(60, 9, 201, **at(230, 9.0)))
    for event in [*first, checkpoint, *lost, {"event": "started", "step": 200, "ts": 1.0}, *list(steps(300, 3))[200:]]:
        again.event(event)
    known = [{**watch.watch.state(), "quietUntil": 0} for watch in (straight, again)]
    assert known[0] == known[1]


def test_the_state_survives_json_and_a_rule_it_does_not_know_starts_anew():
    watched = JournalWatch(THRESHOLDS)
    for event in steps(120, 4):
        watched.event(event)
    state = json.loads(json.dumps(watched.watch.state()))
    other = Watch()
    other.restore(state)
    assert other.state() == watched.watch.state()
    del state["rules"]["slow"]
    partial = Watch()
    partial.restore(state)
    assert partial.state()["rules"]["loss"] == state["rules"]["loss"]


@pytest.mark.parametrize("seed", range(5))
def test_any_events_in_any_order_are_survived(seed):
    draw = random.Random(seed)
    values = [None, 0, -1, 1e300, 5, "x", {"$f": "nan"}, {"$f": "inf"}, [], True, {}]
    kinds = ["step", "heldOut", "command", "phase", "checkpoint", "started", "incident", "heartbeat", "news"]
    names = [
        "step",
        "ts",
        "loss",
        "lossByBin",
        "gradientNorm",
        "learningRate",
        "secondsPerStep",
        "raw",
        "ema",
        "name",
        "status",
        "rolledBackTo",
    ]
    watched = JournalWatch(THRESHOLDS)
    healthy = list(steps(200, seed))
    for event in healthy:
        watched.event(event)
        watched.event({"event": draw.choice(kinds), **{name: draw.choice(values) for name in draw.sample(names, 6)}})


def test_a_torn_line_and_a_missing_journal_are_passed_over(tmp_path):
    assert list(events_of(tmp_path / "none.jsonl")) == []
    (tmp_path / "trainer.jsonl").write_text('{"event":"started","step":0}\nnot json\n[1]\n{"event":"step","st')
    assert list(events_of(tmp_path / "trainer.jsonl")) == [{"event": "started", "step": 0}]


def test_every_rule_says_what_it_finds_why_and_from_where():
    rules = rules_as_json()
    assert len({rule["name"] for rule in rules}) == len(rules) == 14
    assert all(rule[part] for rule in rules for part in ("setting", "watches", "reason", "source"))


def going_on(factor):
    """A run of 300 steps with a checkpoint at 250, continued from there with losses times a factor."""
    past = list(steps(300))
    checkpoint = {"event": "checkpoint", "step": 250}
    again = list(
        steps(
            80,
            first=251,
            loss=lambda at, fields: fields["loss"] * factor,
            lossByBin=lambda at, fields: [loss and loss * factor for loss in fields["lossByBin"]],
        )
    )
    return [*past[:250], checkpoint, *past[250:], {"event": "started", "step": 250}, *again]


def test_a_run_that_goes_on_elsewhere_than_it_stopped_is_said_once():
    assert said(going_on(1.8)) == [("continue-break", 251)]
    assert [rule for rule, _ in said(going_on(4.0))].count("continue-break") == 1


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1])
def test_a_run_that_goes_on_where_it_stopped_is_not(factor):
    assert said(going_on(factor)) == []


def test_a_kill_while_the_first_steps_are_looked_at_changes_nothing_of_it():
    events = going_on(2.0)
    place = next(index for index, event in enumerate(events) if event.get("step") == 255 and index > 260)
    checkpoint, started = {"event": "checkpoint", "step": 255}, {"event": "started", "step": 255}
    assert ("continue-break", 256) in said([*events[: place + 1], checkpoint, events[place + 1], started, *events[place + 1 :]])
