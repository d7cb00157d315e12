from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osplan.domain.errors import UserError
from osplan.parity.case import Case, load_case
from osplan.parity.compare import compare
from osplan.parity.run import find_handler, known_handlers, run_case

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
CASES = [
    "train_math_ddpm",
    "train_math_flow",
    "train_math_losses",
    "train_math_misc",
    "train_step_v13_rf",
    "train_step_v13_vpred",
    "sampling_ddim",
    "sampling_euler_ancestral",
    "sampling_flow_euler",
    "captions",
    "inpaint_masks",
]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def with_params(case: Case, **changes: object) -> Case:
    return replace(case, spec={**case.spec, "params": {**case.spec["params"], **changes}})


def failing(case: Case) -> set[str]:
    report = compare(case, find_handler(case, known_handlers())(case))
    return {output.name for output in report.outputs if not output.passed}


@pytest.mark.parametrize("name", CASES)
def test_every_case_of_objectives_samplers_and_conditions_agrees(name):
    report = run_case(GOLDEN / f"{name}.json", known_handlers())
    assert report.passed, [output for output in report.outputs if not output.passed]


def test_a_step_with_another_learning_rate_changes_what_comes_after_and_nothing_before():
    case = load_case(GOLDEN / "train_step_v13_rf.json")
    names = failing(with_params(case, lr=case.spec["params"]["lr"] * 2))
    assert names
    assert all(name.startswith("after.") for name in names)


def test_a_step_without_its_min_snr_weights_fails():
    case = load_case(GOLDEN / "train_step_v13_vpred.json")
    assert "loss" in failing(with_params(case, args={**case.spec["params"]["args"], "snr_gamma": None}))


@pytest.mark.parametrize("change", [{"guidance": 4.4}, {"rescale": 0.6}, {"steps": 6}])
def test_sampling_with_other_settings_fails(change):
    assert "latents_after" in failing(with_params(load_case(GOLDEN / "sampling_ddim.json"), **change))


def test_a_sampling_method_that_is_not_built_is_refused():
    case = load_case(GOLDEN / "sampling_ddim.json")
    with pytest.raises(UserError) as caught:
        failing(with_params(case, sampler={**case.spec["params"]["sampler"], "method": "PNDM"}))
    assert caught.value.code == "CASE_INVALID"


@pytest.mark.parametrize("steps", [0, 1001, "ten", None])
def test_steps_that_cannot_be_taken_are_refused(steps):
    with pytest.raises(UserError) as caught:
        failing(with_params(load_case(GOLDEN / "sampling_ddim.json"), steps=steps))
    assert caught.value.code == "CASE_INVALID"


@pytest.mark.parametrize("argument", ["prediction_type", "schedule", "weighting_scheme"])
def test_a_name_that_no_objective_has_is_refused(argument):
    case = load_case(GOLDEN / "train_step_v13_vpred.json")
    with pytest.raises(UserError) as caught:
        failing(with_params(case, args={**case.spec["params"]["args"], argument: "mystery"}))
    assert caught.value.code == "CASE_INVALID"


def test_a_case_without_its_noise_is_refused_as_incomplete(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(GOLDEN / "train_math_flow.safetensors")
    del tensors["in.noise"]
    save_file(tensors, tmp_path / "train_math_flow.safetensors")
    (tmp_path / "train_math_flow.json").write_text((GOLDEN / "train_math_flow.json").read_text())
    with pytest.raises(UserError) as caught:
        run_case(tmp_path / "train_math_flow.json", known_handlers())
    assert caught.value.code == "CASE_INVALID"
