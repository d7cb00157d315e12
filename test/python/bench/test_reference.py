from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.groups.data import RULES, write_annotations
from bench.reference import haar
from bench.reference.data import batches_of, indexed
from bench.reference.opensora import ReferenceOpenSora
from bench.reference.wfvae import ReferenceWfvae
from osplan.data.annotations import open_index
from osplan.data.selection import select
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig
from osplan.parity import autoencoders, transformers
from osplan.parity.case import load_case, seeded_state
from osplan.parity.compare import compare

GOLDEN = Path(__file__).parents[3] / "test" / "fixtures" / "golden"
TRANSFORMERS = sorted(path.stem for path in GOLDEN.glob("dit_v13*.json") if "inpaint" not in path.stem)


def golden(name, *without):
    """A case less the outputs that are no numbers of the model: blocks here lie sequence first."""
    case = load_case(GOLDEN / f"{name}.json")
    return replace(case, expected={key: value for key, value in case.expected.items() if key not in without})


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_transformer_we_are_compared_with_gives_upstreams_numbers(name, monkeypatch):
    monkeypatch.setattr(transformers, "OpenSora", ReferenceOpenSora)
    case = golden(name, "blocks")
    report = compare(case, transformers.opensora_case(case))
    assert [each.name for each in report.outputs if not each.passed] == []
    assert any(each.name.startswith("grad.") for each in report.outputs)


@pytest.mark.parametrize("name", ["wfvae_8dim", "wfvae_4dim", "wfvae_8dim_small_input"])
def test_the_autoencoder_we_are_compared_with_gives_upstreams_numbers(name, monkeypatch):
    monkeypatch.setattr(autoencoders, "WFVAE", ReferenceWfvae)
    case = golden(name)
    report = compare(case, autoencoders.wfvae_case(case))
    assert [each.name for each in report.outputs if not each.passed] == []
    assert any(each.name.startswith("grad.") for each in report.outputs)


def test_the_wavelets_we_are_compared_with_give_upstreams_numbers(monkeypatch):
    for transform in ("haar_2d", "haar_3d", "inverse_haar_2d", "inverse_haar_3d"):
        monkeypatch.setattr(autoencoders, transform, getattr(haar, transform))
    case = golden("haar")
    assert compare(case, autoencoders.haar_case(case)).passed


def test_one_weight_apart_and_the_reference_fails_its_case(monkeypatch):
    monkeypatch.setattr(transformers, "OpenSora", ReferenceOpenSora)

    def perturbed(keys, seed):
        state = seeded_state(keys, seed)
        state["transformer_blocks.1.attn1.to_v.weight"].view(-1)[0] += 0.01
        return state

    monkeypatch.setattr("osplan.parity.case.seeded_state", perturbed)
    case = golden("dit_v13_skiparse_video", "blocks")
    assert not compare(case, transformers.opensora_case(case)).passed


def test_both_sides_of_a_benchmark_take_the_same_weights():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "num_layers": 4, "patch_size": 2, "caption_channels": 16}
    config = OpenSoraConfig.from_json(
        {"_class_name": "OpenSoraT2V_v1_3", "activation_fn": "gelu-approximate", "sparse1d": True, "sparse_n": 2, **sizes}
    )
    ours, reference = OpenSora(config), ReferenceOpenSora(config)
    reference.load_state_dict(ours.state_dict())
    x, time, text = torch.randn(2, 4, 3, 6, 8), torch.tensor([10, 700]), torch.randn(2, 1, 5, 16)
    torch.testing.assert_close(ours(x, time, text), reference(x, time, text), rtol=1e-4, atol=1e-5)

    small = WfvaeConfig.from_json({"latent_dim": 4, "base_channels": 16, "decoder_energy_flow_hidden_size": 16, "norm_type": "layernorm"})
    vae, plain = WFVAE(small), ReferenceWfvae(small)
    assert plain.load_state_dict(vae.state_dict(), strict=False).missing_keys == []
    clip = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    torch.testing.assert_close(vae(clip).video, plain.decode(plain.encode(clip).mode()), rtol=1e-4, atol=1e-5)


def test_upstreams_way_keeps_the_clips_that_ours_keeps_and_orders_each_of_them(tmp_path):
    listed = write_annotations(tmp_path, 4000)
    ours = select(open_index(listed, tmp_path / "derived"), RULES).chosen
    reference = indexed(listed, RULES)
    assert [Path(entry["path"]).name for entry in reference.entries] == [Path(chosen.entry.path).name for chosen in ours]
    assert reference.shapes == ["x".join(map(str, bucket)) for bucket in ours.buckets.tolist()]
    assert 1000 < len(ours) < 4000
    assert set(batches_of(reference.shapes, 64, 1, 42)) <= set(range(len(ours)))
    assert len(set(batches_of(reference.shapes, 64, 2, 42))) > 0.9 * len(ours)
