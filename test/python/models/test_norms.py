import pytest
import torch
from torch.nn.functional import layer_norm, silu

from osplan.domain.errors import UserError
from osplan.models.norms import ChannelNorm, make_norm, norm_silu


@pytest.mark.parametrize("shape", [(2, 6, 3, 4, 5), (3, 6, 4, 5)])
def test_the_fused_norm_gives_the_values_and_gradients_of_its_parts(shape):
    torch.manual_seed(0)
    norm = ChannelNorm(6).double()
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = (x, norm.norm.weight, norm.norm.bias)
    got = norm_silu(norm, x)
    expected = silu(layer_norm(x.movedim(1, -1), (6,), norm.norm.weight, norm.norm.bias, 1e-6).movedim(-1, 1))
    torch.testing.assert_close(got, expected)
    probe = torch.randn_like(expected)
    for mine, theirs in zip(torch.autograd.grad(got, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_in_half_precision_the_norm_and_silu_follow_each_other():
    norm = ChannelNorm(6).bfloat16()
    x = torch.randn(1, 6, 2, 2, 2, dtype=torch.bfloat16)
    assert torch.equal(norm_silu(norm, x), silu(norm(x)))


def test_group_norm_has_thirty_two_groups_and_refuses_other_widths():
    assert make_norm(64, "groupnorm").num_groups == 32
    with pytest.raises(UserError, match="multiples of 32, got 48"):
        make_norm(48, "groupnorm")
