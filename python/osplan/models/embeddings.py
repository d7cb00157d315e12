"""How clips, times and captions become channels of a transformer, and channels clips. Parameters carry upstream's names.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width, N tokens, L text tokens, D channels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from osplan.domain.errors import UserError

TIME_CHANNELS = 256
MAX_PERIOD = 10_000


def time_waves(time_B: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Cosines, then sines of a time at `channels / 2` frequencies from 1 down to 1/10000, float32 (B, channels)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=time_B.device, dtype=torch.float32) / half)
    angles = time_B[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TwoLinears(nn.Module):
    """Linear, activation, linear under upstream's names `linear_1` and `linear_2`."""

    def __init__(self, channels_in: int, channels: int, activation: str) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels)
        self.linear_2 = nn.Linear(channels, channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(…, channels_in) to (…, channels)."""
        hidden = self.linear_1(x)
        return self.linear_2(functional.silu(hidden) if self.activation == "silu" else functional.gelu(hidden, approximate="tanh"))


class _TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TwoLinears(TIME_CHANNELS, width, "silu")


class AdaptiveTime(nn.Module):
    """One embedding of the time and, from it, six modulations shared by all blocks.

    Source: Chen et al. 2023, "PixArt-α", section 2.3, adaLN-single (arXiv:2310.00426).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = _TimestepEmbedder(width)
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, time_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The embedding (B, D) and the modulations (B, 6, D)."""
        embedded = self.emb.timestep_embedder(time_waves(time_B).to(dtype))
        return embedded, self.linear(functional.silu(embedded)).view(len(time_B), 6, -1)


class PatchEmbed(nn.Module):
    """Patches of each latent frame to tokens, in the order time, height, width."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.patch = patch

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, N, D), in the dtype of the weights."""
        batch, channels, frames, height, wide = x_BCTHW.shape
        p = self.patch
        cells = x_BCTHW.view(batch, channels, frames, height // p, p, wide // p, p).permute(0, 2, 3, 5, 1, 4, 6)
        flat = cells.reshape(batch, frames * (height // p) * (wide // p), channels * p * p).to(self.proj.weight.dtype)
        return functional.linear(flat, self.proj.weight.flatten(1), self.proj.bias)


def unpatchified(x_BND: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int], channels: int) -> Tensor:
    """Tokens back to latents: (B, N, p_t·p·p·C) to (B, C, T, H, W)."""
    frames, height, wide = grid
    p_t, p_h, p_w = patch
    x = x_BND.view(-1, frames, height, wide, p_t, p_h, p_w, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(len(x), channels, frames * p_t, height * p_h, wide * p_w)


def check_latents(hidden_BCTHW: Tensor, channels: int, patch: int) -> None:
    """Refuses latents that do not fit a model, with UserError LATENT_SHAPE."""
    got = tuple(hidden_BCTHW.shape)
    if len(got) != 5 or got[1] != channels:
        raise UserError("LATENT_SHAPE", f"latents: expected (batch, {channels} channels, frames, height, width), got {got}")
    if got[3] % patch or got[4] % patch:
        raise UserError("LATENT_SHAPE", f"latents: expected height and width in multiples of {patch}, got {got[3]}×{got[4]}")
