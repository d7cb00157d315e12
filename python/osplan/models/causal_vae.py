"""CausalVAE: the causal video autoencoder of Open-Sora-Plan v1.0 to v1.2, its blocks named by the config.

Shape letters: B batch, C channels, T frames, H and W height and width, Z latent channels. Clips are RGB in [-1, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor, nn

from osplan.domain.errors import UserError
from osplan.models.causal_conv import CausalConv3d, FrameConv
from osplan.models.clip_shape import check_clip_shape
from osplan.models.norms import NormType, make_norm, norm_silu
from osplan.models.posterior import Posterior
from osplan.models.resampling import (
    Downsample,
    LinearUpsample,
    NearestUpsample,
    StridedDownsample,
    TimeAveragePool,
    TimeDownsampleMixed,
    TimeLinearUpsample,
    TimeUpsampleMixed,
    Upsample,
)
from osplan.models.vae_blocks import FrameAttention, LegacyAttention, ResnetBlock2D, ResnetBlock3D

CLASS_NAME = "CausalVAEModel"
LATENT_SCALE = 0.18215
"""Latents diffusion trains on are the encoder's sample times this."""

Resampler = Callable[[int], nn.Module]

_CONVOLUTIONS = {"CausalConv3d": CausalConv3d, "Conv2d": FrameConv}
_RESNETS = {"ResnetBlock2D": ResnetBlock2D, "ResnetBlock3D": ResnetBlock3D, "ResnetBlock3D_GC": ResnetBlock3D}
_ATTENTIONS = {"AttnBlock3DFix": FrameAttention, "AttnBlock3D": LegacyAttention}
_DOWN: Mapping[str, tuple[Resampler | None, tuple[int, int]]] = {
    "": (None, (1, 1)),
    "Downsample": (Downsample, (1, 2)),
    "SpatialDownsample2x": (partial(StridedDownsample, frames=1, time_stride=1), (1, 2)),
    "Spatial2x3DDownsample": (partial(StridedDownsample, frames=3, time_stride=1), (1, 2)),
    "Spatial2xTime2x3DDownsample": (partial(StridedDownsample, frames=3, time_stride=2), (2, 2)),
    "TimeDownsample2x": (TimeAveragePool, (2, 1)),
    "TimeDownsampleRes2x": (TimeDownsampleMixed, (2, 1)),
}
"""Upstream's names, what builds them and what they divide (time, space) by."""
_UP: Mapping[str, Resampler | None] = {
    "": None,
    "Upsample": Upsample,
    "SpatialUpsample2x": NearestUpsample,
    "SpatialUpsample2x_GC": NearestUpsample,
    "Spatial2x3DUpsample": partial(LinearUpsample, time_interpolation=None),
    "Spatial2xTime2x3DUpsample": partial(LinearUpsample, time_interpolation="trilinear"),
    "TimeUpsample2x": TimeLinearUpsample,
    "TimeUpsampleRes2x": TimeUpsampleMixed,
}

_THREE_D = ("ResnetBlock3D",) * 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalVaeConfig:
    """Upstream's config.json keys. The defaults are those of upstream's class, which published configs lean on.

    Raises UserError VAE_CONFIG from its constructor where names or lengths cannot be built.
    """

    hidden_size: int = 128
    z_channels: int = 4
    hidden_size_mult: tuple[int, ...] = (1, 2, 4, 4)
    attn_resolutions: tuple[int, ...] = ()
    dropout: float = 0.0
    resolution: int = 256
    """Only decides at which levels `attn_resolutions` put attention; clips may have any size."""
    double_z: bool = True
    embed_dim: int = 4
    num_res_blocks: int = 2
    q_conv: str = "CausalConv3d"
    encoder_conv_in: str = "CausalConv3d"
    encoder_conv_out: str = "CausalConv3d"
    encoder_attention: str = "AttnBlock3D"
    encoder_resnet_blocks: tuple[str, ...] = _THREE_D
    encoder_spatial_downsample: tuple[str, ...] = ("SpatialDownsample2x", "SpatialDownsample2x", "SpatialDownsample2x", "")
    encoder_temporal_downsample: tuple[str, ...] = ("", "TimeDownsample2x", "TimeDownsample2x", "")
    encoder_mid_resnet: str = "ResnetBlock3D"
    decoder_conv_in: str = "CausalConv3d"
    decoder_conv_out: str = "CausalConv3d"
    decoder_attention: str = "AttnBlock3D"
    decoder_resnet_blocks: tuple[str, ...] = _THREE_D
    decoder_spatial_upsample: tuple[str, ...] = ("", "SpatialUpsample2x", "SpatialUpsample2x", "SpatialUpsample2x")
    decoder_temporal_upsample: tuple[str, ...] = ("", "", "TimeUpsample2x", "TimeUpsample2x")
    decoder_mid_resnet: str = "ResnetBlock3D"
    use_quant_layer: bool = True
    norm_type: NormType = "groupnorm"

    def __post_init__(self) -> None:
        for name, known in (
            ("q_conv", _CONVOLUTIONS),
            ("encoder_conv_in", _CONVOLUTIONS),
            ("encoder_conv_out", _CONVOLUTIONS),
            ("decoder_conv_in", _CONVOLUTIONS),
            ("decoder_conv_out", _CONVOLUTIONS),
            ("encoder_attention", _ATTENTIONS),
            ("decoder_attention", _ATTENTIONS),
            ("encoder_mid_resnet", _RESNETS),
            ("decoder_mid_resnet", _RESNETS),
            ("norm_type", ("groupnorm", "layernorm")),
        ):
            _check_name(name, getattr(self, name), known)
        for name, known in (
            ("encoder_resnet_blocks", _RESNETS),
            ("encoder_spatial_downsample", _DOWN),
            ("encoder_temporal_downsample", _DOWN),
            ("decoder_resnet_blocks", _RESNETS),
            ("decoder_spatial_upsample", _UP),
            ("decoder_temporal_upsample", _UP),
        ):
            names = getattr(self, name)
            if len(names) != len(self.hidden_size_mult):
                raise _wrong(name, f"{len(self.hidden_size_mult)} names, one per level", list(names))
            for index, block in enumerate(names):
                _check_name(f"{name}[{index}]", block, known)
        if self.use_quant_layer and not self.double_z:
            raise _wrong("double_z", "true, because quant_conv takes two times z_channels", False)

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "CausalVaeConfig":
        """Reads an upstream config.json of v1.0 to v1.3. Unknown keys, such as v1.0's loss settings, are passed over."""
        known = {field.name for field in fields(CausalVaeConfig)}
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items() if name in known
        }
        return CausalVaeConfig(**settings)

    def to_json(self) -> dict[str, Any]:
        """A config.json that upstream's class reads, and this one too."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"_class_name": CLASS_NAME, **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}}

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels per latent cell, as (time, space)."""
        time = space = 1
        for name in (*self.encoder_spatial_downsample, *self.encoder_temporal_downsample):
            by_time, by_space = _DOWN[name][1]
            time, space = time * by_time, space * by_space
        return time, space


class _Level(nn.Module):
    """Residual blocks at one resolution, some followed by attention."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attentions)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x_BCTHW = block(x_BCTHW)
            if self.attn:
                x_BCTHW = self.attn[index](x_BCTHW)
        for name in ("downsample", "time_downsample", "upsample", "time_upsample"):
            if hasattr(self, name):
                x_BCTHW = self.get_submodule(name)(x_BCTHW)
        return x_BCTHW

    def end_with(self, **resamplers: nn.Module | None) -> "_Level":
        for name, resampler in resamplers.items():
            if resampler is not None:
                self.add_module(name, resampler)
        return self


class _Middle(nn.Module):
    def __init__(self, channels: int, resnet: str, attention: str, config: CausalVaeConfig) -> None:
        super().__init__()
        self.block_1 = _RESNETS[resnet](channels, channels, config.norm_type, config.dropout)
        self.attn_1 = _ATTENTIONS[attention](channels, config.norm_type)
        self.block_2 = _RESNETS[resnet](channels, channels, config.norm_type, config.dropout)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_BCTHW)))


class CausalVaeEncoder(nn.Module):
    """Clip to moments, before `quant_conv`."""

    def __init__(self, config: CausalVaeConfig) -> None:
        super().__init__()
        widths = [config.hidden_size * mult for mult in config.hidden_size_mult]
        self.conv_in = _CONVOLUTIONS[config.encoder_conv_in](3, config.hidden_size, 3, padding=1)
        self.down = nn.ModuleList()
        resolution = config.resolution
        for level, width in enumerate(widths):
            width_in = widths[level - 1] if level else config.hidden_size
            names = config.encoder_resnet_blocks[level], config.encoder_attention
            has_attention = resolution in config.attn_resolutions
            space, time = config.encoder_spatial_downsample[level], config.encoder_temporal_downsample[level]
            resamplers = {"downsample": _resampler(_DOWN[space][0], width), "time_downsample": _resampler(_DOWN[time][0], width)}
            self.down.append(_level(config, width_in, width, config.num_res_blocks, names, has_attention).end_with(**resamplers))
            resolution = resolution // 2 if space else resolution
        self.mid = _Middle(widths[-1], config.encoder_mid_resnet, config.encoder_attention, config)
        self.norm_out = make_norm(widths[-1], config.norm_type)
        moments = (2 if config.double_z else 1) * config.z_channels
        self.conv_out = _CONVOLUTIONS[config.encoder_conv_out](widths[-1], moments, 3, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) to (B, 2Z, T', H', W')."""
        h = self.conv_in(x_BCTHW)
        for level in self.down:
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, self.mid(h)))


class CausalVaeDecoder(nn.Module):
    """Latents, after `post_quant_conv`, to clip."""

    def __init__(self, config: CausalVaeConfig) -> None:
        super().__init__()
        widths = [config.hidden_size * mult for mult in config.hidden_size_mult]
        width_in = widths[-1]
        self.conv_in = _CONVOLUTIONS[config.decoder_conv_in](config.z_channels, width_in, 3, padding=1)
        self.mid = _Middle(width_in, config.decoder_mid_resnet, config.decoder_attention, config)
        self.up = nn.ModuleList()
        resolution = config.resolution // 2 ** (len(widths) - 1)
        for level, width in reversed(list(enumerate(widths))):
            names = config.decoder_resnet_blocks[level], config.decoder_attention
            has_attention = resolution in config.attn_resolutions
            space, time = config.decoder_spatial_upsample[level], config.decoder_temporal_upsample[level]
            resamplers = {"upsample": _resampler(_UP[space], width), "time_upsample": _resampler(_UP[time], width)}
            self.up.insert(0, _level(config, width_in, width, config.num_res_blocks + 1, names, has_attention).end_with(**resamplers))
            width_in, resolution = width, resolution * 2 if space else resolution
        self.norm_out = make_norm(width_in, config.norm_type)
        self.conv_out = _CONVOLUTIONS[config.decoder_conv_out](width_in, 3, 3, padding=1)

    def forward(self, z_BZTHW: Tensor) -> Tensor:
        """(B, Z, T', H', W') to (B, 3, T, H, W)."""
        h = self.mid(self.conv_in(z_BZTHW))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(norm_silu(self.norm_out, h))


class CausalVAE(nn.Module):
    """A CausalVAE with the parameter names of upstream's CausalVAEModel."""

    def __init__(self, config: CausalVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalVaeEncoder(config)
        self.decoder = CausalVaeDecoder(config)
        if config.use_quant_layer:
            quantise = _CONVOLUTIONS[config.q_conv]
            self.quant_conv = quantise(2 * config.z_channels, 2 * config.embed_dim, 1)
            self.post_quant_conv = quantise(config.embed_dim, config.z_channels, 1)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels per latent cell, as (time, space)."""
        return self.config.stride

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance the adversarial loss."""
        last = self.decoder.conv_out
        return last.conv.weight if isinstance(last, CausalConv3d) else last.weight

    def encode(self, x_BCTHW: Tensor) -> Posterior:
        """(B, 3, 1 + stride k, H, W) to latents of 1 + k frames.

        Raises UserError VAE_CLIP_SHAPE for other shapes.
        """
        check_clip_shape(x_BCTHW.shape, self.stride)
        moments = self.encoder(x_BCTHW)
        return Posterior(self.quant_conv(moments) if self.config.use_quant_layer else moments)

    def decode(self, z_BZTHW: Tensor) -> Tensor:
        """Unscaled latents (B, Z, 1 + k, H', W') to a clip (B, 3, 1 + stride k, H, W)."""
        return self.decoder(self.post_quant_conv(z_BZTHW) if self.config.use_quant_layer else z_BZTHW)

    def forward(self, x_BCTHW: Tensor, noise_BZTHW: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Encodes and decodes. `noise` picks the latent; without it the posterior's mean is decoded."""
        posterior = self.encode(x_BCTHW)
        z = posterior.mode() if noise_BZTHW is None else posterior.at(noise_BZTHW)
        return self.decode(z), posterior

    def scaled(self, sample_BZTHW: Tensor) -> Tensor:
        """Encoder output to the latents diffusion trains on."""
        return sample_BZTHW * LATENT_SCALE

    def unscaled(self, latents_BZTHW: Tensor) -> Tensor:
        """Inverse of `scaled`: what `decode` takes."""
        return latents_BZTHW / LATENT_SCALE


def _level(config: CausalVaeConfig, width_in: int, width: int, blocks: int, names: tuple[str, str], has_attention: bool) -> _Level:
    resnet, attention = names
    made = [_RESNETS[resnet](width if index else width_in, width, config.norm_type, config.dropout) for index in range(blocks)]
    attentions = [_ATTENTIONS[attention](width, config.norm_type) for _ in range(blocks)] if has_attention else []
    return _Level(list(made), list(attentions))


def _resampler(make: Resampler | None, channels: int) -> nn.Module | None:
    return None if make is None else make(channels)


def _check_name(key: str, name: Any, known: Any) -> None:
    if name not in known:
        raise _wrong(key, f"one of {', '.join(repr(each) for each in known)}", name)


def _wrong(name: str, expected: str, got: Any) -> UserError:
    return UserError(
        "VAE_CONFIG", f"CausalVAE config {name}: expected {expected}, got {got!r}", "compare with the config.json the weights came with"
    )
