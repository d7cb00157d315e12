"""A sweep's questions over its storage file: what a killed and replaced interpreter must not change."""

import importlib.util
import math
import re
import statistics

import pytest

from osplan import sweep
from osplan.domain.errors import UserError

RATE = {"path": "learningRate", "kind": "real", "min": 1e-5, "max": 1e-1, "step": None, "log": True, "when": {}}
DEPTH = {"path": "trainable", "kind": "choice", "values": [["all"], ["all", "-blocks[0:2]"]], "when": {}}
BETA = {
    "path": "optimizer.beta2",
    "kind": "real",
    "min": 0.9,
    "max": 0.999,
    "step": None,
    "log": False,
    "when": {"optimizer.name": ["adamw"]},
}
NAME = {"path": "optimizer.name", "kind": "choice", "values": ["adamw", "sgd"], "when": {}}
LAYERS = {"path": "model.layers", "kind": "integer", "min": 2, "max": 8, "step": 2, "log": False, "when": {}}
SPACE = [RATE, DEPTH, NAME, BETA, LAYERS]
PRUNER = {
    "name": "none", "warmupSteps": 0, "reduction": 3, "startup": 0, "minPoints": 1, "maxSteps": 90, "patience": 2, "minDelta": 0.0,
    "upper": None, "lower": None,
}  # fmt: skip


def study(folder, *, sampler="tpe", seed=7, startup=4, **pruner):
    return {
        "path": str(folder / "study.log"),
        "seed": seed,
        "sampler": {"name": sampler, "startup": startup},
        "pruner": {**PRUNER, **pruner},
    }


def loss(values):
    return abs(math.log10(values["learningRate"]) + 3) + 0.1 * len(values["trainable"])


def trained(asked, points, replaced=False):
    """Asks and tells points one after another; `replaced` forgets what the process knows between all questions."""
    found = []
    for number in range(points):
        values = sweep.ask(asked, number, SPACE, None)["values"]
        if replaced:
            sweep._storages.clear()
        sweep.tell(asked, number, "done", loss(values))
        found.append(values)
    return found


def test_the_same_seed_suggests_the_same_points_also_when_the_process_is_replaced_in_between(tmp_path):
    steady = trained(study(tmp_path / "a"), 9)
    assert trained(study(tmp_path / "b"), 9, replaced=True) == steady
    assert trained(study(tmp_path / "c", seed=8), 9) != steady
    assert len({str(values) for values in steady}) == 9


def test_a_question_asked_again_is_answered_the_same(tmp_path):
    asked = study(tmp_path)
    first = sweep.ask(asked, 0, SPACE, None)
    sweep._storages.clear()
    assert sweep.ask(asked, 0, SPACE, None) == first
    again = [sweep.report(asked, 0, 10, 0.5, True, None) for _ in range(2)]
    assert again[0] == again[1]
    sweep.tell(asked, 0, "done", 0.5)
    sweep.tell(asked, 0, "done", 0.7)
    assert sweep.ask(asked, 0, SPACE, None) == first
    assert sweep.ask(asked, 1, SPACE, None)["values"] != first["values"]


def test_a_line_torn_by_a_kill_costs_nothing(tmp_path):
    asked = study(tmp_path)
    first = sweep.ask(asked, 0, SPACE, None)
    sweep._storages.clear()
    with open(asked["path"], "ab") as file:
        file.write(b'{"op_code": 5, "work')
    assert sweep.ask(asked, 0, SPACE, None) == first
    sweep.tell(asked, 0, "done", 1.0)
    sweep._storages.clear()
    assert sweep.ask(asked, 1, SPACE, None)["number"] == 1


def test_an_axis_whose_condition_fails_is_left_out_and_steps_are_kept(tmp_path):
    for values in trained(study(tmp_path, sampler="random"), 20):
        assert ("optimizer.beta2" in values) == (values["optimizer.name"] == "adamw")
        assert values["model.layers"] in (2, 4, 6, 8)
        assert 1e-5 <= values["learningRate"] <= 1e-1


def test_given_values_are_taken_as_they_are(tmp_path):
    given = {"learningRate": 0.01, "trainable": ["all"], "optimizer.name": "sgd", "model.layers": 4}
    assert sweep.ask(study(tmp_path), 0, SPACE, given)["values"] == given


def test_points_missing_from_the_storage_are_refused(tmp_path):
    with pytest.raises(UserError, match="expected 3 points, got 0"):
        sweep.ask(study(tmp_path), 3, SPACE, None)


def test_halving_gives_up_what_is_not_among_the_best_third_at_the_same_step_and_says_why(tmp_path):
    asked = study(tmp_path, name="asha", warmupSteps=10, reduction=3)
    for number, value in enumerate([0.5, 0.4, 0.9, 0.3]):
        sweep.ask(asked, number, SPACE, None)
        answer = sweep.report(asked, number, 10, value, True, None)
        assert answer["prune"] == (number == 2), number
        if answer["prune"]:
            assert answer["compared"] == [{"point": 0, "value": 0.5}, {"point": 1, "value": 0.4}]
            assert answer["reason"] == "asha: 0.9 at step 10, rank 3 of 3; the best 1/3 go on"
    assert sweep.report(asked, 3, 20, 5.0, True, None)["prune"] is False, "20 is no rung"


def test_a_decision_sees_only_the_points_it_may_see(tmp_path):
    asked = study(tmp_path, name="asha", warmupSteps=10, reduction=3)
    for number, value in enumerate([0.5, 0.1, 0.2]):
        sweep.ask(asked, number, SPACE, None)
        sweep.report(asked, number, 10, value, True, None)
    sweep.ask(asked, 3, SPACE, None)
    alone = sweep.report(asked, 3, 10, 0.4, True, [0])
    assert (alone["prune"], alone["compared"]) == (False, [{"point": 0, "value": 0.5}])


@pytest.mark.parametrize(
    ("pruner", "values", "pruned_at"),
    [
        ({"name": "median", "startup": 1, "warmupSteps": 20}, [2.0, 2.0, 2.0], 20),
        ({"name": "patience", "patience": 1}, [1.0, 1.2, 1.3], 30),
        ({"name": "threshold", "upper": 1.5, "warmupSteps": 0}, [1.0, 1.6, 1.0], 20),
        ({"name": "none"}, [9.0, math.nan, 9.0], 20),
        ({"name": "hyperband", "warmupSteps": 10, "maxSteps": 90}, [math.inf, 1.0, 1.0], 10),
    ],
)
def test_each_pruner_acts_at_its_step_and_not_before(tmp_path, pruner, values, pruned_at):
    asked = study(tmp_path, **pruner)
    sweep.ask(asked, 0, SPACE, None)
    for step in (10, 20, 30):
        sweep.report(asked, 0, step, 0.5, False, None)
    sweep.tell(asked, 0, "done", 0.5)
    sweep.ask(asked, 1, SPACE, None)
    decisions = {step: sweep.report(asked, 1, step, value, True, None) for step, value in zip((10, 20, 30), values, strict=True)}
    first = next(step for step, answer in decisions.items() if answer["prune"])
    assert first == pruned_at
    assert decisions[first]["reason"]


def test_a_loss_that_is_no_number_ends_a_point_as_failed(tmp_path):
    asked = study(tmp_path)
    sweep.ask(asked, 0, SPACE, None)
    assert sweep.tell(asked, 0, "done", {"$f": "nan"}) == {"state": "failed"}


def test_importance_finds_the_axis_that_matters(tmp_path):
    asked = study(tmp_path, sampler="random")
    for number in range(40):
        values = sweep.ask(asked, number, [RATE, LAYERS], None)["values"]
        sweep.tell(asked, number, "done", abs(math.log10(values["learningRate"]) + 3) + 0.001 * values["model.layers"])
    found = sweep.importance(asked)
    assert found["method"] in ("fanova", "ped-anova")
    assert found["importance"]["learningRate"] > 0.6
    assert math.isclose(sum(found["importance"].values()), 1, rel_tol=1e-6)


@pytest.mark.parametrize("sampler", ["qmc", "gp", "cmaes"])
def test_a_sampler_whose_package_is_missing_is_refused_with_how_to_install_it(tmp_path, monkeypatch, sampler):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"sampler {sampler}: expected the package") as refused:
        sweep.ask(study(tmp_path, sampler=sampler), 0, SPACE, None)
    assert re.search(r"-m pip install (scipy|cmaes), or use tpe$", refused.value.hint or "")


WIDTH = {"path": "weightDecay", "kind": "real", "min": 0.0, "max": 1.0, "step": None, "log": False, "when": {}}


def losses_of(asked, points):
    found = []
    for number in range(points):
        values = sweep.ask(asked, number, [RATE, WIDTH, DEPTH], None)["values"]
        found.append(abs(math.log10(values["learningRate"]) + 3) + abs(values["weightDecay"] - 0.3))
        sweep.tell(asked, number, "done", found[-1])
    return found


@pytest.mark.parametrize(("sampler", "points"), [("tpe", 40), ("gp", 11), ("cmaes", 40)])
def test_a_sampler_that_learns_comes_nearer_than_chance(tmp_path, sampler, points):
    later = losses_of(study(tmp_path / "a", sampler=sampler, startup=6), points)[max(6, points // 2) :]
    chance = losses_of(study(tmp_path / "b", sampler="random"), 60)
    assert statistics.median(later) < 0.6 * statistics.median(chance)


def test_quasi_random_points_fill_a_range_evenly(tmp_path):
    asked = study(tmp_path, sampler="qmc")
    rates = [sweep.ask(asked, number, [RATE, WIDTH], None)["values"]["learningRate"] for number in range(17)]
    eighths = [int((math.log10(rate) + 5) / 4 * 8) for rate in rates[1:]]
    assert [eighths.count(part) for part in range(8)] == [2] * 8, "the first is drawn at random: the space is known after it"


@pytest.mark.parametrize("sampler", ["qmc", "gp", "cmaes"])
def test_every_sampler_goes_on_the_same_in_another_process(tmp_path, sampler):
    steady = trained(study(tmp_path / "a", sampler=sampler), 7)
    assert trained(study(tmp_path / "b", sampler=sampler), 7, replaced=True) == steady


def test_points_that_were_worse_than_all_turn_the_sampler_away(tmp_path):
    def diverging(asked):
        """How many of the later points lie where all diverge."""
        found = 0
        for number in range(24):
            rate = sweep.ask(asked, number, [RATE], None)["values"]["learningRate"]
            sweep.tell(
                asked, number, "done" if rate < 1e-3 else "pruned", loss({"learningRate": rate, "trainable": []}) if rate < 1e-3 else None
            )
            found += number >= 8 and rate >= 1e-3
        return found

    assert sum(diverging(study(tmp_path / str(seed), seed=seed)) for seed in range(3)) < 3 * 16 * 0.5
