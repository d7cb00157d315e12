"""OpenSoraT2V v1.3 the way upstream runs it.

Tokens lie sequence first. A bias of zeros and -10000 goes to every attention, also where nothing is hidden. Sparse blocks copy queries,
keys and values into sub-sequences and their output back, and repeat the text's keys and values for each sub-sequence. Each attention
owns a cache of positions and angles, and gathers the angles of each token from it for every tensor it turns.
Modules that differ in nothing (projections, feed-forward, embeddings) are those of `osplan`.
Shape letters: B batch, C latent channels, N tokens, L text tokens, D channels, H heads, K channels per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from osplan.models.embeddings import AdaptiveTime, TwoLinears, unpatchified
from osplan.models.modulation import FeedForward, final_norm, random_table
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.skiparse import Skip

HIDDEN = -10_000.0
HIDDEN_PADDING = -9_980.0

Grid = tuple[int, int, int]
Positions = tuple[tuple[Tensor, ...], tuple[int, ...]]


class Rotary:
    """Angles of positions, in the dtype of the model, kept per attention and never given up."""

    def __init__(self, scales: tuple[float, float, float]) -> None:
        self.scales = scales
        self._positions: dict[tuple[int, ...], Positions] = {}
        self._angles: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def positions(self, batch: int, grid: Grid, device: torch.device) -> Positions:
        """Per axis the place of each token (N, B), and the largest place."""
        key = (batch, *grid)
        if key not in self._positions:
            places = torch.cartesian_prod(*(torch.arange(size, device=device) for size in grid))
            axes = tuple(axis[:, None].expand(-1, batch).contiguous() for axis in places.reshape(-1, 3).unbind(1))
            self._positions[key] = axes, tuple(int(axis.max()) for axis in axes)
        return self._positions[key]

    def turned(self, x_NBHK: Tensor, positions: Positions) -> Tensor:
        """Queries or keys, each third of a head turned by one axis."""
        parts = zip(x_NBHK.chunk(3, dim=-1), *positions, self.scales, strict=True)
        return torch.cat([self._turned(*part) for part in parts], dim=-1)

    def _turned(self, x_NBHK: Tensor, places_NB: Tensor, most: int, scale: float) -> Tensor:
        cosine, sine = (functional.embedding(places_NB, table)[:, :, None] for table in self._table(x_NBHK, most + 1, scale))
        first, second = x_NBHK.chunk(2, dim=-1)
        return x_NBHK * cosine + torch.cat((-second, first), dim=-1) * sine

    def _table(self, like: Tensor, length: int, scale: float) -> tuple[Tensor, Tensor]:
        width = like.shape[-1]
        key = (width, length, like.device, like.dtype)
        if key not in self._angles:
            frequencies = 1.0 / 10_000.0 ** (torch.arange(0, width, 2, device=like.device).float() / width)
            half = torch.outer(torch.arange(length, device=like.device).float() / scale, frequencies).to(like.dtype)
            angles = torch.cat((half, half), dim=-1)
            self._angles[key] = angles.cos(), angles.sin()
        return self._angles[key]


class Attention(nn.Module):
    """Self- or cross-attention of one block."""

    def __init__(self, config: OpenSoraConfig, skip: Skip, *, crosses: bool) -> None:
        super().__init__()
        width, bias = config.width, config.attention_bias
        self.heads, self.skip, self.crosses = config.heads, skip, crosses
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, width, bias=bias)
        self.to_v = nn.Linear(width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(config.dropout)])
        self.rotary = Rotary(config.scales)

    def forward(self, x_NBD: Tensor, context_LBD: Tensor, bias: Tensor, grid: Grid) -> Tensor:
        """(N, B, D) to (N, B, D)."""
        tokens, batch, width = x_NBD.shape
        q, k, v = self.to_q(x_NBD), self.to_k(context_LBD), self.to_v(context_LBD)
        if not self.crosses:
            positions = self.rotary.positions(batch, grid, x_NBD.device)
            q, k = (self.rotary.turned(part.view(tokens, batch, self.heads, -1), positions).view(tokens, batch, width) for part in (q, k))
        if self.skip.n > 1:
            q = _divided(q, self.skip)
            k, v = (part.repeat(1, self.skip.n, 1) if self.crosses else _divided(part, self.skip) for part in (k, v))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3) for part in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.permute(2, 0, 1, 3).flatten(2)
        if self.skip.n > 1:
            out = _joined(out, self.skip, tokens, batch)
        return self.to_out[1](self.to_out[0](out))


def _divided(x_NBD: Tensor, skip: Skip) -> Tensor:
    n = skip.n
    padding = -x_NBD.shape[0] % (n * n)
    if padding:
        x_NBD = functional.pad(x_NBD, (0, 0, 0, 0, 0, padding))
    tokens, batch, width = x_NBD.shape
    if not skip.group:
        return x_NBD.reshape(tokens // n, n * batch, width)
    return x_NBD.view(tokens // (n * n), n, n, batch, width).transpose(1, 2).reshape(tokens // n, n * batch, width)


def _joined(x: Tensor, skip: Skip, tokens: int, batch: int) -> Tensor:
    n, width = skip.n, x.shape[-1]
    if skip.group:
        x = x.view(-1, n, n, batch, width).transpose(1, 2)
    return x.reshape(-1, batch, width)[:tokens]


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, config: OpenSoraConfig, index: int) -> None:
        super().__init__()
        self.skip = config.skip(index)
        self.scale_shift_table = random_table(6, config.width)
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps, config.norm_affine)
        self.attn1 = Attention(config, self.skip, crosses=False)
        self.attn2 = Attention(config, self.skip, crosses=True)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps, config.norm_affine)
        self.ff = FeedForward(config.width, config.activation, dropout=config.dropout)

    def forward(self, x_NBD: Tensor, text_LBD: Tensor, biases: tuple[Tensor, Tensor], modulations_6BD: Tensor, grid: Grid) -> Tensor:
        """(N, B, D) to (N, B, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table[:, None] + modulations_6BD).chunk(6, dim=0)
        normed = self.norm1(x_NBD) * (1 + scale) + shift
        x_NBD = gate * self.attn1(normed, normed, biases[0], grid) + x_NBD
        x_NBD = self.attn2(x_NBD, text_LBD, biases[1], grid) + x_NBD
        normed = self.norm2(x_NBD) * (1 + ff_scale) + ff_shift
        return ff_gate * self.ff(normed) + x_NBD


class PatchConvolution(nn.Module):
    """Patches of a frame to tokens."""

    def __init__(self, config: OpenSoraConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.width, config.patch, stride=config.patch)


class ReferenceOpenSora(nn.Module):
    """OpenSoraT2V_v1_3 with upstream's parameter names."""

    def __init__(self, config: OpenSoraConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = PatchConvolution(config)
        self.caption_projection = TwoLinears(config.text_channels, width, "gelu")
        self.adaln_single = AdaptiveTime(width)
        self.transformer_blocks = nn.ModuleList([Block(config, index) for index in range(config.layers)])
        self.scale_shift_table = random_table(2, width)
        self.proj_out = nn.Linear(width, config.patch * config.patch * config.out_channels)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in the order of computation."""
        return list(self.transformer_blocks)

    def forward(
        self,
        hidden_BCTHW: Tensor,
        time_B: Tensor,
        text_B1LC: Tensor,
        attention_mask_BTHW: Tensor | None = None,
        text_mask_B1L: Tensor | None = None,
        *,
        images: int = 0,
    ) -> Tensor:
        """(B, C, T, H, W) to (B, C_out, T, H, W). Masks are 1 where something is kept."""
        assert images == 0
        patch, dtype = self.config.patch, self.proj_out.weight.dtype
        batch, _, frames, height, wide = hidden_BCTHW.shape
        grid = (frames, height // patch, wide // patch)
        keep = hidden_BCTHW.new_ones(batch, frames, height, wide) if attention_mask_BTHW is None else attention_mask_BTHW
        keep_text = hidden_BCTHW.new_ones(text_B1LC.shape[:3]) if text_mask_B1L is None else text_mask_B1L
        biases = self._biases(keep, keep_text, dtype)
        embedded_BD, modulations_B6D = self.adaln_single(time_B, dtype)
        text_LBD = self.caption_projection(text_B1LC.flatten(1, 2).to(dtype)).transpose(0, 1).contiguous()
        modulations_6BD = modulations_B6D.transpose(0, 1).contiguous()
        x_NBD = self._tokens(hidden_BCTHW.to(dtype)).transpose(0, 1).contiguous()
        for block in self.transformer_blocks:
            x_NBD = block(x_NBD, text_LBD, biases[block.skip], modulations_6BD, grid)  # type: ignore[index]
        shift, scale = (self.scale_shift_table + embedded_BD[:, None]).chunk(2, dim=1)
        x_BND = final_norm(x_NBD.transpose(0, 1).contiguous()) * (1 + scale) + shift
        return unpatchified(self.proj_out(x_BND), grid, (1, patch, patch), self.config.out_channels)

    def _tokens(self, hidden_BCTHW: Tensor) -> Tensor:
        x_NDHW = self.pos_embed.proj(hidden_BCTHW.transpose(1, 2).flatten(0, 1))
        return x_NDHW.flatten(2).transpose(1, 2).reshape(len(hidden_BCTHW), -1, self.config.width)

    def _biases(self, keep_BTHW: Tensor, keep_text_B1L: Tensor, dtype: torch.dtype) -> dict[Skip, tuple[Tensor, Tensor]]:
        """For every way to divide the tokens the bias of self- and of cross-attention, repeated for each head."""
        patch, heads = self.config.patch, self.config.heads
        kept = functional.max_pool3d(keep_BTHW[:, None].to(dtype), (1, patch, patch), (1, patch, patch)).flatten(1)
        bias_BN = (1 - kept.bool().to(dtype)) * HIDDEN
        text_B11L = ((1 - keep_text_B1L.to(dtype)) * HIDDEN)[:, None]
        biases = {}
        for skip in {self.config.skip(index) for index in range(self.config.layers)}:
            n = skip.n
            own = functional.pad(bias_BN, (0, -bias_BN.shape[1] % (n * n)), value=HIDDEN_PADDING)
            if skip.group:
                own = own.view(len(own), -1, n, n).permute(2, 0, 1, 3).reshape(n * len(own), 1, 1, -1)
            else:
                own = own.view(len(own), -1, n).permute(2, 0, 1).reshape(n * len(own), 1, 1, -1)
            biases[skip] = (own.repeat_interleave(heads, dim=1), text_B11L.repeat(n, 1, 1, 1).repeat_interleave(heads, dim=1))
        return biases
