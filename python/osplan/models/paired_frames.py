"""Causal convolutions over three frames that compute two frames at once, with a third fewer multiplications.

Winograd's F(2, 3) along time: a pair of neighbouring output frames is made of four 2-D convolutions instead of six,
and frame 0 of a clip, before which only copies of itself stand, of one instead of three. The result differs from
`conv3d` by rounding alone. It pays on CPUs in full precision; in half precision its sums would round too coarsely.
Shape letters: B batch, T frames, H and W height and width, C channels, P pairs of frames, O output channels.
Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1 (arXiv:1509.09308).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def is_full_precision(x: Tensor) -> bool:
    """Whether weights may be summed before they are multiplied without a loss that shows."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


def pairs_pay(x_BCTHW: Tensor, conv: nn.Conv3d) -> bool:
    """Whether a causal convolution of these frames is faster in pairs than as one `conv3d`."""
    is_plain = conv.kernel_size == (3, 3, 3) and conv.stride == (1, 1, 1) and conv.padding == (0, 1, 1)
    return is_plain and is_full_precision(x_BCTHW) and x_BCTHW.device.type == "cpu" and x_BCTHW.shape[2] > 1


def conv_in_pairs(x_BCTHW: Tensor, weight_OC333: Tensor, bias_O: Tensor, *, opens_clip: bool) -> Tensor:
    """Convolves with one pixel of zeros around each frame, (B, C, T, H, W) to (B, O, T', H, W).

    Where the frames open a clip, copies of frame 0 stand before it and T' = T.
    Else the first two frames are only looked back at and T' = T - 2.
    """
    return _ConvInPairs.apply(x_BCTHW, weight_OC333, bias_O, opens_clip)


class _ConvInPairs(torch.autograd.Function):
    """Keeps its input alone; the sums of frames are made again on the way back."""

    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, weight: Tensor, bias: Tensor, opens_clip: bool) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        ctx.opens_clip = opens_clip
        x_BTHWC = _channels_last(x_BCTHW)
        b, t, *_ = x_BTHWC.shape
        made = [
            _convolved(v, w, bias if index == 1 else None)
            for index, (v, w) in enumerate(zip(_sums_of_frames(x_BTHWC, opens_clip), _sums_of_weights(weight), strict=True))
        ]
        m0, m1, m2, m3 = made
        y_BTHWO = m1.new_empty((b, t if opens_clip else t - 2, *m1.shape[2:]))
        if opens_clip:
            y_BTHWO[:, 0] = m1[:, 0]
            m1 = m1[:, 1:]
        first, second = _outputs(y_BTHWO, opens_clip)
        late = second.shape[1]
        first.copy_(m0.add_(m1).add_(m2))
        second.copy_(m1[:, :late] - m3.add_(m2[:, :late]))
        return y_BTHWO.permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_BCTHW, weight = ctx.saved_tensors
        x_BTHWC, g_BTHWO = _channels_last(x_BCTHW), _channels_last(grads[0])
        both = zip(
            _sums_of_gradients(g_BTHWO, ctx.opens_clip),
            _sums_of_frames(x_BTHWC, ctx.opens_clip),
            _sums_of_weights(weight),
            strict=True,
        )
        back = [_convolved_back(g, v, w) for g, v, w in both]
        to_frames = _frames_gradient(x_BTHWC, [each[0] for each in back], ctx.opens_clip)
        to_weight = _weight_gradient([each[1] for each in back])
        return to_frames.permute(0, 4, 1, 2, 3), to_weight, g_BTHWO.sum(dim=(0, 1, 2, 3)), None


def _channels_last(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.permute(0, 2, 3, 4, 1).contiguous()


def _windows(x_BTHWC: Tensor, opens_clip: bool) -> Four:
    """Views of the four frames each pair looks at, oldest first; the oldest of an opening clip lacks frame 0's copy."""
    if opens_clip:
        d2 = x_BTHWC[:, 1::2]
        pairs = d2.shape[1]
        return d2[:, : pairs - 1], x_BTHWC[:, 0::2][:, :pairs], d2, x_BTHWC[:, 2::2]
    d2 = x_BTHWC[:, 2::2]
    pairs = d2.shape[1]
    return x_BTHWC[:, 0::2][:, :pairs], x_BTHWC[:, 1::2][:, :pairs], d2, x_BTHWC[:, 3::2]


def _outputs(y_BTHWO: Tensor, opens_clip: bool) -> tuple[Tensor, Tensor]:
    """Views of the first and of the second frames of all pairs. A lone last frame is a pair without a second."""
    start = 1 if opens_clip else 0
    return y_BTHWO[:, start::2], y_BTHWO[:, start + 1 :: 2]


def _sums_of_frames(x_BTHWC: Tensor, opens_clip: bool) -> Four:
    d0, d1, d2, d3 = _windows(x_BTHWC, opens_clip)
    early = d1 + d2
    if opens_clip:
        d0 = torch.cat((x_BTHWC[:, :1], d0), dim=1)
        early = torch.cat((x_BTHWC[:, :1] * 2, early), dim=1)
    return d0 - d2, early, d2 - d1, d1[:, : d3.shape[1]] - d3


def _sums_of_weights(weight_OC333: Tensor) -> Four:
    oldest, middle, newest = weight_OC333.unbind(2)
    ends = oldest + newest
    sums = oldest, (ends + middle) / 2, (ends - middle) / 2, newest
    w0, w1, w2, w3 = (each.contiguous(memory_format=torch.channels_last) for each in sums)
    return w0, w1, w2, w3


def _sums_of_gradients(g_BTHWO: Tensor, opens_clip: bool) -> Four:
    first, second = _outputs(g_BTHWO, opens_clip)
    late = second.shape[1]
    plus, minus = first.clone(), first.clone()
    plus[:, :late] += second
    minus[:, :late] -= second
    if opens_clip:
        plus = torch.cat((g_BTHWO[:, :1], plus), dim=1)
    return first, plus, minus, -second


def _frames_gradient(x_BTHWC: Tensor, back: list[Tensor], opens_clip: bool) -> Tensor:
    v0, v1, v2, v3 = back
    gradient = torch.zeros_like(x_BTHWC)
    d0, d1, d2, d3 = _windows(gradient, opens_clip)
    if opens_clip:
        gradient[:, 0] += v0[:, 0] + 2 * v1[:, 0]
        d0 += v0[:, 1:]
        v1 = v1[:, 1:]
    else:
        d0 += v0
    d1 += v1 - v2
    d1[:, : d3.shape[1]] += v3
    d2 += v1.add_(v2).sub_(v0)
    d3 -= v3
    return gradient


def _weight_gradient(back: list[Tensor]) -> Tensor:
    w0, w1, w2, w3 = back
    shared = (w1 + w2) / 2
    return torch.stack((w0 + shared, (w1 - w2) / 2, w3 + shared), dim=2)


def _convolved(x_BPHWC: Tensor, weight_OC33: Tensor, bias_O: Tensor | None) -> Tensor:
    if x_BPHWC.shape[1] == 0:
        return x_BPHWC.new_empty((*x_BPHWC.shape[:4], weight_OC33.shape[0]))
    y_NOHW = conv2d(_images(x_BPHWC), weight_OC33, bias_O, padding=1)
    return y_NOHW.permute(0, 2, 3, 1).contiguous().unflatten(0, x_BPHWC.shape[:2])


def _convolved_back(g_BPHWO: Tensor, x_BPHWC: Tensor, weight_OC33: Tensor) -> tuple[Tensor, Tensor]:
    if x_BPHWC.shape[1] == 0:
        return torch.zeros_like(x_BPHWC), torch.zeros_like(weight_OC33)
    to_x_NCHW, to_weight, _ = torch.ops.aten.convolution_backward(
        _images(g_BPHWO), _images(x_BPHWC), weight_OC33, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return to_x_NCHW.permute(0, 2, 3, 1).contiguous().unflatten(0, x_BPHWC.shape[:2]), to_weight


def _images(x_BPHWC: Tensor) -> Tensor:
    return x_BPHWC.flatten(0, 1).permute(0, 3, 1, 2)
