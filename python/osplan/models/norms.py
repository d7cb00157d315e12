"""The two norms autoencoder blocks are built with, followed by SiLU nearly everywhere.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm, silu

from osplan.domain.errors import UserError
from osplan.models.paired_frames import is_full_precision

NormType = Literal["groupnorm", "layernorm"]

GROUPS = 32
EPS = 1e-6


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell alone, so that it cannot see other frames and chunks stay exact."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x_BCdims: Tensor) -> Tensor:
        """(B, C, …) to the same shape, channels last in memory."""
        x_BdimsC = x_BCdims.movedim(1, -1)
        return layer_norm(x_BdimsC, self.norm.normalized_shape, self.norm.weight, self.norm.bias, EPS).movedim(-1, 1)


def make_norm(channels: int, norm: NormType) -> nn.Module:
    """The norm of a name. Group norm sees all frames it is given: inside per-frame blocks that is one frame, elsewhere a chunk.

    Raises UserError VAE_CONFIG where the channels do not divide into groups.
    """
    if norm == "layernorm":
        return ChannelNorm(channels)
    if channels % GROUPS:
        raise UserError(
            "VAE_CONFIG",
            f"norm_type groupnorm: expected channels in multiples of {GROUPS}, got {channels}",
            "use layernorm or another width",
        )
    return nn.GroupNorm(GROUPS, channels, eps=EPS)


def norm_silu(norm: nn.Module, x_BCdims: Tensor) -> Tensor:
    """SiLU of the norm, the step in front of every convolution of a residual block."""
    if isinstance(norm, ChannelNorm) and is_full_precision(x_BCdims):
        return _LayerNormSilu.apply(x_BCdims.movedim(1, -1), norm.norm.weight, norm.norm.bias).movedim(-1, 1)
    return silu(norm(x_BCdims))


class _LayerNormSilu(torch.autograd.Function):
    """Layer norm over the last dimension, then SiLU. Keeps its input alone; the normed values are made again on the way back."""

    @staticmethod
    def forward(ctx: Any, x_BdimsC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x_BdimsC, weight.shape, weight, bias, EPS)
        ctx.save_for_backward(x_BdimsC, weight, bias, mean, rstd)
        return silu(normed, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_BdimsC, weight, bias, mean, rstd = ctx.saved_tensors
        normed = layer_norm(x_BdimsC, weight.shape, weight, bias, EPS)
        to_normed = torch.ops.aten.silu_backward(grads[0], normed)
        return torch.ops.aten.native_layer_norm_backward(to_normed, x_BdimsC, weight.shape, mean, rstd, weight, bias, [True, True, True])
