"""Convolutions of clips: per frame, or causal in time, where frame 0 stands in for everything before it.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

import torch
from torch import Tensor, nn

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

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
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
        return self.conv(self._with_front(x_BCTHW, past))

    def _with_front(self, x_BCTHW: Tensor, past: Past | None) -> Tensor:
        look_back = self.conv.kernel_size[0] - 1
        if look_back == 0:
            return x_BCTHW
        front = past.recall(self) if past else None
        if front is None:
            front = x_BCTHW[:, :, :1].expand(-1, -1, look_back, -1, -1)
        seen = torch.cat((front, x_BCTHW), dim=2)
        if past and not past.is_last:
            past.keep(self, seen[:, :, seen.shape[2] - (look_back + 1 - self.conv.stride[0]) :])
        return seen


class Stack(nn.Sequential):
    """Layers one after the other, each told the past of the clip."""

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """Whatever the layers make of (B, C, T, H, W)."""
        for layer in self:
            x_BCTHW = layer(x_BCTHW, past)
        return x_BCTHW
