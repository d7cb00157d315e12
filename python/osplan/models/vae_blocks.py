"""Residual and attention blocks of the autoencoders.

Shape letters: B batch, C channels, T frames, H and W height and width, S the H W cells of a frame.
"""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from osplan.models.causal_conv import CausalConv3d, clips_of, frames_of
from osplan.models.norms import NormType, make_norm, norm_silu
from osplan.models.past import Past


class ResnetBlock2D(nn.Module):
    """Two convolutions of every frame by itself, added to the input. Group norms see one frame."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormType, dropout: float) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, norm)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels, norm)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        x_NCHW = frames_of(x_BCTHW)
        h = self.conv1(norm_silu(self.norm1, x_NCHW))
        h = self.conv2(self.dropout(norm_silu(self.norm2, h)))
        skip = x_NCHW if self.nin_shortcut is None else self.nin_shortcut(x_NCHW)
        return clips_of(skip + h, x_BCTHW.shape[0])


class ResnetBlock3D(nn.Module):
    """Two causal convolutions, added to the input. Group norms see all frames they are given."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormType, dropout: float) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, norm)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, padding=1)
        self.norm2 = make_norm(out_channels, norm)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        h = self.conv1(norm_silu(self.norm1, x_BCTHW), past)
        h = self.conv2(self.dropout(norm_silu(self.norm2, h)), past)
        skip = x_BCTHW if self.nin_shortcut is None else self.nin_shortcut(x_BCTHW)
        return skip + h


class FrameAttention(nn.Module):
    """Single-head attention among the cells of a frame, added to the input. Upstream's AttnBlock3DFix."""

    def __init__(self, channels: int, norm: NormType) -> None:
        super().__init__()
        self.norm = make_norm(channels, norm)
        self.q = CausalConv3d(channels, channels, 1)
        self.k = CausalConv3d(channels, channels, 1)
        self.v = CausalConv3d(channels, channels, 1)
        self.proj_out = CausalConv3d(channels, channels, 1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to the same shape."""
        h = self.norm(x_BCTHW)
        attended_BCTHW = self._attend(self.q(h), self.k(h), self.v(h))
        return x_BCTHW + self.proj_out(attended_BCTHW)

    def _attend(self, q_BCTHW: Tensor, k_BCTHW: Tensor, v_BCTHW: Tensor) -> Tensor:
        b, _, _, h, w = q_BCTHW.shape
        q, k, v = (frames_of(x).flatten(2).transpose(1, 2).unsqueeze(1) for x in (q_BCTHW, k_BCTHW, v_BCTHW))
        out_NSC = scaled_dot_product_attention(q, k, v).squeeze(1)
        return clips_of(out_NSC.transpose(1, 2).unflatten(2, (h, w)), b)


class LegacyAttention(FrameAttention):
    """Upstream's AttnBlock3D, which CausalVAE v1.0 and v1.1 were trained with.

    It reads (C, T) memory as if it were (T, C), so "frames" and "channels" are interleaved slices of both.
    """

    def _attend(self, q_BCTHW: Tensor, k_BCTHW: Tensor, v_BCTHW: Tensor) -> Tensor:
        b, c, t, h, w = q_BCTHW.shape
        q, k, v = (x.reshape(b * t, c, h * w).transpose(1, 2).unsqueeze(1) for x in (q_BCTHW, k_BCTHW, v_BCTHW))
        out_NSC = scaled_dot_product_attention(q, k, v).squeeze(1)
        return out_NSC.transpose(1, 2).reshape(b, c, t, h, w)
