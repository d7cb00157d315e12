import copy
from dataclasses import replace
from pathlib import Path

from osplan.parity.case import load_case
from osplan.parity.compare import compare
from osplan.parity.datasets import data_rules_case

CASE = Path(__file__).parents[2] / "fixtures" / "golden" / "data_rules.json"


def test_upstreams_data_rules_are_reproduced():
    case = load_case(CASE)
    report = compare(case, data_rules_case(case))
    assert {output.name for output in report.outputs} >= {
        "table.items",
        "table.frame_count",
        "table.area_fit",
        "table.sampler",
        "force_resized",
    }
    assert [output for output in report.outputs if not output.passed] == []


def test_a_wrong_expectation_is_noticed():
    case = load_case(CASE)
    spec = copy.deepcopy(dict(case.spec))
    spec["tables"]["items"][0]["result"]["frames"] = 89
    changed = replace(case, spec=spec)
    assert not compare(changed, data_rules_case(changed)).passed
