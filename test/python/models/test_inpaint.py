import pytest
import torch

from osplan.domain.errors import UserError
from osplan.models.inpaint import extend_to_inpaint
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig

TINY = {
    "_class_name": "OpenSoraT2V_v1_3",
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "num_layers": 1,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "caption_channels": 8,
}
COPIED = "pos_embed_masked_hidden_states.0.proj.weight"


@pytest.fixture
def source():
    torch.manual_seed(0)
    return OpenSora(OpenSoraConfig.from_json(TINY))


@pytest.fixture
def target():
    torch.manual_seed(1)
    return OpenSora(OpenSoraConfig.from_json({**TINY, "_class_name": "OpenSoraInpaint_v1_3"}))


def test_an_extended_model_starts_as_the_text_to_video_model(source, target):
    target.load_state_dict(extend_to_inpaint(source.state_dict(), 4))
    x, text = torch.randn(1, 12, 2, 4, 4), torch.randn(1, 1, 3, 8)
    torch.testing.assert_close(target(x, torch.tensor([3]), text), source(x[:, :4], torch.tensor([3]), text))


def test_every_new_path_of_an_extended_model_can_learn(source, target):
    target.load_state_dict(extend_to_inpaint(source.state_dict(), 4))
    target(torch.randn(1, 12, 2, 4, 4), torch.tensor([3]), torch.randn(1, 1, 3, 8)).square().sum().backward()
    for path in (target.pos_embed_masked_hidden_states, target.pos_embed_mask):
        assert path[1].weight.grad.abs().max() > 0


def test_patches_of_the_known_frames_are_a_copy_of_the_noisy_ones(source):
    state = source.state_dict()
    extended = extend_to_inpaint(state, 4)
    assert torch.equal(extended[COPIED], state["pos_embed.proj.weight"])
    assert extended[COPIED].data_ptr() != state["pos_embed.proj.weight"].data_ptr()


def test_inpainting_weights_keep_the_patches_they_learnt_unless_v131_is_asked_for(target):
    state = target.state_dict()
    assert torch.equal(extend_to_inpaint(state, 4)[COPIED], state[COPIED])
    assert torch.equal(extend_to_inpaint(state, 4, always_copy=True)[COPIED], state["pos_embed.proj.weight"])
    assert torch.equal(extend_to_inpaint(state, 4, always_copy=True)["pos_embed_mask.1.weight"], state["pos_embed_mask.1.weight"])


def test_weights_of_something_else_are_refused():
    with pytest.raises(UserError, match="pos_embed.proj.weight"):
        extend_to_inpaint({"encoder.weight": torch.zeros(1)}, 4)


def test_the_number_of_channels_is_checked(target):
    with pytest.raises(UserError, match="12 channels"):
        target(torch.randn(1, 4, 2, 4, 4), torch.tensor([3]), torch.randn(1, 1, 3, 8))


def test_inpainting_weights_of_v12_have_the_same_tensors_and_rotary_positions(target):
    v12 = OpenSora(OpenSoraConfig.from_json({**TINY, "_class_name": "OpenSoraInpaint", "attention_bias": True, "use_rope": True}))
    assert {name: values.shape for name, values in v12.state_dict().items()} == {n: v.shape for n, v in target.state_dict().items()}
    with pytest.raises(UserError, match="use_rope"):
        OpenSoraConfig.from_json({**TINY, "_class_name": "OpenSoraInpaint"})
