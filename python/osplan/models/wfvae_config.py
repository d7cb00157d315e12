"""Settings of a WF-VAE, as upstream's config.json writes them and as this code reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from osplan.domain.errors import UserError
from osplan.models.haar import HaarConstant
from osplan.models.norms import NormType

CLASS_NAME = "WFVAEModel"

_PUBLISHED_SCALE = 0.18215

_UPSTREAM_KEYS = {
    "latent_channels": "latent_dim",
    "base_channels": "base_channels",
    "encoder_blocks": "encoder_num_resblocks",
    "encoder_flow_channels": "encoder_energy_flow_hidden_size",
    "decoder_blocks": "decoder_num_resblocks",
    "decoder_flow_channels": "decoder_energy_flow_hidden_size",
    "connect_blocks": "connect_res_layer_num",
    "use_attention": "use_attention",
    "dropout": "dropout",
    "norm": "norm_type",
    "time_interpolation": "t_interpolation",
}
"""Our field to upstream's key, where the value means the same."""

_CLASS_DEFAULTS: Mapping[str, Any] = {
    "latent_dim": 8,
    "base_channels": 128,
    "encoder_num_resblocks": 2,
    "encoder_energy_flow_hidden_size": 64,
    "decoder_num_resblocks": 2,
    "decoder_energy_flow_hidden_size": 128,
    "connect_res_layer_num": 1,
    "use_attention": True,
    "dropout": 0.0,
    "norm_type": "groupnorm",
    "t_interpolation": "nearest",
}
"""What upstream's class assumes for a key that a published config.json leaves out."""

_LEVEL_1 = {
    4: {
        "l1_dowmsample_block": "Downsample",
        "l1_downsample_wavelet": "HaarWaveletTransform2D",
        "l1_upsample_block": "Upsample",
        "l1_upsample_wavelet": "InverseHaarWaveletTransform2D",
    },
    8: {
        "l1_dowmsample_block": "Spatial2xTime2x3DDownsample",
        "l1_downsample_wavelet": "HaarWaveletTransform3D",
        "l1_upsample_block": "Spatial2xTime2x3DUpsample",
        "l1_upsample_wavelet": "InverseHaarWaveletTransform3D",
    },
}
"""The level-1 names (upstream's spelling) that make a time stride."""

_LEVEL_2 = {
    "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
    "l2_downsample_wavelet": "HaarWaveletTransform3D",
    "l2_upsample_block": "Spatial2xTime2x3DUpsample",
    "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WfvaeConfig:
    """The shape of a WF-VAE. Space always shrinks eightfold.

    Raises UserError VAE_CONFIG from its constructor where a value cannot be built.
    """

    latent_channels: int
    base_channels: int
    """Width at half resolution; a quarter has twice, an eighth four times as many."""
    encoder_blocks: int
    encoder_flow_channels: int
    """Width of the wavelet side branches."""
    decoder_blocks: int
    decoder_flow_channels: int
    connect_blocks: int
    """Residual blocks in each side branch of the decoder."""
    use_attention: bool
    dropout: float
    norm: NormType
    time_interpolation: Literal["nearest", "trilinear"]
    time_stride: Literal[4, 8]
    """Pixel frames per latent frame, after the first."""
    scale: tuple[float, ...]
    """Per latent channel: latents = (sample - shift) scale."""
    shift: tuple[float, ...]
    haar_constant: HaarConstant = "upstream"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("norm", ("groupnorm", "layernorm")),
            ("time_interpolation", ("nearest", "trilinear")),
            ("time_stride", (4, 8)),
            ("haar_constant", ("upstream", "exact")),
        ):
            if getattr(self, name) not in allowed:
                raise _wrong(_UPSTREAM_KEYS.get(name, name), f"one of {', '.join(map(str, allowed))}", getattr(self, name))
        for name in ("latent_channels", "base_channels", "encoder_flow_channels", "decoder_flow_channels"):
            _check_count(name, getattr(self, name), least=1)
        for name in ("encoder_blocks", "decoder_blocks", "connect_blocks"):
            _check_count(name, getattr(self, name), least=1 if name == "decoder_blocks" else 0)
        for name in ("scale", "shift"):
            if len(getattr(self, name)) != self.latent_channels:
                raise _wrong(name, f"{self.latent_channels} numbers, one per latent channel", getattr(self, name))
        if 0 in self.scale:
            raise _wrong("scale", "numbers other than zero", self.scale)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "WfvaeConfig":
        """Reads an upstream config.json. Unknown keys are upstream's bookkeeping and are passed over.

        Missing keys take upstream's class defaults; a missing or default eight-fold scale fits any number of latent channels.
        Raises UserError VAE_CONFIG where names or numbers do not make a WF-VAE.
        """
        settings = {ours: raw.get(theirs, _CLASS_DEFAULTS[theirs]) for ours, theirs in _UPSTREAM_KEYS.items()}
        _check_attention_type(raw)
        channels = settings["latent_channels"]
        _check_count("latent_channels", channels, least=1)
        return WfvaeConfig(
            **settings,
            time_stride=_time_stride(raw),
            scale=_per_channel("scale", raw.get("scale", _PUBLISHED_SCALE), channels),
            shift=_per_channel("shift", raw.get("shift", 0.0), channels),
            haar_constant=raw.get("haar_constant", "upstream"),
        )

    def to_json(self) -> dict[str, Any]:
        """A config.json that upstream's class reads, and this one too."""
        ours = {field.name: getattr(self, field.name) for field in fields(self)}
        written = {"_class_name": CLASS_NAME, **{theirs: ours[name] for name, theirs in _UPSTREAM_KEYS.items()}}
        written |= {"scale": list(self.scale), "shift": list(self.shift), **_LEVEL_1[self.time_stride], **_LEVEL_2}
        if self.haar_constant != "upstream":
            written["haar_constant"] = self.haar_constant
        return written


def _time_stride(raw: Mapping[str, Any]) -> Literal[4, 8]:
    corrected = {key.replace("downsample", "dowmsample") if key.endswith("downsample_block") else key: value for key, value in raw.items()}
    for name, expected in _LEVEL_2.items():
        if corrected.get(name, expected) != expected:
            raise _wrong(name, expected, corrected[name])
    named = {name: corrected.get(name, default) for name, default in _LEVEL_1[4].items()}
    if named == _LEVEL_1[4]:
        return 4
    if named == _LEVEL_1[8]:
        return 8
    raise _wrong("l1 blocks", f"all of {list(_LEVEL_1[4].values())} or all of {list(_LEVEL_1[8].values())}", list(named.values()))


def _check_attention_type(raw: Mapping[str, Any]) -> None:
    if raw.get("attention_type", "AttnBlock3DFix") != "AttnBlock3DFix":
        raise _wrong("attention_type", "AttnBlock3DFix", raw["attention_type"])


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    numbers = [value] if isinstance(value, int | float) else list(value)
    is_one_value = len(set(numbers)) == 1
    if len(numbers) != channels and not is_one_value:
        raise _wrong(name, f"{channels} numbers, one per latent channel", value)
    return tuple(float(number) for number in (numbers if len(numbers) == channels else numbers[:1] * channels))


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(_UPSTREAM_KEYS[name], f"a whole number of at least {least}", value)


def _wrong(name: str, expected: str, got: Any) -> UserError:
    return UserError(
        "VAE_CONFIG", f"WF-VAE config {name}: expected {expected}, got {got!r}", "compare with the config.json the weights came with"
    )
