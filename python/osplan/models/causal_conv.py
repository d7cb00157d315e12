"""Convolutions of clips: per frame, or causal in time, where frame 0 stands in for everything before it.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d
from torch.utils.checkpoint import checkpoint

from osplan.models.paired_frames import conv_in_pairs, is_full_precision, pairs_pay
from osplan.models.past import Past


def frames_of(x_BCTHW: Tensor) -> Tensor:
    """The frames of clips as a batch of images: (B, C, T, H, W) to (B T, C, H, W). No copy where channels lie last."""
    b, c, t, h, w = x_BCTHW.shape
    return x_BCTHW.transpose(1, 2).reshape(b * t, c, h, w)


def clips_of(x_NCHW: Tensor, batch: int) -> Tensor:
    """Inverse of `frames_of`: (B T, C, H, W) to (B, C, T, H, W)."""
    n, c, h, w = x_NCHW.shape
    return x_NCHW.reshape(batch, n // batch, c, h, w).transpose(1, 2)


class FrameConv(nn.Conv2d):
    """A 2-D convolution of every frame by itself."""

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, T, H, W) to (B, C', T, H', W')."""
        return clips_of(super().forward(frames_of(x_BCTHW)), x_BCTHW.shape[0])


class CausalConv3d(nn.Module):
    """A 3-D convolution that sees only the frames up to its own: k - 1 copies of frame 0 stand in front of a clip.

    `padding` pads height and width with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding=(0, padding, padding))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C', (T - 1) // stride + 1, H', W'); a later chunk gives T // stride frames."""
        if self.conv.kernel_size[0] == 1:
            return self.conv(x_BCTHW)
        before = past.recall(self) if past else None
        if past and not past.is_last:
            past.keep(self, self._last_seen(x_BCTHW, before))
        if before is None:
            return self._opening(x_BCTHW)
        seen = torch.cat((before, x_BCTHW), dim=2)
        return conv_in_pairs(seen, self.conv.weight, self._bias, opens_clip=False) if pairs_pay(x_BCTHW, self.conv) else self.conv(seen)

    def _opening(self, x_BCTHW: Tensor) -> Tensor:
        """The clip's first frames. Frame 0 alone sees nothing but itself, so its kernel is the sum over time."""
        conv = self.conv
        if x_BCTHW.shape[2] == 1 and is_full_precision(x_BCTHW):
            return conv3d(x_BCTHW, conv.weight.sum(2, keepdim=True), conv.bias, conv.stride, conv.padding)
        if pairs_pay(x_BCTHW, conv):
            return conv_in_pairs(x_BCTHW, conv.weight, self._bias, opens_clip=True)
        return conv(torch.cat((self._copies_of_frame_0(x_BCTHW), x_BCTHW), dim=2))

    def _last_seen(self, x_BCTHW: Tensor, before: Tensor | None) -> Tensor:
        """The frames the next chunk's first output looks back at."""
        count = self.conv.kernel_size[0] - self.conv.stride[0]
        if x_BCTHW.shape[2] < count:
            x_BCTHW = torch.cat((self._copies_of_frame_0(x_BCTHW) if before is None else before, x_BCTHW), dim=2)
        return x_BCTHW[:, :, x_BCTHW.shape[2] - count :]

    def _copies_of_frame_0(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW[:, :, :1].expand(-1, -1, self.conv.kernel_size[0] - 1, -1, -1)

    @property
    def _bias(self) -> Tensor:
        assert self.conv.bias is not None
        return self.conv.bias


class Stack(nn.ModuleList):
    """Layers one after the other, each told the past of the clip."""

    recompute = False
    """Keep only what goes into each layer and run it again on the way back: less memory, one more forward pass."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """Whatever the layers make of (B, C, T, H, W)."""
        recompute = self.recompute and past is None and torch.is_grad_enabled()
        for layer in self:
            x_BCTHW = cast(Tensor, checkpoint(layer, x_BCTHW, use_reentrant=False)) if recompute else layer(x_BCTHW, past)
        return x_BCTHW


def recompute_stacks(model: nn.Module, recompute: bool) -> None:
    """Switches recomputation of every stack in a model."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.recompute = recompute
