import pytest
import torch

from osplan.domain.errors import UserError
from osplan.models.causal_vae import CausalVAE, CausalVaeConfig
from osplan.models.resampling import TimeAveragePool
from osplan.models.vae_blocks import FrameAttention, LegacyAttention

TINY = {"hidden_size": 32, "hidden_size_mult": [1, 1, 1, 1], "num_res_blocks": 1, "resolution": 32}
V10 = TINY | {
    "encoder_temporal_downsample": ["TimeDownsample2x", "TimeDownsample2x", "", ""],
    "lr": 1e-5,
    "loss_params": {"disc_start": 2001},
}
V12 = TINY | {
    "encoder_conv_in": "Conv2d",
    "encoder_attention": "AttnBlock3DFix",
    "decoder_attention": "AttnBlock3DFix",
    "encoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"],
    "encoder_spatial_downsample": ["Downsample", "Spatial2xTime2x3DDownsample", "Spatial2xTime2x3DDownsample", ""],
    "encoder_temporal_downsample": ["", "", "", ""],
    "decoder_spatial_upsample": ["", "SpatialUpsample2x", "Spatial2xTime2x3DUpsample", "Spatial2xTime2x3DUpsample"],
    "decoder_temporal_upsample": ["", "", "", ""],
}
MIXED = TINY | {
    "encoder_spatial_downsample": ["Downsample", "Spatial2x3DDownsample", "SpatialDownsample2x", ""],
    "encoder_temporal_downsample": ["", "TimeDownsampleRes2x", "TimeDownsampleRes2x", ""],
    "decoder_spatial_upsample": ["", "Upsample", "Spatial2x3DUpsample", "SpatialUpsample2x"],
    "decoder_temporal_upsample": ["", "", "TimeUpsampleRes2x", "TimeUpsampleRes2x"],
    "attn_resolutions": [8],
    "norm_type": "layernorm",
}


def build(raw):
    torch.manual_seed(3)
    return CausalVAE(CausalVaeConfig.from_json(raw)).eval()


@torch.no_grad()
@pytest.mark.parametrize("raw", [V10, V12, MIXED], ids=["v1.0", "v1.2", "mixed"])
@pytest.mark.parametrize("frames", [1, 5])
def test_a_clip_comes_back_in_its_shape_from_every_published_layout(raw, frames):
    model = build(raw)
    posterior = model.encode(torch.randn(1, 3, frames, 16, 24))
    assert model.stride == (4, 8)
    assert posterior.mean.shape == (1, 4, (frames - 1) // 4 + 1, 2, 3)
    assert model.decode(posterior.mean).shape == (1, 3, frames, 16, 24)


def test_legacy_attention_is_built_only_where_the_config_names_it():
    assert isinstance(build(V10).encoder.mid.attn_1, LegacyAttention)
    fixed = build(V12).encoder.mid.attn_1
    assert isinstance(fixed, FrameAttention) and not isinstance(fixed, LegacyAttention)


@torch.no_grad()
def test_legacy_attention_equals_the_fixed_one_on_an_image_and_not_on_a_clip():
    legacy, fixed = LegacyAttention(32, "groupnorm"), FrameAttention(32, "groupnorm")
    fixed.load_state_dict(legacy.state_dict())
    image, clip = torch.randn(2, 32, 1, 3, 4), torch.randn(2, 32, 3, 3, 4)
    torch.testing.assert_close(legacy(image), fixed(image))
    assert not torch.allclose(legacy(clip), fixed(clip), atol=1e-3)


def test_resampling_weights_have_upstreams_names():
    names = set(build(MIXED).state_dict())
    for name in (
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.1.downsample.conv.conv.weight",
        "encoder.down.1.time_downsample.mix_factor",
        "encoder.down.1.time_downsample.conv.weight",
        "encoder.down.2.attn.0.proj_out.conv.bias",
        "decoder.up.2.time_upsample.conv.conv.weight",
        "decoder.up.3.upsample.conv.conv.weight",
        "quant_conv.conv.weight",
        "post_quant_conv.conv.weight",
    ):
        assert name in names


def test_the_pooled_frame_is_the_mean_of_itself_and_the_two_before_it():
    x = torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert TimeAveragePool(1)(x).flatten().tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(
    "changes",
    [{"encoder_attention": "AttnBlock9"}, {"decoder_spatial_upsample": ["", ""]}, {"encoder_conv_in": "Conv4d"}, {"double_z": False}],
)
def test_a_config_that_cannot_be_built_is_refused_by_key(changes):
    with pytest.raises(UserError, match="expected .*got") as refusal:
        CausalVaeConfig.from_json(TINY | changes)
    assert refusal.value.code == "VAE_CONFIG"
    assert next(iter(changes)) in refusal.value.message


def test_a_config_survives_being_written():
    config = CausalVaeConfig.from_json(V12)
    assert CausalVaeConfig.from_json(config.to_json()) == config


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(UserError, match=r"1 \+ 4k"):
        build(V12).encode(torch.zeros(1, 3, 4, 16, 16))
