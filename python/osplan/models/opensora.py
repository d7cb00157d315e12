"""The Open-Sora-Plan transformer of v1.3, dense or skiparse, for text-to-video and for inpainting.

v1.2's model with rotary positions has the same parameters and is v1.3's without sparse blocks.
Sources: Open-Sora-Plan report v1.3; Peebles & Xie 2023, "DiT" (arXiv:2212.09748).
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width, N tokens, L text tokens, D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from osplan.domain.errors import UserError
from osplan.models.attention import Attention
from osplan.models.embeddings import AdaptiveTime, PatchEmbed, TwoLinears, unpatchified
from osplan.models.rope import RopePrecision, RotaryTables

NORM_EPS = 1e-6
UPSTREAM_SPARSE = range(2, 30)
"""Blocks that upstream makes sparse, whatever the depth of the model."""

Recompute = Literal["none", "selective", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSoraConfig:
    """The shape of a model.

    Raises UserError MODEL_CONFIG from its constructor where a value cannot be built.
    """

    class_name: str
    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    layers: int
    patch: int
    text_channels: int
    attention_bias: bool
    scales: tuple[float, float, float]
    """Positions are divided by these: time, height, width."""
    sparse_n: int
    sparse_blocks: frozenset[int]
    inpaint_time_stride: int | None
    """Time stride of the autoencoder, which is the number of mask channels; None for text-to-video."""
    sample_size: tuple[int, int, int]
    """Latent frames, height and width the model was made for; kept for the config.json only."""
    rope_precision: RopePrecision = "fp32"

    def __post_init__(self) -> None:
        if self.head_dim % 6:
            raise UserError(
                "MODEL_CONFIG",
                f"attention_head_dim: expected a multiple of 6 for rotary positions in three dimensions, got {self.head_dim}",
                "use 24, 48, 72 or 96",
            )
        for name in ("heads", "in_channels", "out_channels", "layers", "patch", "text_channels", "sparse_n"):
            if getattr(self, name) < 1:
                raise UserError("MODEL_CONFIG", f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "OpenSoraConfig":
        """Reads upstream's config.json; keys it does not need are left alone."""
        name = str(raw.get("_class_name", "OpenSoraT2V_v1_3"))
        later = name.endswith("_v1_3")
        layers = int(raw.get("num_layers", 32 if later else 1))
        sparse = bool(raw.get("sparse1d", False))
        listed = raw.get("sparse_blocks")
        blocks = frozenset(listed if listed is not None else UPSTREAM_SPARSE) if sparse else frozenset()
        channels = raw.get("in_channels", 8)
        heads, head_dim = int(raw.get("num_attention_heads", 24)), int(raw.get("attention_head_dim", 96))
        cross = raw.get("cross_attention_dim")
        if cross not in (None, heads * head_dim):
            raise UserError("MODEL_CONFIG", f"cross_attention_dim: expected {heads * head_dim} (heads × head dimension), got {cross}")
        return OpenSoraConfig(
            class_name=name,
            heads=heads,
            head_dim=head_dim,
            in_channels=int(channels),
            out_channels=int(raw.get("out_channels") or channels),
            layers=layers,
            patch=int(raw.get("patch_size") or 2),
            text_channels=int(raw.get("caption_channels") or 4096),
            attention_bias=bool(raw.get("attention_bias", True)),
            scales=(
                float(raw.get("interpolation_scale_t") or 1),
                float(raw.get("interpolation_scale_h") or 1),
                float(raw.get("interpolation_scale_w") or 1),
            ),
            sparse_n=int(raw.get("sparse_n", 1)) if sparse else 1,
            sparse_blocks=frozenset(block for block in blocks if block < layers),
            inpaint_time_stride=int(raw.get("vae_scale_factor_t", 4)) if "Inpaint" in name else None,
            sample_size=_sample_size(raw),
            rope_precision=raw.get("rope_precision", "fp32"),
        )

    def to_json(self) -> dict[str, Any]:
        """Upstream's config.json."""
        frames, height, wide = self.sample_size
        body: dict[str, Any] = {
            "_class_name": self.class_name,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": self.layers,
            "dropout": 0.0,
            "cross_attention_dim": self.width,
            "attention_bias": self.attention_bias,
            "sample_size_h": [height, wide],
            "sample_size_w": [height, wide],
            "sample_size_t": frames,
            "patch_size": self.patch,
            "patch_size_t": 1,
            "activation_fn": "gelu-approximate",
            "norm_elementwise_affine": False,
            "norm_eps": NORM_EPS,
            "caption_channels": self.text_channels,
            "interpolation_scale_t": self.scales[0],
            "interpolation_scale_h": self.scales[1],
            "interpolation_scale_w": self.scales[2],
            "sparse1d": bool(self.sparse_blocks),
            "sparse_n": self.sparse_n,
        }
        if self.sparse_blocks != frozenset(block for block in UPSTREAM_SPARSE if block < self.layers):
            body["sparse_blocks"] = sorted(self.sparse_blocks)
        if self.inpaint_time_stride is not None:
            body["vae_scale_factor_t"] = self.inpaint_time_stride
        return body


def _sample_size(raw: Mapping[str, Any]) -> tuple[int, int, int]:
    height, wide = raw.get("sample_size_h"), raw.get("sample_size_w")
    if isinstance(raw.get("sample_size"), list | tuple):
        height, wide = raw["sample_size"]
    height = height[0] if isinstance(height, list | tuple) else height
    wide = wide[-1] if isinstance(wide, list | tuple) else wide
    return int(raw.get("sample_size_t") or 1), int(height or 1), int(wide or 1)


class _GeluProjection(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Linear, GELU, linear, four times as wide in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([_GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        return self.net[2](self.net[0](x))


def modulated(x_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the time's scale and shift."""
    return F.layer_norm(x_BND, x_BND.shape[-1:], eps=NORM_EPS) * (1 + scale_B1D) + shift_B1D


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass sees."""

    modulations_B6D: Tensor
    text_BLD: Tensor
    keep_text_BL: Tensor | None
    keep_BN: Tensor | None
    table: tuple[Tensor, Tensor] | None


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward. Cross-attention has neither norm nor modulation nor gate."""

    def __init__(self, config: OpenSoraConfig, index: int) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = Attention(width, config.heads, bias=config.attention_bias)
        self.attn2 = Attention(width, config.heads, bias=config.attention_bias)
        self.ff = FeedForward(width)
        self.n = config.sparse_n if index in config.sparse_blocks else 1
        self.group = index % 2 == 1

    def forward(self, x_BND: Tensor, context: Context) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (self.scale_shift_table + context.modulations_B6D).chunk(6, dim=1)
        x_BND = x_BND + gate * self.attn1.over_clip(
            modulated(x_BND, shift, scale), context.table, context.keep_BN, self.n, group=self.group
        )
        x_BND = x_BND + self.attn2.over_text(x_BND, context.text_BLD, context.keep_text_BL)
        return x_BND + ff_gate * self.ff(modulated(x_BND, ff_shift, ff_scale))


class OpenSora(nn.Module):
    """Predicts noise, velocity or data of noisy latents from their time and caption. State dict as upstream's v1.3."""

    def __init__(self, config: OpenSoraConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch)
        self.caption_projection = TwoLinears(config.text_channels, width, "gelu")
        self.adaln_single = AdaptiveTime(width)
        self.transformer_blocks = nn.ModuleList([Block(config, index) for index in range(config.layers)])
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, config.patch * config.patch * config.out_channels)
        self.tables = RotaryTables(config.head_dim, config.scales)
        self.recompute: Recompute = "none"
        if config.inpaint_time_stride is not None:
            self.pos_embed_masked_hidden_states = nn.ModuleList([PatchEmbed(config.in_channels, width, config.patch), _zero_linear(width)])
            self.pos_embed_mask = nn.ModuleList([PatchEmbed(config.inpaint_time_stride, width, config.patch), _zero_linear(width)])

    def forward(
        self,
        hidden_BCTHW: Tensor,
        time_B: Tensor,
        text_B1LC: Tensor,
        attention_mask_BTHW: Tensor | None = None,
        text_mask_B1L: Tensor | None = None,
    ) -> Tensor:
        """(B, C, T, H, W) to (B, C_out, T, H, W). Masks are 1 where something is kept; None keeps everything.

        For inpainting the channels are the noisy latents, the latents of the known frames, and the mask.
        Raises UserError LATENT_SHAPE where height or width are no multiple of the patch.
        """
        p = self.config.patch
        frames, height, wide = hidden_BCTHW.shape[2:]
        if height % p or wide % p:
            raise UserError(
                "LATENT_SHAPE",
                f"latents: expected height and width in multiples of {p}, got {height}×{wide}",
                f"use clips in multiples of {8 * p} pixels",
            )
        grid = (frames, height // p, wide // p)
        x_BND = self._tokens(hidden_BCTHW)
        embedded_BD, modulations_B6D = self.adaln_single(time_B, x_BND.dtype)
        rounded_to = x_BND.dtype if self.config.rope_precision == "model" and x_BND.dtype != torch.float32 else None
        context = Context(
            modulations_B6D,
            self.caption_projection(text_B1LC.flatten(1, 2)),
            None if text_mask_B1L is None else text_mask_B1L.flatten(1) > 0,
            None
            if attention_mask_BTHW is None
            else F.max_pool3d(attention_mask_BTHW[:, None].float(), (1, p, p), (1, p, p)).flatten(1) > 0,
            self.tables.of(grid, x_BND.device, rounded_to),
        )
        for block in self.transformer_blocks:
            x_BND = self._through(block, x_BND, context)
        shift, scale = (self.scale_shift_table + embedded_BD[:, None]).chunk(2, dim=1)
        return unpatchified(self.proj_out(modulated(x_BND, shift, scale)), grid, (1, p, p), self.config.out_channels)

    def _tokens(self, hidden_BCTHW: Tensor) -> Tensor:
        if self.config.inpaint_time_stride is None:
            return self.pos_embed(hidden_BCTHW)
        channels = self.config.in_channels
        noisy, known, mask = hidden_BCTHW.split([channels, channels, self.config.inpaint_time_stride], dim=1)
        tokens = self.pos_embed(noisy)
        for (embed, linear), part in ((self.pos_embed_masked_hidden_states, known), (self.pos_embed_mask, mask)):
            tokens = tokens + linear(embed(part))
        return tokens

    def _through(self, block: nn.Module, x_BND: Tensor, context: Context) -> Tensor:
        if self.recompute == "none" or not torch.is_grad_enabled():
            return block(x_BND, context)
        return checkpoint(block, x_BND, context, use_reentrant=False)


def _zero_linear(width: int) -> nn.Linear:
    linear = nn.Linear(width, width, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


def extended_to_inpaint(state: Mapping[str, Tensor], config: OpenSoraConfig) -> dict[str, Tensor]:
    """Weights of an inpainting model that starts as the given text-to-video model; inpainting weights come back as they are.

    The patches of the known frames start as those of the noisy ones, and both new paths are closed by zeros.
    """
    if "pos_embed_masked_hidden_states.0.proj.weight" in state:
        return dict(state)
    assert config.inpaint_time_stride is not None, "the config must be an inpainting model's"
    patches = state["pos_embed.proj.weight"]
    width, patch = patches.shape[0], config.patch
    closed = patches.new_zeros(width, width)
    return {
        **state,
        "pos_embed_masked_hidden_states.0.proj.weight": patches.clone(),
        "pos_embed_masked_hidden_states.0.proj.bias": state["pos_embed.proj.bias"].clone(),
        "pos_embed_masked_hidden_states.1.weight": closed,
        "pos_embed_mask.0.proj.weight": patches.new_zeros(width, config.inpaint_time_stride, patch, patch),
        "pos_embed_mask.0.proj.bias": patches.new_zeros(width),
        "pos_embed_mask.1.weight": closed.clone(),
    }
