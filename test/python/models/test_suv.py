import pytest
import torch

from osplan.domain.errors import UserError
from osplan.models.registry import build_model, init_weights
from osplan.models.suv import Suv
from osplan.models.suv_config import SuvConfig

TINY = {
    "_class_name": "SparseUMMDiT",
    "num_heads": 2,
    "head_dim": 16,
    "in_channels": 4,
    "num_layers": [2, 2, 2],
    "sparse_n": [1, 3, 1],
    "timestep_embed_dim": 8,
    "caption_channels": 6,
    "pooled_projection_dim": 5,
    "patch_size": 2,
    "sample_size_t": 4,
    "sample_size_h": 6,
    "sample_size_w": 6,
}


def built(**changes):
    torch.manual_seed(0)
    return Suv(SuvConfig.from_json({**TINY, **changes}))


def arguments(frames=3):
    generator = torch.Generator().manual_seed(1)
    x, text, pooled = (torch.randn(*shape, generator=generator) for shape in ((2, 4, frames, 6, 6), (2, 1, 4, 6), (2, 1, 5)))
    return (x, torch.tensor([100.0, 900.0]), text), {"pooled_B1C": pooled}


def test_the_full_model_has_eight_and_a_half_billion_parameters():
    with torch.device("meta"):
        model = build_model({"_class_name": "SparseUMMDiT", "num_heads": 24, "head_dim": 128, "in_channels": 32, "patch_size": 2})
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(8.5, abs=0.1)
    assert model.config.stages == (2, 4, 6, 8, 6, 4, 2)


def test_the_last_text_branch_exists_on_request_and_changes_no_number():
    names = set(built(last_text_branch=True).state_dict()) - set(built().state_dict())
    assert {name.split(".", 3)[3].split(".")[0] for name in names} == {"attn1", "norm2", "ff_enc"}
    with_branch, without = built(last_text_branch=True), built()
    without.load_state_dict({name: with_branch.state_dict()[name] for name in without.state_dict()})
    positional, named = arguments()
    assert torch.equal(with_branch(*positional, **named), without(*positional, **named))


def test_full_masks_change_nothing_and_empty_ones_stay_finite():
    model = built()
    (x, time, text), named = arguments()
    bare = model(x, time, text, **named)
    torch.testing.assert_close(model(x, time, text, torch.ones(2, 3, 6, 6), torch.ones(2, 1, 4), **named), bare, rtol=0, atol=1e-5)
    assert torch.isfinite(model(x, time, text, torch.zeros(2, 3, 6, 6), torch.zeros(2, 1, 4), **named)).all()


def test_hidden_text_does_not_reach_the_clip():
    model = built()
    (x, time, text), named = arguments()
    mask = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 1]]])
    changed = text.clone()
    changed[0, :, 2:] = 5
    torch.testing.assert_close(model(x, time, text, None, mask, **named), model(x, time, changed, None, mask, **named), rtol=0, atol=1e-5)


def test_skip_connections_start_closed():
    model = built()
    assert torch.equal(model.skip_norm_linear[0][1].weight, torch.cat([torch.eye(32), torch.zeros(32, 32)], dim=1))
    assert len(model.skip_norm_linear) == 1
    assert not hasattr(built(skip_connection=False), "skip_norm_linear")


def test_positions_start_at_random_only_in_training_and_only_on_request():
    positional, named = arguments(frames=1)
    still, moving = built(), built(explicit_uniform_rope=True)
    assert torch.equal(still(*positional, **named), moving.eval()(*positional, **named))
    starts = {moving.train()._start((1, 3, 3)) for _ in range(50)}
    assert {start[0] for start in starts} == {0, 1, 2, 3}
    assert {start[1] for start in starts} <= {0, 1, 2, 3}


@pytest.mark.parametrize("changes", [{}, {"double_ff": False}, {"norm_cls": "rms_norm"}, {"skip_connection_zero_init": False}])
@pytest.mark.parametrize("recompute", ["none", "selective", "all"])
def test_every_layer_that_is_read_learns(changes, recompute):
    model = built(**changes)
    init_weights(model)
    model.recompute = recompute
    positional, named = arguments()
    model(*positional, **named).square().sum().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(".2.1." in f".{name}" for name in silent), silent


def test_weights_drawn_after_a_meta_build_are_finite():
    with torch.device("meta"):
        model = build_model(TINY)
    model = model.to_empty(device="cpu")
    init_weights(model)
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.blocks[0].attn1.to_q.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_config_survives_the_way_to_json_and_back():
    for changes in ({}, {"last_text_branch": True}, {"double_ff": False, "norm_cls": "rms_norm"}):
        config = SuvConfig.from_json({**TINY, **changes})
        assert SuvConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "changes", [{"num_layers": [2, 2]}, {"num_layers": [2, 3, 2]}, {"sparse_n": "1"}, {"head_dim": 24}, {"norm_cls": "x"}]
)
def test_a_config_that_cannot_be_built_is_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))) as refusal:
        SuvConfig.from_json({**TINY, **changes})
    assert refusal.value.code == "MODEL_CONFIG"


def test_a_missing_pooled_caption_is_refused():
    positional, _ = arguments()
    with pytest.raises(UserError, match="pooled"):
        built()(*positional)
