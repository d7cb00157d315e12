"""The shape of a v1.5 transformer and its form as upstream's configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osplan.domain.errors import UserError
from osplan.models.config_values import latent_size, number, one_of, refuse_unless, whole_number
from osplan.models.modulation import ACTIVATIONS

NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class SuvConfig:
    """The shape of a model.

    Raises UserError MODEL_CONFIG from its constructor where the values do not fit together.
    """

    heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    stages: tuple[int, ...]
    """Blocks of each stage; stages after the middle one take the outputs of those before it, in reverse."""
    sparse_n: tuple[int, ...]
    """Sub-sequences of each stage."""
    text_feed_forward: bool
    """Whether text has feed-forward layers of its own."""
    time_channels: int
    text_channels: int
    pooled_channels: int
    skip_connection: bool
    skip_starts_closed: bool
    """Whether skip connections start as the identity on what comes from above; else their input is normed."""
    attention_bias: bool
    activation: str
    dropout: float
    norm: str
    norm_eps: float
    patch: int
    scales: tuple[float, float, float]
    """Positions are divided by these: time, height, width."""
    random_start: bool
    """In training, whether positions start anywhere that leaves them inside the size the model was made for."""
    sample_size: tuple[int, int, int]
    last_text_branch: bool
    """Whether the last block has the text layers nothing reads, as weights trained with tensor parallelism do."""

    def __post_init__(self) -> None:
        if self.head_dim % 16:
            raise UserError("MODEL_CONFIG", f"head_dim: expected a multiple of 16 for rotary positions, got {self.head_dim}")
        if len(self.stages) % 2 != 1 or len(self.stages) != len(self.sparse_n):
            raise UserError(
                "MODEL_CONFIG",
                f"num_layers, sparse_n: expected an odd number of stages, as many in both, got {len(self.stages)} and {len(self.sparse_n)}",
            )
        if any(blocks < 2 or blocks % 2 for blocks in self.stages) or any(n < 1 for n in self.sparse_n):
            raise UserError("MODEL_CONFIG", f"num_layers: expected even numbers of blocks, got {list(self.stages)}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def middle(self) -> int:
        """Number of the stage at the bottom of the U."""
        return len(self.stages) // 2

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "SuvConfig":
        """Reads upstream's configuration; keys that say nothing about the model are left alone. What is not given is the published model's.

        Raises UserError MODEL_CONFIG for a value that is missing, malformed or not built here.
        """
        refuse_unless(raw, {"patch_size_t": 1})
        stages = _counts(raw, "num_layers", (2, 4, 6, 8, 6, 4, 2))
        sparse = bool(raw.get("sparse1d", True))
        t, h, w = (number(raw, f"interpolation_scale_{axis}", 1.0) for axis in "thw")
        return SuvConfig(
            heads=whole_number(raw, "num_heads", raw.get("num_attention_heads")),
            head_dim=whole_number(raw, "head_dim", raw.get("attention_head_dim")),
            in_channels=whole_number(raw, "in_channels"),
            out_channels=whole_number(raw, "out_channels", raw.get("in_channels")),
            stages=stages,
            sparse_n=_counts(raw, "sparse_n", (1, 2, 4, 8, 4, 2, 1)) if sparse else (1,) * len(stages),
            text_feed_forward=bool(raw.get("double_ff", True)),
            time_channels=whole_number(raw, "timestep_embed_dim", 1024),
            text_channels=whole_number(raw, "caption_channels", 2048),
            pooled_channels=whole_number(raw, "pooled_projection_dim", 1280),
            skip_connection=bool(raw.get("skip_connection", True)),
            skip_starts_closed=bool(raw.get("skip_connection_zero_init", True)),
            attention_bias=bool(raw.get("attention_bias", True)),
            activation=one_of(raw, "activation_fn", ACTIVATIONS, "gelu-approximate"),
            dropout=number(raw, "dropout", 0.0),
            norm=one_of(raw, "norm_cls", NORMS, "layer_norm"),
            norm_eps=number(raw, "norm_eps", 1e-6),
            patch=whole_number(raw, "patch_size"),
            scales=(t, h, w),
            random_start=bool(raw.get("explicit_uniform_rope", False)),
            sample_size=latent_size(raw),
            last_text_branch=bool(raw.get("last_text_branch", False)),
        )

    def to_json(self) -> dict[str, Any]:
        """Upstream's configuration."""
        return {
            "_class_name": "SparseUMMDiT",
            "num_heads": self.heads,
            "head_dim": self.head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": list(self.stages),
            "sparse1d": any(n > 1 for n in self.sparse_n),
            "sparse_n": list(self.sparse_n),
            "double_ff": self.text_feed_forward,
            "timestep_embed_dim": self.time_channels,
            "caption_channels": self.text_channels,
            "pooled_projection_dim": self.pooled_channels,
            "skip_connection": self.skip_connection,
            "skip_connection_zero_init": self.skip_starts_closed,
            "attention_bias": self.attention_bias,
            "activation_fn": self.activation,
            "dropout": self.dropout,
            "norm_cls": self.norm,
            "norm_eps": self.norm_eps,
            "patch_size": self.patch,
            "patch_size_t": 1,
            "interpolation_scale_t": self.scales[0],
            "interpolation_scale_h": self.scales[1],
            "interpolation_scale_w": self.scales[2],
            "explicit_uniform_rope": self.random_start,
            "sample_size_t": self.sample_size[0],
            "sample_size_h": self.sample_size[1],
            "sample_size_w": self.sample_size[2],
            **({"last_text_branch": True} if self.last_text_branch else {}),
        }


def _counts(raw: Mapping[str, Any], key: str, absent: tuple[int, ...]) -> tuple[int, ...]:
    value = raw.get(key)
    if value is None:
        return absent
    if not isinstance(value, list | tuple) or not all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        raise UserError("MODEL_CONFIG", f"{key}: expected a list of whole numbers, one a stage, got {value!r}")
    return tuple(value)
