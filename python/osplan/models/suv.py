"""The Open-Sora-Plan transformer of v1.5: clip and text attend together, in stages that are sparser towards the middle of a U.

Sources: Open-Sora-Plan report v1.5, "SUV"; Esser et al. 2024, "Scaling Rectified Flow Transformers", section 4 (arXiv:2403.03206).
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width, N tokens, L text tokens, D channels, E channels
of the condition, K channels per head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from osplan.domain.errors import UserError
from osplan.models.embeddings import PatchEmbed, TwoLinears, check_latents, time_waves, unpatchified
from osplan.models.modulation import FeedForward, modulated
from osplan.models.recompute import Recompute, run_block
from osplan.models.rope import Grid, RotaryTable, RotaryTables, rotated
from osplan.models.skiparse import Skip, key_masks, patch_mask
from osplan.models.suv_config import SuvConfig

INIT_STD = 0.02
"""Of the layers that upstream splits over tensor-parallel ranks."""


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass sees."""

    condition: Tensor
    """Time and pooled text, (B, E), float32, after its activation."""
    masks: Mapping[Skip, Tensor | None]
    tables: Mapping[Skip, RotaryTable]


class NormalLinear(nn.Linear):
    """A linear layer that starts normal with zero bias."""

    def reset_parameters(self) -> None:
        """Normal weights, zero bias."""
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SkipLinear(nn.Linear):
    """Joins what comes from above (first half of the channels) with what was kept; starts as the identity on the former."""

    def reset_parameters(self) -> None:
        """The identity beside zeros, zero bias."""
        width = self.out_features
        with torch.no_grad():
            self.weight[:, :width] = torch.eye(width)
            self.weight[:, width:] = 0
            self.bias.zero_()


def _skip(config: SuvConfig, stage: int, index: int) -> Skip:
    """How a block divides its sequence: odd blocks of a sparse stage by group skip, even ones by single skip."""
    n = config.sparse_n[stage]
    return Skip(n, n > 1 and index % 2 == 1)


def _norm(config: SuvConfig, width: int) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layer_norm" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


def _feed_forward(config: SuvConfig) -> FeedForward:
    return FeedForward(config.width, config.activation, bias=False, dropout=config.dropout, linear=NormalLinear)


def _gated(x: Tensor, gate_B1D: Tensor, change: Tensor) -> Tensor:
    """Adds a gated change in float32, in the dtype of x."""
    return torch.addcmul(x.float(), gate_B1D, change.float()).to(x.dtype)


class PairNorm(nn.Module):
    """Norms of clip and text under scale, shift and gate from the condition. Arithmetic in float32."""

    def __init__(self, config: SuvConfig, *, text: bool) -> None:
        super().__init__()
        self.linear = NormalLinear(config.time_channels, 6 * config.width)
        self.norm = _norm(config, config.width)
        self.norm_enc = _norm(config, config.width) if text else None

    def forward(self, x_BND: Tensor, text_BLD: Tensor, condition_BE: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clip and text as their layers read them, then their gates (B, 1, D). Text passes unchanged where it has no norm."""
        steering = self.linear(condition_BE.to(self.linear.weight.dtype)).float()[:, None]
        shift, scale, gate, text_shift, text_scale, text_gate = steering.chunk(6, dim=2)
        x = modulated(self.norm(x_BND).float(), shift, scale).to(x_BND.dtype)
        text = text_BLD
        if self.norm_enc is not None:
            text = modulated(self.norm_enc(text_BLD).float(), text_shift, text_scale).to(text_BLD.dtype)
        return x, text, gate, text_gate


class JointAttention(nn.Module):
    """Clip and text in one attention; in sub-sequences each sees the whole text, and the text's outputs are averaged."""

    def __init__(self, config: SuvConfig, *, text_out: bool) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (
            nn.RMSNorm(config.head_dim, eps=config.norm_eps) for _ in range(4)
        )
        self.to_q, self.to_k, self.to_v, self.add_k_proj, self.add_v_proj, self.add_q_proj = (
            NormalLinear(width, width, bias=config.attention_bias) for _ in range(6)
        )
        self.to_out = nn.ModuleList([NormalLinear(width, width), nn.Dropout(config.dropout)])
        self.to_add_out = NormalLinear(width, width) if text_out else None

    def forward(
        self, x_BND: Tensor, text_BLD: Tensor, table: RotaryTable, mask: Tensor | None, skip: Skip, *, needs_text: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) and (B, L, D) to the same; no text where it is not needed."""
        batch, tokens, _ = x_BND.shape
        x_BMD = skip.arranged(x_BND)
        q = rotated(self.norm_q(self._heads(self.to_q(x_BMD))), table)
        k = rotated(self.norm_k(self._heads(self.to_k(x_BMD))), table)
        v = self._heads(self.to_v(x_BMD))
        keys = torch.cat([skip.folded(k), skip.folded_text(self.norm_added_k(self._heads(self.add_k_proj(text_BLD))))], dim=2)
        values = torch.cat([skip.folded(v), skip.folded_text(self._heads(self.add_v_proj(text_BLD)))], dim=2)
        queries = skip.folded(q)
        own = queries.shape[2]
        if needs_text:
            queries = torch.cat([queries, skip.folded_text(self.norm_added_q(self._heads(self.add_q_proj(text_BLD))))], dim=2)
        out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        x = self.to_out[1](self.to_out[0](skip.restored(skip.unfolded(out[:, :, :own], batch), tokens)))
        if not needs_text or self.to_add_out is None:
            return x, None
        return x, self.to_add_out(skip.mean_text(out[:, :, own:], batch))

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1))


class Block(nn.Module):
    """Joint attention, then feed-forward layers of clip and text. Nothing reads the text of the last block, so it is not computed."""

    def __init__(self, config: SuvConfig, skip: Skip, *, last: bool) -> None:
        super().__init__()
        text = not last or config.last_text_branch
        own_feed_forward = config.text_feed_forward and text
        self.norm1 = PairNorm(config, text=True)
        self.attn1 = JointAttention(config, text_out=text)
        self.norm2 = PairNorm(config, text=own_feed_forward)
        self.ff = _feed_forward(config)
        self.ff_enc = _feed_forward(config) if own_feed_forward else None
        self.shares_feed_forward = not config.text_feed_forward
        self.skip, self.needs_text = skip, not last

    def forward(self, x_BND: Tensor, text_BLD: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """(B, N, D) and (B, L, D) to the same."""
        x, text, gate, text_gate = self.norm1(x_BND, text_BLD, context.condition)
        table, mask = context.tables[self.skip], context.masks[self.skip]
        x, text = self.attn1(x, text, table, mask, self.skip, needs_text=self.needs_text)
        x_BND = _gated(x_BND, gate, x)
        if text is not None:
            text_BLD = _gated(text_BLD, text_gate, text)
        x, text, gate, text_gate = self.norm2(x_BND, text_BLD, context.condition)
        x_BND = _gated(x_BND, gate, self.ff(x))
        if self.needs_text:
            feed_forward = self.ff if self.ff_enc is None else self.ff_enc
            text_BLD = _gated(text_BLD, text_gate, feed_forward(text))
        return x_BND, text_BLD


class _Condition(nn.Module):
    def __init__(self, config: SuvConfig) -> None:
        super().__init__()
        self.channels = config.time_channels
        self.timestep_embedder = TwoLinears(config.time_channels, config.time_channels, "silu")
        self.text_embedder = TwoLinears(config.pooled_channels, config.time_channels, "silu")

    def forward(self, time_B: Tensor, pooled_BC: Tensor) -> Tensor:
        waves = time_waves(time_B, self.channels).to(pooled_BC.dtype)
        return functional.silu((self.timestep_embedder(waves) + self.text_embedder(pooled_BC)).float())


class _FinalNorm(nn.Module):
    def __init__(self, config: SuvConfig) -> None:
        super().__init__()
        self.linear = NormalLinear(config.time_channels, 2 * config.width)
        self.norm = _norm(config, config.width)

    def forward(self, x_BND: Tensor, condition_BE: Tensor) -> Tensor:
        shift, scale = self.linear(condition_BE.to(self.linear.weight.dtype)).float()[:, None].chunk(2, dim=2)
        return modulated(self.norm(x_BND).float(), shift, scale).to(x_BND.dtype)


class Suv(nn.Module):
    """Predicts the velocity of noisy latents from their time, caption and pooled caption. State dict as upstream's SparseUMMDiT."""

    def __init__(self, config: SuvConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(config.in_channels, width, config.patch)
        self.time_text_embed = _Condition(config)
        self.caption_projection = nn.Linear(config.text_channels, width)
        self.transformer_blocks = nn.ModuleList([self._stage(config, stage) for stage in range(len(config.stages))])
        if config.skip_connection:
            self.skip_norm_linear, self.skip_norm_linear_enc = (
                nn.ModuleList([self._joint(config) for _ in range(config.middle)]) for _ in range(2)
            )
        self.norm_final = _norm(config, width)
        self.norm_out = _FinalNorm(config)
        self.proj_out = nn.Linear(width, config.patch * config.patch * config.out_channels)
        self.recompute: Recompute = "none"
        sixteenth = config.head_dim // 16
        self._tables = RotaryTables((4 * sixteenth, 6 * sixteenth, 6 * sixteenth), config.scales)
        self._skips = {_skip(config, stage, index) for stage, count in enumerate(config.stages) for index in range(count)}

    @staticmethod
    def _stage(config: SuvConfig, stage: int) -> nn.ModuleList:
        count, final = config.stages[stage], len(config.stages) - 1
        return nn.ModuleList(
            [Block(config, _skip(config, stage, index), last=stage == final and index == count - 1) for index in range(count)]
        )

    @staticmethod
    def _joint(config: SuvConfig) -> nn.Sequential:
        width = config.width
        if config.skip_starts_closed:
            return nn.Sequential(nn.Identity(), SkipLinear(2 * width, width))
        return nn.Sequential(_norm(config, 2 * width), nn.Linear(2 * width, width))

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in the order of computation."""
        return [block for stage in self.transformer_blocks for block in stage]  # type: ignore[attr-defined]

    def forward(
        self,
        hidden_BCTHW: Tensor,
        time_B: Tensor,
        text_B1LC: Tensor,
        attention_mask_BTHW: Tensor | None = None,
        text_mask_B1L: Tensor | None = None,
        *,
        pooled_B1C: Tensor | None = None,
    ) -> Tensor:
        """(B, C, T, H, W) to (B, C_out, T, H, W). Masks are 1 where something is kept; None keeps everything, and is fastest.

        Raises UserError LATENT_SHAPE where the latents do not fit the model, TEXT_SHAPE where the pooled caption is missing.
        """
        config = self.config
        check_latents(hidden_BCTHW, config.in_channels, config.patch)
        if pooled_B1C is None:
            raise UserError(
                "TEXT_SHAPE", f"pooled caption: expected (batch, 1, {config.pooled_channels}), got none", "name a CLIP text encoder"
            )
        frames, height, wide = hidden_BCTHW.shape[2:]
        grid = (frames, height // config.patch, wide // config.patch)
        x = self.patch_embed(hidden_BCTHW)
        text = self.caption_projection(text_B1LC.flatten(1, 2).to(x.dtype))
        context = self._context(grid, x, text, time_B, pooled_B1C.flatten(1).to(x.dtype), attention_mask_BTHW, text_mask_B1L)
        x = self._through(x, text, context)
        x = self.norm_out(self.norm_final(x), context.condition)
        return unpatchified(self.proj_out(x), grid, (1, config.patch, config.patch), config.out_channels)

    def _context(
        self, grid: Grid, x: Tensor, text: Tensor, time_B: Tensor, pooled_BC: Tensor, keep_BTHW: Tensor | None, keep_text: Tensor | None
    ) -> Context:
        batch, tokens, _ = x.shape
        keep_BN = patch_mask(keep_BTHW, self.config.patch)
        keep_BL = None if keep_text is None else keep_text.flatten(1) > 0
        masks = key_masks(self._skips, keep_BN, (batch, tokens, self.config.heads), x.device, keep_BL, text.shape[1])
        start = self._start(grid)
        tables = {skip: self._tables.of(grid, skip, x.device, start=start) for skip in self._skips}
        return Context(self.time_text_embed(time_B, pooled_BC), masks, tables)

    def _start(self, grid: Grid) -> Grid:
        if not (self.config.random_start and self.training):
            return (0, 0, 0)
        t, h, w = (int(torch.randint(0, max(whole - size, 0) + 1, ())) for whole, size in zip(self.config.sample_size, grid, strict=True))
        return t, h, w

    def _through(self, x: Tensor, text: Tensor, context: Context) -> Tensor:
        kept: list[tuple[Tensor, Tensor]] = []
        middle = self.config.middle
        for number, stage in enumerate(self.transformer_blocks):
            if number > middle and self.config.skip_connection:
                skip_x, skip_text = kept.pop()
                x = self.skip_norm_linear[number - middle - 1](torch.cat([x, skip_x], dim=-1))
                text = self.skip_norm_linear_enc[number - middle - 1](torch.cat([text, skip_text], dim=-1))
            for block in stage:  # type: ignore[attr-defined]
                x, text = run_block(block, self.recompute, x, text, context)
            if number < middle:
                kept.append((x, text))
        return x
