import pytest
import torch

from osplan.domain.errors import UserError
from osplan.models.latte import Latte, LatteConfig
from osplan.models.registry import build_model, init_weights

TINY = {
    "_class_name": "LatteT2V",
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "attention_bias": True,
    "sample_size": [8, 8],
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 16,
    "video_length": 17,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Latte(LatteConfig.from_json(TINY))


def test_learned_variance_doubles_the_output_channels(model):
    assert model(torch.randn(2, 4, 3, 8, 8), torch.tensor([1, 2]), torch.randn(2, 1, 5, 16)).shape == (2, 8, 3, 8, 8)


def test_frames_are_numbered_by_the_rule_of_the_version_that_wrote_the_config():
    assert LatteConfig.from_json(TINY).time_scale == 3
    assert LatteConfig.from_json({**TINY, "use_rope": False}).time_scale == 1
    assert LatteConfig.from_json({**TINY, "use_rope": False, "video_length": 65}).time_scale == 4
    assert LatteConfig.from_json({**TINY, "use_rope": False, "interpolation_scale_1d": 2}).time_scale == 2


def test_a_config_survives_the_way_to_json_and_back():
    for changes in ({}, {"use_rope": False}):
        config = LatteConfig.from_json({**TINY, **changes})
        assert LatteConfig.from_json(config.to_json()) == config


def test_text_may_come_with_or_without_its_axis_of_images(model):
    x, time, text = torch.randn(1, 4, 2, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16)
    mask = torch.tensor([[1, 1, 0, 0, 0]])
    torch.testing.assert_close(model(x, time, text, None, mask), model(x, time, text[:, None], None, mask[:, None]))


def test_full_masks_change_nothing_and_empty_ones_stay_finite(model):
    x, time, text = torch.randn(1, 4, 2, 8, 8), torch.tensor([7]), torch.randn(1, 1, 5, 16)
    torch.testing.assert_close(model(x, time, text, torch.ones(1, 2, 8, 8), torch.ones(1, 1, 5)), model(x, time, text), rtol=0, atol=1e-5)
    assert torch.isfinite(model(x, time, text, torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 5))).all()


def test_images_see_no_other_frame_and_the_clip_sees_no_image(model):
    x, time, texts = torch.randn(1, 4, 4, 8, 8), torch.tensor([7]), torch.randn(1, 3, 5, 16)
    out = model(x, time, texts, images=2)
    other = x.clone()
    other[:, :, 2] += 1
    changed = model(other, time, texts, images=2)
    torch.testing.assert_close(changed[:, :, :2], out[:, :, :2])
    torch.testing.assert_close(changed[:, :, 3], out[:, :, 3])
    torch.testing.assert_close(out[:, :, :2], model(x[:, :, :2], time, texts[:, :1]))


def test_clips_beside_images_can_go_without_frame_numbers_as_upstream_trained(model):
    x, time, texts = torch.randn(1, 4, 4, 8, 8), torch.tensor([7]), torch.randn(1, 2, 5, 16)
    numbered = model(x, time, texts, images=1)
    model.numbers_frames_beside_images = False
    assert not torch.allclose(model(x, time, texts, images=1)[:, :, :3], numbered[:, :, :3])


def test_recomputing_activations_changes_no_gradient():
    gradients = []
    for recompute in ("none", "selective"):
        torch.manual_seed(0)
        model = Latte(LatteConfig.from_json(TINY))
        model.recompute = recompute
        torch.manual_seed(2)
        model(torch.randn(1, 4, 2, 8, 8), torch.tensor([7]), torch.randn(1, 1, 5, 16)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("changes", [{"use_rope": True}, {"compress_kv_factor": 2}, {"norm_type": "layer_norm"}, {"video_length": "x"}])
def test_what_is_not_built_is_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        LatteConfig.from_json({**TINY, **changes})


def test_weights_are_drawn_after_a_meta_build():
    with torch.device("meta"):
        model = build_model(TINY)
    model = model.to_empty(device="cpu")
    init_weights(model)
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(model.blocks) == 4
