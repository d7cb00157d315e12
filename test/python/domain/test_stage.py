"""The Python half of the stage contract: what TypeScript resolved is read whole, or refused by name."""

import copy
import dataclasses
import json
import subprocess
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from osplan.domain.errors import UserError
from osplan.domain.protocol import camel
from osplan.domain.run_files import read_stage
from osplan.domain.stage import LIVE_PATHS, Stage, decode_stage

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def complete() -> dict[str, Any]:
    """The defaults, as TypeScript writes them to stage.json."""
    script = "import { defaultStage } from './src/domain/stage/fields.ts'; console.log(JSON.stringify(defaultStage('tiny')))"
    done = subprocess.run(
        ["node", "--import", "tsx", "--input-type=module", "-e", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def test_a_complete_stage_is_read_with_lists_as_tuples_and_names_in_snake_case(complete: dict[str, Any]):
    stage = decode_stage(complete)
    assert stage.name == "tiny"
    assert stage.learning_rate == pytest.approx(1e-4)
    assert stage.model.patch == (1, 2, 2)
    assert stage.vae.class_ == "WFVAEModel"
    assert stage.objective.mask_ratios["i2v"] == 8


def test_every_section_refuses_a_missing_key_by_its_path(complete: dict[str, Any]):
    for path in sections(complete):
        for key in at(complete, path):
            stage = copy.deepcopy(complete)
            del at(stage, path)[key]
            with pytest.raises(UserError, match=rf"^{'.'.join(('stage', *path))}: .*missing {key} ") as caught:
                decode_stage(stage)
            assert caught.value.code == "STAGE_INVALID"


def test_every_section_refuses_an_unknown_key_by_its_path(complete: dict[str, Any]):
    for path in sections(complete):
        stage = copy.deepcopy(complete)
        at(stage, path)["learning_rat"] = 1
        with pytest.raises(UserError, match=rf"^{'.'.join(('stage', *path))}: .*unknown learning_rat "):
            decode_stage(stage)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), "700"),
        (("steps",), True),
        (("steps",), 1.5),
        (("steps",), None),
        (("learningRate",), "1e-4"),
        (("ema", "enabled"), 1),
        (("kind",), "t2v"),
        (("shape",), None),
        (("shape",), []),
        (("model", "patch"), 2),
        (("model", "patch"), [1, 2, "2"]),
        (("trainable",), "all"),
        (("objective", "maskRatios"), []),
        (("phases",), [{"at": 3, "trainable": ["all"]}]),
        (("phases",), [{"at": None, "trainable": ["all"], "rewarmSteps": 0}]),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_path(complete: dict[str, Any], path: tuple[str, ...], value: object):
    stage = copy.deepcopy(complete)
    at(stage, path[:-1])[path[-1]] = value
    with pytest.raises(UserError, match=rf"^{'.'.join(('stage', *path))}"):
        decode_stage(stage)


@pytest.mark.parametrize("value", [None, [], 3, "stage"])
def test_what_is_no_object_is_no_stage(value: object):
    with pytest.raises(UserError, match="^stage: expected an object"):
        decode_stage(value)


def test_a_phase_is_read_with_a_step_a_share_or_the_plateau(complete: dict[str, Any]):
    places = [0, "50%", "plateau"]
    stage = decode_stage({**complete, "phases": [{"at": place, "trainable": ["all"], "rewarmSteps": 0} for place in places]})
    assert [phase.at for phase in stage.phases] == places


def test_no_field_has_a_default_and_none_may_be_assigned(complete: dict[str, Any]):
    for section in dataclasses_of(Stage):
        for entry in dataclasses.fields(section):
            assert entry.default is dataclasses.MISSING, entry.name
            assert entry.default_factory is dataclasses.MISSING, entry.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        decode_stage(complete).steps = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_live_paths_are_fields(complete: dict[str, Any]):
    assert "learningRate" in LIVE_PATHS
    for path in LIVE_PATHS:
        *section, name = path.split(".")
        assert name in at(complete, tuple(section))


def sections(stage: dict[str, Any]) -> list[tuple[str, ...]]:
    """Paths of the stage and of its sections; records with free names are no sections."""
    names = {camel(name): hint for name, hint in get_type_hints(Stage).items()}
    return [(), *((key,) for key in stage if dataclasses.is_dataclass(names[key]))]


def at(stage: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        stage = stage[name]
    return stage


def dataclasses_of(owner: type) -> list[type]:
    inner = [hint for hint in get_type_hints(owner).values() if isinstance(hint, type) and not isinstance(hint, types.GenericAlias)]
    return [owner, *(found for hint in inner if dataclasses.is_dataclass(hint) and hint is not Mapping for found in dataclasses_of(hint))]


def test_a_stage_stored_before_a_field_came_does_what_was_done_then(tmp_path, complete):
    stored = copy.deepcopy(complete)
    del stored["checkpoint"]["keepEnds"]
    (tmp_path / "stage.json").write_text(json.dumps(stored))
    stage, _, newer = read_stage(tmp_path)
    assert newer == {"checkpoint.keepEnds": False} and decode_stage(stage).checkpoint.keep_ends is False


@pytest.mark.parametrize("missing", [("checkpoint", "keepLast"), ("learningRate",), ("checkpoint",)])
def test_any_other_field_that_is_missing_in_a_stored_stage_is_refused(tmp_path, complete, missing):
    stored = copy.deepcopy(complete)
    del (stored if len(missing) == 1 else stored[missing[0]])[missing[-1]]
    (tmp_path / "stage.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=f"missing {missing[-1]}"):
        decode_stage(read_stage(tmp_path)[0])
