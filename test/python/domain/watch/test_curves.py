"""How good the rules are on the labelled curves; docs/incidents.md has the table."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
sys.path.insert(0, str(ROOT / "test" / "fixtures" / "curves"))

import score  # noqa: E402

from osplan.domain.watch.watch import rules_as_json  # noqa: E402


@pytest.fixture(scope="module")
def curves():
    return [*score.real_curves(), *score.synthetic_curves()]


@pytest.fixture(scope="module")
def table(curves):
    return score.scores(curves, score.DEFAULTS)


def test_the_rules_are_judged_with_the_defaults_of_the_schema():
    shipped = re.findall(r"\| `incidents\.watch\.(\w+)` \| `([^`]+)` \|", (ROOT / "docs" / "settings.md").read_text())
    used = {
        re.sub(r"_(\w)", lambda match: match.group(1).upper(), name): value for name, value in dataclasses.asdict(score.DEFAULTS).items()
    }
    assert {name: json.loads(value) for name, value in shipped} == used


def test_nothing_is_said_of_twenty_healthy_real_runs_of_different_seeds(curves):
    healthy = [curve for curve in curves if curve.kind == "real" and curve.name == "healthy"]
    assert len({curve.seed for curve in healthy}) == len(healthy) >= 20
    assert all(sum(event["event"] == "step" for event in curve.events) >= 300 for curve in healthy)
    assert {curve.seed: said for curve in healthy if (said := score.said_of(curve, score.DEFAULTS))} == {}


def test_half_of_the_curves_are_real_runs_and_all_are_on_seeds_not_used_for_tuning(curves):
    real = [curve for curve in curves if curve.kind == "real"]
    assert 0.4 <= len(real) / len(curves) <= 0.6
    assert min(curve.seed for curve in curves) >= 100
    faults = {rule for curve in curves for rule in curve.label}
    assert faults == {rule["name"] for rule in rules_as_json()} - {"non-finite", "continue-break"}


def test_every_rule_finds_its_faults_and_is_seldom_wrong(table):
    recall = {rule: round(found.recall, 2) for rule, found in table.items() if found.recall < 0.8}
    precision = {rule: (round(found.precision, 2), found.false) for rule, found in table.items() if found.precision < 0.8}
    assert (recall, precision) == ({}, {})
    right, wrong = sum(found.right for found in table.values()), sum(len(found.false) for found in table.values())
    missed = sum(len(found.missed) for found in table.values())
    assert right / (right + wrong) >= 0.93 and right / (right + missed) >= 0.93


def test_the_page_has_the_numbers_that_are_measured(table):
    rows = dict(
        re.findall(r"^\| `([\w-]+)` \| (\d+ \| \d+ \| \d+ \| [\d.]+ \| [\d.]+) \|$", (ROOT / "docs" / "incidents.md").read_text(), re.M)
    )
    assert rows == {rule: score.row(found) for rule, found in table.items()}
