from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from osplan.domain.errors import UserError
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.registry import build_model, init_weights
from osplan.models.skiparse import Skip

KEYS = Path(__file__).parents[3] / "test" / "fixtures" / "keys"
TINY = {
    "_class_name": "OpenSoraT2V_v1_3",
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "cross_attention_dim": 48,
    "attention_bias": True,
    "sample_size_h": [8, 8],
    "sample_size_w": [8, 8],
    "sample_size_t": 3,
    "patch_size": 2,
    "patch_size_t": 1,
    "activation_fn": "gelu-approximate",
    "norm_eps": 1e-6,
    "caption_channels": 16,
    "sparse1d": True,
    "sparse_n": 2,
}
FULL = {
    **TINY,
    "num_attention_heads": 24,
    "attention_head_dim": 96,
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 32,
    "cross_attention_dim": 2304,
    "caption_channels": 4096,
    "sparse_n": 4,
}


def built(**changes):
    torch.manual_seed(0)
    return OpenSora(OpenSoraConfig.from_json({**TINY, **changes}))


def arguments(frames=3, batch=2, side=8, channels=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, frames, side, side, generator=generator)
    return x, torch.full((batch,), 300), torch.randn(batch, 1, 5, 16, generator=generator)


def listed(name):
    rows = [line.split("\t") for line in (KEYS / name).read_text().splitlines() if line.strip()]
    return {row[0]: row[1] for row in rows}


@pytest.mark.parametrize(
    ("name", "keys", "millions"),
    [("OpenSoraT2V_v1_3", "dit_v13_2B_122.txt", 2771.98), ("OpenSoraInpaint_v1_3", "inpaint_v13_2B_122.txt", 2782.7)],
)
def test_the_full_model_has_upstreams_tensors_and_number_of_parameters(name, keys, millions):
    with torch.device("meta"):
        model = build_model({**FULL, "_class_name": name})
    assert {key: str(tuple(tensor.shape)) for key, tensor in model.state_dict().items()} == listed(keys)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_full_masks_change_nothing():
    model = built()
    x, time, text = arguments()
    bare = model(x, time, text)
    masked = model(x, time, text, torch.ones(2, 3, 8, 8), torch.ones(2, 1, 5))
    torch.testing.assert_close(masked, bare, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_hidden_tokens_do_not_reach_the_visible_ones(n):
    model = built(sparse_n=n)
    x, time, text = arguments()
    mask = torch.ones(2, 3, 8, 8)
    mask[1, :, 4:] = 0
    changed = x.clone()
    changed[1, :, :, 4:] = 9.0
    visible = mask[:, None].expand_as(x) > 0
    torch.testing.assert_close(model(x, time, text, mask)[visible], model(changed, time, text, mask)[visible], rtol=0, atol=1e-5)


def test_masks_that_hide_everything_give_finite_numbers_and_gradients():
    model = built()
    x, time, text = arguments()
    out = model(x, time, text, torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 5))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_text_that_is_all_hidden_is_seen_whole():
    model = built()
    x, time, text = arguments()
    torch.testing.assert_close(model(x, time, text, None, torch.zeros(2, 1, 5)), model(x, time, text), rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", ["selective", "all"])
def test_recomputing_activations_changes_no_gradient(recompute):
    kept, again = built(), built()
    again.recompute = recompute
    for model in (kept, again):
        model(*arguments()).square().mean().backward()
    for ours, theirs in zip(again.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-7)


class Executed(TorchDispatchMode):
    """Counts the operators that really run."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.__name__
        wide = name.startswith("addmm") and args[2].shape[1] > args[2].shape[0]
        self.counts["wide" if wide else name] += 1
        return operator(*args, **(kwargs or {}))


def test_selective_recomputation_keeps_attention_and_computes_the_wide_layer_again():
    ran = {}
    for recompute in ("none", "selective", "all"):
        model = built(num_layers=1)
        model.recompute = recompute
        loss = model(*arguments()).sum()
        with Executed() as executed:
            loss.backward()
        ran[recompute] = (executed.counts["_scaled_dot_product_flash_attention_for_cpu.default"], executed.counts["wide"])
    assert ran == {"none": (0, 0), "selective": (0, 1), "all": (2, 1)}


def test_which_blocks_are_sparse_follows_upstream_or_a_list():
    default = OpenSoraConfig.from_json({**TINY, "num_layers": 33})
    assert default.sparse_blocks == frozenset(range(2, 30))
    assert (default.skip(1), default.skip(2), default.skip(3), default.skip(30)) == (Skip(), Skip(2), Skip(2, True), Skip())
    assert OpenSoraConfig.from_json({**TINY, "sparse_blocks": [0, 3]}).skip(3) == Skip(2, True)


def test_a_config_survives_the_way_to_json_and_back():
    for changes in ({}, {"sparse_blocks": [1]}, {"sparse1d": False}, {"_class_name": "OpenSoraInpaint_v1_3"}, {"rope_precision": "model"}):
        config = OpenSoraConfig.from_json({**TINY, **changes})
        assert OpenSoraConfig.from_json(config.to_json()) == config
    v12 = {**TINY, "_class_name": "OpenSoraT2V", "sample_size": [30, 40], "norm_type": "ada_norm_single", "use_rope": True}
    config = OpenSoraConfig.from_json(v12)
    assert OpenSoraConfig.from_json(config.to_json()) == config


def test_foreign_keys_and_numbers_for_sizes_are_read_too():
    config = OpenSoraConfig.from_json({**TINY, "sample_size_h": 8, "sample_size_w": 6, "decay": 0.999, "optimization_step": 7})
    assert config.sample_size == (3, 8, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_head_dim": 32, "cross_attention_dim": 64},
        {"cross_attention_dim": 47},
        {"num_layers": 0},
        {"num_layers": None},
        {"num_attention_heads": "2"},
        {"patch_size_t": 2},
        {"activation_fn": "relu"},
        {"sparse_blocks": [4]},
        {"rope_precision": "fp8"},
        {"interpolation_scale_t": 0},
        {"sample_size_h": "eight"},
        {"double_self_attention": True},
    ],
)
def test_a_config_that_cannot_be_built_is_refused_by_key(changes):
    with pytest.raises(UserError, match=next(iter(changes)).split("_head")[0]) as refusal:
        OpenSoraConfig.from_json({**TINY, **changes})
    assert refusal.value.code == "MODEL_CONFIG"


def test_latents_that_do_not_fit_are_refused():
    model = built()
    x, time, text = arguments()
    for wrong in (x[:, :3], x[..., :7], x[:, :, 0]):
        with pytest.raises(UserError) as refusal:
            model(wrong, time, text)
        assert refusal.value.code == "LATENT_SHAPE"


def test_pictures_beside_a_clip_are_denoised_as_if_alone():
    model = built(_class_name="OpenSoraT2V", use_rope=False, sample_size=[8, 8], sparse1d=False)
    x, time, _ = arguments(frames=5)
    texts = torch.randn(2, 3, 5, 16)
    joint = model(x, time, texts, images=2)
    torch.testing.assert_close(joint[:, :, :3], model(x[:, :, :3], time, texts[:, :1]))
    torch.testing.assert_close(joint[:, :, 4:], model(x[:, :, 4:], time, texts[:, 2:]))
    with pytest.raises(UserError, match="3 a sample"):
        model(x, time, texts[:, :2], images=2)


def test_absolute_positions_tell_places_apart():
    model = built(_class_name="OpenSoraT2V", use_rope=False, sample_size=[8, 8], sparse1d=False)
    out = model(torch.ones(1, 4, 3, 8, 8), torch.tensor([5]), torch.randn(1, 1, 5, 16))
    assert (out[:, :, 0] - out[:, :, 1]).abs().max() > 1e-3
    assert (out[..., :2] - out[..., 2:4]).abs().max() > 1e-3


def test_weights_drawn_after_a_meta_build_are_distributed_like_those_of_an_ordinary_build():
    with torch.device("meta"):
        model = build_model({**TINY, "_class_name": "OpenSoraInpaint_v1_3", "num_layers": 2})
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    torch.manual_seed(0)
    init_weights(model)
    ordinary = built(_class_name="OpenSoraInpaint_v1_3", num_layers=2)
    for (name, ours), theirs in zip(model.named_parameters(), ordinary.parameters(), strict=True):
        assert torch.isfinite(ours).all(), name
        if theirs.numel() > 1000:
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15, abs=1e-12), name


def test_bf16_weights_accept_fp32_latents_and_follow_fp32_closely():
    model = built()
    x, time, text = arguments()
    exact = model(x, time, text)
    rough = model.bfloat16()(x, time, text).float()
    assert (rough - exact).norm() / exact.norm() < 0.05
