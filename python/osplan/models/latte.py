"""The Open-Sora-Plan transformer of v1.0 and v1.1: attention within frames and over time, in turn.

Sources: Ma et al. 2024, "Latte" (arXiv:2401.03048); Chen et al. 2023, "PixArt-α" (arXiv:2310.00426).
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width, P tokens of a frame, L text tokens, D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from osplan.domain.errors import UserError
from osplan.models.attention import Attention, text_mask
from osplan.models.config_values import latent_size, number, one_of, refuse_unless, whole_number
from osplan.models.embeddings import AdaptiveTime, PatchEmbed, TwoLinears, check_latents, unpatchified
from osplan.models.fixed_positions import frame_positions, sinusoids
from osplan.models.joint_images import clip_and_pictures
from osplan.models.modulation import ACTIVATIONS, FeedForward, final_norm, modulated, random_table
from osplan.models.recompute import Recompute, run_block
from osplan.models.skiparse import Skip, patch_mask

UNUSED_TEXT_TOKENS = 120
"""Length of a buffer upstream keeps in its state dict and never reads."""
SINCE_V11 = "use_rope"
"""A key every v1.1 config.json has and no v1.0 one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatteConfig:
    """The shape of a model."""

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    """Twice the latent channels where the variance is learned."""
    layers: int
    """Blocks of each kind."""
    patch: int
    text_channels: int
    attention_bias: bool
    activation: str
    dropout: float
    norm_eps: float
    sample_size: tuple[int, int]
    """Latent height and width the model was made for; positions stretch from the height."""
    frames: int
    """Latent frames the model was made for."""
    time_scale: float
    """Frame numbers are divided by this."""

    def __post_init__(self) -> None:
        if self.width % 4:
            raise UserError("MODEL_CONFIG", f"heads × head dimension: expected a multiple of 4 for absolute positions, got {self.width}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "LatteConfig":
        """Reads upstream's config.json of either version; keys that say nothing about the model are left alone.

        Raises UserError MODEL_CONFIG for a value that is missing, malformed or not built here.
        """
        refuse_unless(raw, {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "attention_type": "default"})
        refuse_unless(raw, {"only_cross_attention": False, "double_self_attention": False, "upcast_attention": False})
        refuse_unless(raw, {"use_rope": False, "compress_kv_factor": 1, "patch_size_t": 1})
        heads, head_dim = whole_number(raw, "num_attention_heads"), whole_number(raw, "attention_head_dim")
        refuse_unless(raw, {"cross_attention_dim": heads * head_dim})
        frames = whole_number(raw, "video_length", 16)
        period = (frames - frames % 2) // 16 if SINCE_V11 in raw else frames // 5
        return LatteConfig(
            heads=heads,
            head_dim=head_dim,
            in_channels=whole_number(raw, "in_channels"),
            out_channels=whole_number(raw, "out_channels", raw.get("in_channels")),
            layers=whole_number(raw, "num_layers"),
            patch=whole_number(raw, "patch_size"),
            text_channels=whole_number(raw, "caption_channels"),
            attention_bias=bool(raw.get("attention_bias", False)),
            activation=one_of(raw, "activation_fn", ACTIVATIONS, "geglu"),
            dropout=number(raw, "dropout", 0.0),
            norm_eps=number(raw, "norm_eps", 1e-5),
            sample_size=latent_size(raw)[1:],
            frames=frames,
            time_scale=max(number(raw, "interpolation_scale_1d", max(period, 1)), 1.0),
        )

    def to_json(self) -> dict[str, Any]:
        """Upstream's config.json, as v1.1 writes it with the time scale spelt out, which holds for either version."""
        return {
            "_class_name": "LatteT2V",
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": self.layers,
            "dropout": self.dropout,
            "cross_attention_dim": self.width,
            "attention_bias": self.attention_bias,
            "sample_size": list(self.sample_size),
            "patch_size": self.patch,
            "activation_fn": self.activation,
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": self.norm_eps,
            "attention_type": "default",
            "caption_channels": self.text_channels,
            "video_length": self.frames,
            "use_rope": False,
            "compress_kv_factor": 1,
            "interpolation_scale_1d": self.time_scale,
        }


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass sees."""

    modulations: Tensor
    """(B, 6, 1, 1, D)."""
    text: Tensor
    """(B, L, D)."""
    text_mask: Tensor | None
    frame_mask: Tensor | None
    """(B·T, 1, 1, P), True to keep."""


class _Captions(TwoLinears):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, "gelu")
        self.register_buffer("y_embedding", torch.randn(UNUSED_TEXT_TOKENS, channels) / channels**0.5)


class _Block(nn.Module):
    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.scale_shift_table = random_table(6, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps, elementwise_affine=False)
        self.attn1 = Attention(config.width, config.heads, bias=config.attention_bias, dropout=config.dropout)
        self.ff = FeedForward(config.width, config.activation, dropout=config.dropout)

    def forward(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """(B, T, P, D) to (B, T, P, D)."""
        table = self.scale_shift_table[:, None, None]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (table + context.modulations).unbind(1)
        x_BTPD = torch.addcmul(x_BTPD, gate, self.attend(modulated(self.norm(x_BTPD), shift, scale), context))
        x_BTPD = self.read(x_BTPD, context)
        return torch.addcmul(x_BTPD, ff_gate, self.ff(modulated(self.norm(x_BTPD), ff_shift, ff_scale)))

    def attend(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Self-attention along one direction."""
        raise NotImplementedError

    def read(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Adds what the text says."""
        raise NotImplementedError


class SpatialBlock(_Block):
    """Attention within each frame, then to the text."""

    def __init__(self, config: LatteConfig) -> None:
        super().__init__(config)
        self.attn2 = Attention(config.width, config.heads, bias=config.attention_bias, dropout=config.dropout)

    def attend(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Each token sees its frame."""
        return self.attn1.over_clip(x_BTPD.flatten(0, 1), None, context.frame_mask, Skip()).view_as(x_BTPD)

    def read(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Every token sees the whole text, without norm, modulation or gate."""
        return x_BTPD + self.attn2.over_text(x_BTPD.flatten(1, 2), context.text, context.text_mask).view_as(x_BTPD)


class TemporalBlock(_Block):
    """Attention over time at each place; no text."""

    def attend(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Each token sees its place in all frames."""
        x_BPTD = x_BTPD.transpose(1, 2)
        return self.attn1.over_clip(x_BPTD.flatten(0, 1), None, None, Skip()).unflatten(0, x_BPTD.shape[:2]).transpose(1, 2)

    def read(self, x_BTPD: Tensor, context: Context) -> Tensor:
        """Nothing to read."""
        return x_BTPD


class Latte(nn.Module):
    """Predicts noise of noisy latents from their time and caption, and its variance where learned. State dict as upstream's LatteT2V."""

    def __init__(self, config: LatteConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch)
        self.caption_projection = _Captions(config.text_channels, width)
        self.adaln_single = AdaptiveTime(width)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(config) for _ in range(config.layers)])
        self.temporal_transformer_blocks = nn.ModuleList([TemporalBlock(config) for _ in range(config.layers)])
        self.scale_shift_table = random_table(2, width)
        self.proj_out = nn.Linear(width, config.patch * config.patch * config.out_channels)
        self.recompute: Recompute = "none"
        self.numbers_frames_beside_images = True
        """Whether clips beside images get their temporal positions; upstream forgot them unless it recomputed activations."""

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in the order of computation."""
        return [block for pair in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True) for block in pair]

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

        The last `images` frames are pictures of their own with the texts 1, 2, … of (B, 1 + images, L, C). Without images the text may
        come as (B, L, C) and its mask as (B, L).
        Raises UserError LATENT_SHAPE where the latents do not fit the model, TEXT_SHAPE where the texts do not fit the images.
        """
        check_latents(hidden_BCTHW, self.config.in_channels, self.config.patch)
        text = text_B1LC if text_B1LC.ndim == 4 else text_B1LC[:, None]
        mask = text_mask_B1L if text_mask_B1L is None or text_mask_B1L.ndim == 3 else text_mask_B1L[:, None]
        clip = partial(self._stream, numbered=self.numbers_frames_beside_images or not images)
        picture = partial(self._stream, temporal=False, numbered=False)
        return clip_and_pictures(clip, picture, hidden_BCTHW, time_B, text, attention_mask_BTHW, mask, images)

    def _stream(
        self,
        hidden_BCTHW: Tensor,
        time_B: Tensor,
        text_B1LC: Tensor,
        keep_BTHW: Tensor | None,
        keep_text: Tensor | None,
        *,
        temporal: bool = True,
        numbered: bool = True,
    ) -> Tensor:
        patch = self.config.patch
        frames, height, wide = hidden_BCTHW.shape[2:]
        grid = (frames, height // patch, wide // patch)
        x_BTPD = self._tokens(hidden_BCTHW, grid)
        embedded_BD, modulations_B6D = self.adaln_single(time_B, x_BTPD.dtype)
        keep_BN = patch_mask(keep_BTHW, patch)
        context = Context(
            modulations_B6D[:, :, None, None],
            self.caption_projection(text_B1LC.flatten(1, 2).to(x_BTPD.dtype)),
            text_mask(None if keep_text is None else keep_text.flatten(1)),
            None if keep_BN is None else Skip().key_mask(keep_BN.view(len(keep_BN) * frames, -1), self.config.heads),
        )
        for index, (spatial, over_time) in enumerate(zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)):
            x_BTPD = run_block(spatial, self.recompute, x_BTPD, context)
            if temporal:
                if index == 0 and numbered:
                    x_BTPD = x_BTPD + self._frame_numbers(frames, x_BTPD)
                x_BTPD = run_block(over_time, self.recompute, x_BTPD, context)
        shift, scale = (self.scale_shift_table + embedded_BD[:, None])[:, :, None, None].unbind(1)
        out = self.proj_out(modulated(final_norm(x_BTPD), shift, scale)).flatten(1, 2)
        return unpatchified(out, grid, (1, patch, patch), self.config.out_channels)

    def _tokens(self, hidden_BCTHW: Tensor, grid: tuple[int, int, int]) -> Tensor:
        config = self.config
        tokens = self.pos_embed(hidden_BCTHW)
        base = config.sample_size[0] // config.patch
        scale = max(config.sample_size[0] // 64, 1)
        positions = frame_positions(grid[1:], (base, base), (scale, scale), config.width, tokens.device)
        return (tokens.unflatten(1, (grid[0], -1)) + positions).to(tokens.dtype)

    def _frame_numbers(self, frames: int, x_BTPD: Tensor) -> Tensor:
        numbers = torch.arange(frames, device=x_BTPD.device, dtype=torch.float32) / self.config.time_scale
        return sinusoids(numbers, self.config.width)[:, None].to(x_BTPD.dtype)
