"""The shape of an OpenSora transformer, v1.2 and v1.3, and its form as upstream's config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osplan.domain.errors import UserError
from osplan.models.config_values import latent_size, number, one_of, refuse_unless, whole_number
from osplan.models.modulation import ACTIVATIONS
from osplan.models.rope import RopePrecision
from osplan.models.skiparse import Skip

UPSTREAM_SPARSE = range(2, 30)
"""Blocks that upstream makes sparse, whatever the depth of the model."""
ROPE_PRECISIONS = ("fp32", "model")
INPAINT_SUFFIX = "Inpaint"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSoraConfig:
    """The shape of a model.

    Raises UserError MODEL_CONFIG from its constructor where the values do not fit together.
    """

    class_name: str
    """Upstream's: OpenSoraT2V_v1_3, OpenSoraInpaint_v1_3; OpenSoraT2V, OpenSoraInpaint (v1.2)."""
    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    layers: int
    patch: int
    text_channels: int
    attention_bias: bool
    activation: str
    dropout: float
    norm_eps: float
    norm_affine: bool
    scales: tuple[float, float, float]
    """Positions are divided by these: time, height, width."""
    sparse_n: int
    sparse_blocks: frozenset[int]
    """Empty for a dense model."""
    inpaint_time_stride: int | None
    """Time stride of the autoencoder, which is the number of mask channels; None for text-to-video."""
    sample_size: tuple[int, int, int]
    """Latent frames, height and width the model was made for; absolute positions stretch from it."""
    rotary: bool
    """Rotary positions; else fixed sines are added to the tokens (v1.2)."""
    rope_precision: RopePrecision

    def __post_init__(self) -> None:
        if self.rotary and self.head_dim % 6:
            raise UserError(
                "MODEL_CONFIG",
                f"attention_head_dim: expected a multiple of 6 for rotary positions in three dimensions, got {self.head_dim}",
                "use 24, 48, 72 or 96",
            )
        if not self.rotary and self.width % 4:
            raise UserError("MODEL_CONFIG", f"heads × head dimension: expected a multiple of 4 for absolute positions, got {self.width}")
        if not self.rotary and self.inpaint_time_stride is not None:
            raise UserError("MODEL_CONFIG", "use_rope: expected true for inpainting, got false", "published inpainting weights are rotary")
        beyond = sorted(block for block in self.sparse_blocks if not 0 <= block < self.layers)
        if beyond:
            raise UserError("MODEL_CONFIG", f"sparse_blocks: expected numbers below {self.layers}, the number of layers, got {beyond[0]}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def is_v12(self) -> bool:
        return not self.class_name.endswith("_v1_3")

    def skip(self, block: int) -> Skip:
        """How a block divides its sequence: odd blocks by group skip, even ones by single skip."""
        return Skip(self.sparse_n, block % 2 == 1) if block in self.sparse_blocks and self.sparse_n > 1 else Skip()

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "OpenSoraConfig":
        """Reads upstream's config.json; keys that say nothing about the model (an EMA's) are left alone.

        Raises UserError MODEL_CONFIG for a value that is missing, malformed or not built here.
        """
        name = str(raw.get("_class_name", "OpenSoraT2V_v1_3"))
        v12 = not name.endswith("_v1_3")
        refuse_unless(raw, {"patch_size_t": 1, "only_cross_attention": False, "double_self_attention": False, "upcast_attention": False})
        heads, head_dim = whole_number(raw, "num_attention_heads"), whole_number(raw, "attention_head_dim")
        refuse_unless(raw, {"cross_attention_dim": heads * head_dim})
        if v12:
            refuse_unless(raw, {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "downsampler": ""})
        size, layers, sparse = latent_size(raw), whole_number(raw, "num_layers"), bool(raw.get("sparse1d", False)) and not v12
        return OpenSoraConfig(
            class_name=name,
            heads=heads,
            head_dim=head_dim,
            in_channels=whole_number(raw, "in_channels"),
            out_channels=whole_number(raw, "out_channels", raw.get("in_channels")),
            layers=layers,
            patch=whole_number(raw, "patch_size"),
            text_channels=whole_number(raw, "caption_channels"),
            attention_bias=bool(raw.get("attention_bias", not v12)),
            activation=one_of(raw, "activation_fn", ACTIVATIONS, "geglu"),
            dropout=number(raw, "dropout", 0.0),
            norm_eps=number(raw, "norm_eps", 1e-6),
            norm_affine=bool(raw.get("norm_elementwise_affine", False)),
            scales=_scales(raw, size, v12=v12),
            sparse_n=whole_number(raw, "sparse_n", 2) if sparse else 1,
            sparse_blocks=_sparse_blocks(raw, layers) if sparse else frozenset(),
            inpaint_time_stride=whole_number(raw, "vae_scale_factor_t", 4) if INPAINT_SUFFIX in name else None,
            sample_size=size,
            rotary=bool(raw.get("use_rope", False)) if v12 else True,
            rope_precision=one_of(raw, "rope_precision", ROPE_PRECISIONS, "fp32"),  # type: ignore[arg-type]
        )

    def to_json(self) -> dict[str, Any]:
        """Upstream's config.json; what upstream has no key for stands in it only where it differs from upstream."""
        frames, height, wide = self.sample_size
        body: dict[str, Any] = {
            "_class_name": self.class_name,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": self.layers,
            "dropout": self.dropout,
            "cross_attention_dim": self.width,
            "attention_bias": self.attention_bias,
            "sample_size_t": frames,
            "patch_size": self.patch,
            "patch_size_t": 1,
            "activation_fn": self.activation,
            "only_cross_attention": False,
            "double_self_attention": False,
            "upcast_attention": False,
            "norm_elementwise_affine": self.norm_affine,
            "norm_eps": self.norm_eps,
            "caption_channels": self.text_channels,
            "interpolation_scale_t": self.scales[0],
            "interpolation_scale_h": self.scales[1],
            "interpolation_scale_w": self.scales[2],
        }
        if self.is_v12:
            body |= {"sample_size": [height, wide], "norm_type": "ada_norm_single", "use_rope": self.rotary}
        else:
            body |= {"sample_size_h": [height, wide], "sample_size_w": [height, wide], "sparse1d": bool(self.sparse_blocks)}
            body["sparse_n"] = self.sparse_n
        if self.sparse_blocks and self.sparse_blocks != _sparse_blocks({}, self.layers):
            body["sparse_blocks"] = sorted(self.sparse_blocks)
        if self.inpaint_time_stride is not None:
            body["vae_scale_factor_t"] = self.inpaint_time_stride
        if self.rope_precision != "fp32":
            body["rope_precision"] = self.rope_precision
        return body


def _sparse_blocks(raw: Mapping[str, Any], layers: int) -> frozenset[int]:
    listed = raw.get("sparse_blocks")
    return frozenset(block for block in UPSTREAM_SPARSE if block < layers) if listed is None else frozenset(listed)


def _scales(raw: Mapping[str, Any], size: tuple[int, int, int], *, v12: bool) -> tuple[float, float, float]:
    """Interpolation scales; v1.2 derives those it does not name from the size the model was made for."""
    frames, height, wide = size
    absent = ((frames - 1) // 16 + 1 if frames % 2 else frames / 16, height / 30, wide / 40) if v12 else (1.0, 1.0, 1.0)
    t, h, w = (number(raw, f"interpolation_scale_{axis}", scale) for axis, scale in zip("thw", absent, strict=True))
    return t, h, w
