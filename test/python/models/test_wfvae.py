import json
from pathlib import Path

import pytest
import torch

from osplan.domain.errors import UserError
from osplan.models.causal_conv import recompute_stacks
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig

FIXTURES = Path(__file__).parents[3] / "test" / "fixtures"

TINY = {
    "latent_dim": 4,
    "base_channels": 4,
    "encoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_num_resblocks": 1,
    "decoder_energy_flow_hidden_size": 4,
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
}
EIGHTFOLD_TIME = {
    "l1_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l1_downsample_wavelet": "HaarWaveletTransform3D",
    "l1_upsample_block": "Spatial2xTime2x3DUpsample",
    "l1_upsample_wavelet": "InverseHaarWaveletTransform3D",
}


def build(**changes):
    torch.manual_seed(7)
    return WFVAE(WfvaeConfig.from_json(TINY | changes)).eval()


@pytest.fixture(
    scope="module", params=[{}, EIGHTFOLD_TIME, {"t_interpolation": "nearest", "use_attention": False}], ids=["4x8x8", "8x8x8", "nearest"]
)
def tiny(request):
    return build(**request.param).double()


def published(name):
    """The config of a released WF-VAE, the differences from the class defaults only."""
    return {
        "4dim": {"latent_dim": 4, "encoder_energy_flow_hidden_size": 128, "norm_type": "layernorm", "t_interpolation": "trilinear"},
        "8dim": {"connect_res_layer_num": 2, "norm_type": "layernorm", "t_interpolation": "trilinear"},
    }[name]


def key_list(name):
    rows = (line.split("\t") for line in (FIXTURES / "keys" / f"wfvae_{name}.txt").read_text().splitlines())
    return {key: tuple(int(size) for size in shape.strip("()").split(",") if size.strip()) for key, shape, *_ in rows}


@pytest.mark.parametrize(("name", "millions"), [("4dim", 146.5), ("8dim", 147.3)])
def test_a_full_size_build_has_the_published_keys_shapes_and_parameter_count(name, millions):
    with torch.device("meta"):
        model = WFVAE(WfvaeConfig.from_json(published(name)))
    assert {key: tuple(value.shape) for key, value in model.export_state_dict().items()} == key_list(name)
    assert round(sum(each.numel() for each in model.parameters()) / 1e6, 1) == millions


def test_the_main_layout_has_sixteen_more_constants_in_the_correct_spelling():
    with torch.device("meta"):
        state = WFVAE(WfvaeConfig.from_json(published("8dim"))).export_state_dict("main")
    assert len(state) == 260
    assert not [name for name in state if "tranform" in name]
    golden = json.loads((FIXTURES / "golden" / "wfvae_8dim_main.json").read_text())
    assert set(state) == set(golden["keys"]) | set(golden["constants"])


@pytest.mark.parametrize("layout", ["v1.3.1", "main"])
def test_either_layout_can_be_written_and_read_back_strictly(layout):
    written = build().export_state_dict(layout)
    reader = build()
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.zero_()
    reader.load_state_dict(written, strict=True)
    for name, value in reader.export_state_dict(layout).items():
        assert torch.equal(value, written[name]), name


def test_haar_filters_in_a_file_do_not_change_the_model():
    model = build()
    written = model.export_state_dict()
    broken = {name: value * 2 if "tranform" in name else value for name, value in written.items()}
    model.load_state_dict(broken, strict=True)
    assert torch.equal(model.state_dict()["decoder.inverse_wavelet_tranform_l2.h"], written["decoder.inverse_wavelet_tranform_l2.h"])


def test_a_missing_learnt_tensor_is_refused():
    state = build().state_dict()
    del state["decoder.conv_out.bias"]
    with pytest.raises(RuntimeError, match=r"decoder\.conv_out\.bias"):
        build().load_state_dict(state)


def test_a_model_built_on_the_meta_device_gets_its_constants_with_its_weights():
    with torch.device("meta"):
        model = WFVAE(WfvaeConfig.from_json(TINY))
    model.load_state_dict({name: value for name, value in build().state_dict().items() if "tranform" not in name}, assign=True)
    assert torch.equal(model.eval().decode(torch.ones(1, 4, 1, 1, 1)), build().decode(torch.ones(1, 4, 1, 1, 1)))
    assert not any(value.is_meta for value in model.state_dict().values())


@torch.no_grad()
@pytest.mark.parametrize("latents", range(1, 13))
def test_chunks_decode_to_the_whole_clip_at_every_length(tiny, latents):
    z = torch.randn(1, 4, latents, 1, 2, generator=torch.Generator().manual_seed(latents), dtype=torch.float64)
    whole = tiny.decode(z)
    for per_chunk in (1, 2, 4):
        torch.testing.assert_close(tiny.decode_chunked(z, per_chunk), whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("latents", range(1, 13))
def test_chunks_encode_to_the_whole_clip_at_every_length(tiny, latents):
    frames = 1 + tiny.stride[0] * (latents - 1)
    x = torch.randn(1, 3, frames, 8, 16, generator=torch.Generator().manual_seed(latents), dtype=torch.float64)
    whole = tiny.encode(x).moments
    assert whole.shape[2] == latents
    for per_chunk in (1, 3):
        torch.testing.assert_close(tiny.encode_chunked(x, per_chunk).moments, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_an_image_comes_back_as_an_image(tiny):
    posterior = tiny.encode(torch.randn(2, 3, 1, 16, 8, dtype=torch.float64))
    assert posterior.mean.shape == (2, 4, 1, 2, 1)
    assert tiny.decode(posterior.mean).shape == (2, 3, 1, 16, 8)


@torch.no_grad()
def test_later_frames_do_not_change_earlier_latents(tiny):
    x = torch.randn(1, 3, 1 + 2 * tiny.stride[0], 8, 8, dtype=torch.float64)
    changed = torch.cat((x[:, :, : -tiny.stride[0]], torch.zeros_like(x[:, :, -tiny.stride[0] :])), dim=2)
    before, after = tiny.encode(x).mean, tiny.encode(changed).mean
    torch.testing.assert_close(after[:, :, :-1], before[:, :, :-1])
    assert not torch.allclose(after[:, :, -1], before[:, :, -1])


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 4, 5, 16, 16), (3, 5, 16, 16)])
def test_a_clip_that_would_lose_pixels_is_refused(shape):
    with pytest.raises(UserError, match="expected .* got") as refusal:
        build().encode(torch.zeros(shape))
    assert refusal.value.code == "VAE_CLIP_SHAPE"


def test_scaling_is_undone_and_uses_one_number_per_channel():
    model = build(scale=[1.0, 2.0, 4.0, 8.0], shift=[0.0, 1.0, 0.0, 0.0])
    z = torch.randn(1, 4, 2, 3, 3)
    torch.testing.assert_close(model.unscaled(model.scaled(z)), z)
    torch.testing.assert_close(model.scaled(z)[:, 1], (z[:, 1] - 1) * 2)


def test_upstreams_eight_entry_default_fits_any_number_of_channels():
    config = WfvaeConfig.from_json(TINY | {"latent_dim": 16, "scale": [0.18215] * 8, "shift": [0] * 8})
    assert config.scale == (0.18215,) * 16
    assert config.shift == (0.0,) * 16


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": [1.0, 2.0]},
        {"scale": 0.0},
        {"norm_type": "batchnorm"},
        {"t_interpolation": "cubic"},
        {"latent_dim": 0},
        {"latent_dim": "8"},
        {"l1_dowmsample_block": "Spatial2xTime2x3DDownsample"},
        {"l2_downsample_wavelet": "HaarWaveletTransform2D"},
        {"attention_type": "AttnBlock3D"},
        {"haar_constant": "0.35"},
    ],
)
def test_a_config_that_makes_no_wfvae_is_refused_by_key(changes):
    with pytest.raises(UserError, match=r"expected .*got") as refusal:
        WfvaeConfig.from_json(TINY | changes)
    assert refusal.value.code == "VAE_CONFIG"


def test_group_norm_refuses_widths_that_do_not_divide():
    with pytest.raises(UserError, match="multiples of 32"):
        build(norm_type="groupnorm")


def test_unknown_keys_are_passed_over_and_a_config_survives_being_written():
    raw = (
        TINY
        | EIGHTFOLD_TIME
        | {"_diffusers_version": "0.30.2", "from_pretrained": "there", "l1_downsample_block": "Spatial2xTime2x3DDownsample"}
    )
    config = WfvaeConfig.from_json(raw)
    assert config.time_stride == 8
    assert WfvaeConfig.from_json(config.to_json()) == config
    assert config.to_json()["_class_name"] == "WFVAEModel"


def test_training_reaches_every_weight():
    model = build(connect_res_layer_num=2).train()
    result = model(torch.randn(1, 3, 5, 16, 16), torch.randn(1, 4, 2, 2, 2))
    (result.video.square().mean() + result.posterior.kl().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert result.encoder_wavelets.level_1.shape == result.decoder_wavelets.level_1.shape
    assert result.encoder_wavelets.level_2.shape == result.decoder_wavelets.level_2.shape


def test_recomputing_activations_changes_no_gradient():
    x = torch.randn(1, 3, 5, 16, 16)
    gradients = []
    for recompute in (False, True):
        model = build().train()
        recompute_stacks(model, recompute)
        model(x).video.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
