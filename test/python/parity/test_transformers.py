from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osplan.domain.errors import UserError
from osplan.parity.case import load_case, seeded_state
from osplan.parity.compare import compare
from osplan.parity.run import find_handler
from osplan.parity.transformers import HANDLERS

GOLDEN = Path(__file__).parents[3] / "test" / "fixtures" / "golden"
CASES = sorted(path.stem for kind in ("dit_", "latte_") for path in GOLDEN.glob(f"{kind}*.json"))


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


def masked(case, values):
    """Values where the latent mask is 1, for outputs on the latent grid."""
    mask = case.inputs["attention_mask"]
    return values.movedim(1, -1)[mask > 0.5] if values.ndim == 5 else values


def test_every_kind_of_transformer_case_is_there():
    assert len(CASES) == 11


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_upstreams(name):
    case = load_case(GOLDEN / f"{name}.json")
    outputs = find_handler(case, HANDLERS)(case)
    assert set(outputs) >= set(case.expected)
    gradients = 5e-4 if name == "dit_v13_small_input" else 1e-4
    for key, expected in case.expected.items():
        got = outputs[key]
        assert got.shape == expected.shape, key
        if key == "loss":
            assert abs(got - expected).item() <= 1e-6
        elif key.startswith("grad"):
            assert relative(got, expected) <= gradients, key
        elif key != "blocks":
            assert relative(masked(case, got), masked(case, expected)) <= 5e-6, key
    assert compare(case, outputs).passed


@pytest.mark.parametrize("name", ["dit_v13_skiparse_video", "dit_v12_abspos", "dit_v15", "latte_v110"])
def test_one_perturbed_weight_fails(name, monkeypatch):
    case = load_case(GOLDEN / f"{name}.json")

    def perturbed(keys, seed):
        state = seeded_state(keys, seed)
        first = next(key for key in state if key.endswith("attn1.to_v.weight"))
        state[first].view(-1)[0] += 0.01
        return state

    monkeypatch.setattr("osplan.parity.case.seeded_state", perturbed)
    assert not compare(case, find_handler(case, HANDLERS)(case)).passed


def test_a_case_of_another_shape_is_refused():
    case = load_case(GOLDEN / "dit_v13_dense.json")
    keys = {**case.spec["keys"], "proj_out.bias": [33]}
    with pytest.raises(UserError, match="proj_out.bias"):
        HANDLERS["OpenSoraT2V_v1_3"](replace(case, spec={**case.spec, "keys": keys}))


def test_cases_without_masks_or_loss_run():
    case = load_case(GOLDEN / "dit_v13_skiparse_nomask96.json")
    inputs = {name: case.inputs[name] for name in ("x", "timestep", "cond")}
    out = HANDLERS["OpenSoraT2V_v1_3"](replace(case, inputs=inputs, expected={"out": case.expected["out"]}))
    assert set(out) == {"out"}
    assert torch.isfinite(out["out"]).all()
