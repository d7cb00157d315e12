"""The Open-Sora-Plan transformer of v1.2 and v1.3, dense or skiparse, for text-to-video and for inpainting.

v1.2's model has the parameters of v1.3's and no sparse blocks; its positions are rotary or fixed sines.
Sources: Open-Sora-Plan report v1.3; Peebles & Xie 2023, "DiT" (arXiv:2212.09748); Chen et al. 2023, "PixArt-α" (arXiv:2310.00426).
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width, N tokens, L text tokens, D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from osplan.models.attention import Attention, text_mask
from osplan.models.embeddings import AdaptiveTime, PatchEmbed, TwoLinears, check_latents, unpatchified
from osplan.models.fixed_positions import frame_positions, time_positions
from osplan.models.inpaint import InpaintEmbed
from osplan.models.joint_images import clip_and_pictures
from osplan.models.modulation import FeedForward, final_norm, modulated, random_table
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.recompute import Recompute, run_block
from osplan.models.rope import Grid, RotaryTable, RotaryTables
from osplan.models.skiparse import Skip, key_masks, patch_mask
from osplan.parallel.sequence import SequenceGroup


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass sees."""

    modulations: Tensor
    """(B, 6, D)."""
    text: Tensor
    """(B, L, D)."""
    text_mask: Tensor | None
    masks: Mapping[Skip, Tensor | None]
    tables: Mapping[Skip, RotaryTable] | None
    """None for a model whose positions are added to its tokens."""
    tokens: int
    """Of the whole clip."""
    shared: SequenceGroup | None
    """The ranks that hold the tokens together; None where this one has them all."""


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward. Cross-attention has neither norm nor modulation nor gate."""

    def __init__(self, config: OpenSoraConfig, index: int) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = random_table(6, width)
        self.norm1 = nn.LayerNorm(width, config.norm_eps, config.norm_affine)
        self.attn1 = Attention(width, config.heads, bias=config.attention_bias, dropout=config.dropout)
        self.attn2 = Attention(width, config.heads, bias=config.attention_bias, dropout=config.dropout)
        self.norm2 = nn.LayerNorm(width, config.norm_eps, config.norm_affine)
        self.ff = FeedForward(width, config.activation, dropout=config.dropout)
        self.skip = config.skip(index)

    def forward(self, x_BND: Tensor, context: Context) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + context.modulations).chunk(6, dim=1)
        table = None if context.tables is None else context.tables[self.skip]
        seen = self._over_clip(modulated(self.norm1(x_BND), shift, scale), table, context)
        x_BND = torch.addcmul(x_BND, gate, seen)
        x_BND = x_BND + self.attn2.over_text(x_BND, context.text, context.text_mask)
        return torch.addcmul(x_BND, ff_gate, self.ff(modulated(self.norm2(x_BND), ff_shift, ff_scale)))

    def _over_clip(self, x_BND: Tensor, table: RotaryTable | None, context: Context) -> Tensor:
        mask = context.masks[self.skip]
        if context.shared is None:
            return self.attn1.over_clip(x_BND, table, mask, self.skip)
        return self.attn1.over_shared_clip(x_BND, table, mask, self.skip, context.shared, context.tokens)


class OpenSora(nn.Module):
    """Predicts noise, velocity or data of noisy latents from their time and caption. State dict as upstream's."""

    def __init__(self, config: OpenSoraConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch)
        self.caption_projection = TwoLinears(config.text_channels, width, "gelu")
        self.adaln_single = AdaptiveTime(width)
        self.transformer_blocks = nn.ModuleList([Block(config, index) for index in range(config.layers)])
        self.scale_shift_table = random_table(2, width)
        self.proj_out = nn.Linear(width, config.patch * config.patch * config.out_channels)
        if config.inpaint_time_stride is not None:
            self.pos_embed_masked_hidden_states = InpaintEmbed(config.in_channels, width, config.patch)
            self.pos_embed_mask = InpaintEmbed(config.inpaint_time_stride, width, config.patch)
        self.recompute: Recompute = "none"
        self.shared: SequenceGroup | None = None
        """The ranks that compute each clip together; all of them call the model with the same inputs."""
        part = config.head_dim // 3
        self._tables = RotaryTables((part, part, part), config.scales)
        self._skips = {config.skip(index) for index in range(config.layers)}

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
        """(B, C, T, H, W) to (B, C_out, T, H, W). Masks are 1 where something is kept; None keeps everything, and is fastest.

        The last `images` frames are pictures of their own with the texts 1, 2, … of (B, 1 + images, L, C).
        For inpainting the channels are the noisy latents, the latents of the known frames, and the mask.
        Raises UserError LATENT_SHAPE where the latents do not fit the model, TEXT_SHAPE where the texts do not fit the images.
        """
        self._check(hidden_BCTHW)
        return clip_and_pictures(self._clip, self._clip, hidden_BCTHW, time_B, text_B1LC, attention_mask_BTHW, text_mask_B1L, images)

    def _check(self, hidden_BCTHW: Tensor) -> None:
        config = self.config
        channels = config.in_channels if config.inpaint_time_stride is None else 2 * config.in_channels + config.inpaint_time_stride
        check_latents(hidden_BCTHW, channels, config.patch)

    def _clip(self, hidden_BCTHW: Tensor, time_B: Tensor, text_B1LC: Tensor, keep_BTHW: Tensor | None, keep_text: Tensor | None) -> Tensor:
        patch = self.config.patch
        frames, height, wide = hidden_BCTHW.shape[2:]
        grid = (frames, height // patch, wide // patch)
        x_BND = self._tokens(hidden_BCTHW, grid)
        tokens, heads = x_BND.shape[1], self.config.heads // (self.shared.size if self.shared else 1)
        embedded_BD, modulations_B6D = self.adaln_single(time_B, x_BND.dtype)
        context = Context(
            modulations_B6D,
            self.caption_projection(text_B1LC.flatten(1, 2).to(x_BND.dtype)),
            text_mask(None if keep_text is None else keep_text.flatten(1)),
            key_masks(self._skips, patch_mask(keep_BTHW, patch), (len(x_BND), tokens, heads), x_BND.device),
            self._rotary_tables(grid, x_BND),
            tokens,
            self.shared,
        )
        if self.shared is not None:
            x_BND = self.shared.split(x_BND)
        for block in self.transformer_blocks:
            x_BND = run_block(block, self.recompute, x_BND, context)
        shift, scale = (self.scale_shift_table + embedded_BD[:, None]).chunk(2, dim=1)
        out_BND = self.proj_out(modulated(final_norm(x_BND), shift, scale))
        if self.shared is not None:
            out_BND = self.shared.joined(out_BND, tokens)
        return unpatchified(out_BND, grid, (1, patch, patch), self.config.out_channels)

    def _tokens(self, hidden_BCTHW: Tensor, grid: Grid) -> Tensor:
        config = self.config
        if config.inpaint_time_stride is not None:
            noisy, known, mask = hidden_BCTHW.split([config.in_channels, config.in_channels, config.inpaint_time_stride], dim=1)
            return self.pos_embed(noisy) + self.pos_embed_masked_hidden_states(known) + self.pos_embed_mask(mask)
        tokens = self.pos_embed(hidden_BCTHW)
        return tokens if config.rotary else self._with_positions(tokens, grid)

    def _with_positions(self, x_BND: Tensor, grid: Grid) -> Tensor:
        config, device = self.config, x_BND.device
        made_for = tuple(side // config.patch for side in config.sample_size[1:])
        within = frame_positions(grid[1:], made_for, config.scales[1:], config.width, device)  # type: ignore[arg-type]
        over = time_positions(grid[0], config.sample_size[0], config.scales[0], config.width, device)
        x_BTND = (x_BND.unflatten(1, (grid[0], -1)) + within).to(x_BND.dtype) + over[:, None]
        return x_BTND.to(x_BND.dtype).flatten(1, 2)

    def _rotary_tables(self, grid: Grid, x_BND: Tensor) -> Mapping[Skip, RotaryTable] | None:
        if not self.config.rotary:
            return None
        rounded_to = x_BND.dtype if self.config.rope_precision == "model" else torch.float32
        return {skip: self._tables.of(grid, skip, x_BND.device, rounded_to) for skip in self._skips}
