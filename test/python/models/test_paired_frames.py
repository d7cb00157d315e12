import pytest
import torch
from torch import nn
from torch.nn.functional import conv3d

from osplan.models.causal_conv import CausalConv3d
from osplan.models.paired_frames import conv_in_pairs, pairs_pay


def tensors(frames, batch=2):
    generator = torch.Generator().manual_seed(frames)
    shapes = ((batch, 3, frames, 4, 5), (2, 3, 3, 3, 3), (2,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def as_one_convolution(x, weight, bias, opens_clip):
    front = x[:, :, :1].expand(-1, -1, 2, -1, -1) if opens_clip else x[:, :, :0]
    return conv3d(torch.cat((front, x), dim=2), weight, bias, padding=(0, 1, 1))


@pytest.mark.parametrize("opens_clip", [True, False])
@pytest.mark.parametrize("frames", [3, 4, 5, 8])
def test_pairs_give_the_values_and_gradients_of_one_convolution(frames, opens_clip):
    inputs = tensors(frames)
    got, expected = conv_in_pairs(*inputs, opens_clip=opens_clip), as_one_convolution(*inputs, opens_clip)
    torch.testing.assert_close(got, expected)
    probe = torch.randn_like(expected)
    for mine, theirs in zip(torch.autograd.grad(got, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_two_opening_frames_are_one_pair_without_a_second():
    inputs = tensors(2)
    torch.testing.assert_close(conv_in_pairs(*inputs, opens_clip=True), as_one_convolution(*inputs, True))


def test_rounding_in_single_precision_stays_near_that_of_one_convolution():
    exact = [each.detach() for each in tensors(9)]
    single = [each.float() for each in exact]
    truth = as_one_convolution(*exact, True)
    error = [
        (each.double() - truth).norm() / truth.norm()
        for each in (conv_in_pairs(*single, opens_clip=True), as_one_convolution(*single, True))
    ]
    assert error[0] < 4 * error[1] < 4e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lone_frame_is_convolved_as_if_its_copies_stood_before_it(dtype):
    torch.manual_seed(0)
    layer = CausalConv3d(4, 4, 3, padding=1).to(dtype)
    frame = torch.randn(1, 4, 1, 5, 5, dtype=dtype)
    expected = layer.conv(frame.expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(
        layer(frame), expected, rtol=1e-5 if dtype == torch.float32 else 0, atol=1e-6 if dtype == torch.float32 else 0
    )


def test_pairs_are_used_for_plain_kernels_in_full_precision_only():
    clip = torch.zeros(1, 4, 3, 4, 4)
    plain = nn.Conv3d(4, 4, 3, padding=(0, 1, 1))
    assert pairs_pay(clip, plain)
    assert not pairs_pay(clip.bfloat16(), plain)
    assert not pairs_pay(clip[:, :, :1], plain)
    assert not pairs_pay(clip, nn.Conv3d(4, 4, 3, stride=2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not pairs_pay(clip, plain)
