"""WF-VAE: a causal video autoencoder whose low-frequency energy flows around its layers through Haar wavelets.

Shape letters: B batch, C channels, T frames, H and W height and width, Z latent channels. Clips are RGB in [-1, 1].
Source: Li et al. 2024, "WF-VAE: Enhancing Video VAE by Wavelet-Driven Energy Flow for Latent Video Diffusion Model" (arXiv:2411.17459).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from osplan.models.causal_conv import CausalConv3d, FrameConv, Stack
from osplan.models.clip_shape import RGB, check_clip_shape
from osplan.models.haar import haar_2d, haar_3d, inverse_haar_2d, inverse_haar_3d
from osplan.models.norms import make_norm, norm_silu
from osplan.models.past import Past, chunk_sizes, in_chunks
from osplan.models.posterior import Posterior
from osplan.models.resampling import Downsample, LinearUpsample, StridedDownsample, Upsample
from osplan.models.vae_blocks import FrameAttention, ResnetBlock2D, ResnetBlock3D
from osplan.models.wfvae_config import WfvaeConfig
from osplan.models.wfvae_layout import (
    Layout,
    StoredFilters,
    accept_either_layout,
    filters_of_decoder,
    filters_of_encoder,
    in_layout,
)

SPACE_STRIDE = 8
OUTER_BANDS = 8 * RGB


@dataclass(frozen=True)
class Wavelets:
    """Coefficients of the two inner levels, for the wavelet loss."""

    level_1: Tensor
    """(B, 12, T1, H/4, W/4), or 24 channels where level 1 halves time too."""
    level_2: Tensor
    """(B, 24, T2, H/8, W/8)."""


@dataclass(frozen=True)
class Reconstruction:
    """What one pass through the autoencoder gives."""

    video: Tensor
    """(B, 3, T, H, W)."""
    posterior: Posterior
    encoder_wavelets: Wavelets
    decoder_wavelets: Wavelets


class WfvaeEncoder(nn.Module):
    """Clip to moments of its latents."""

    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        self.config = config
        c, flow = config.base_channels, config.encoder_flow_channels
        halves_time = config.time_stride == 8
        self.down1 = Stack(
            FrameConv(OUTER_BANDS, c, 3, padding=1),
            *(ResnetBlock2D(c, c, config.norm, config.dropout) for _ in range(config.encoder_blocks)),
            StridedDownsample(c, 3, 2) if halves_time else Downsample(c),
        )
        self.down2 = Stack(
            FrameConv(c + flow, 2 * c, 3, padding=1),
            *(ResnetBlock3D(2 * c, 2 * c, config.norm, config.dropout) for _ in range(config.encoder_blocks)),
            StridedDownsample(2 * c, 3, 2),
        )
        self.connect_l1 = FrameConv((8 if halves_time else 4) * RGB, flow, 3, padding=1)
        self.connect_l2 = FrameConv(8 * RGB, flow, 3, padding=1)
        self.mid = Stack(*_middle(config, 2 * c + flow, 4 * c, 4 * c))
        self.norm_out = make_norm(4 * c, config.norm)
        self.conv_out = CausalConv3d(4 * c, 2 * config.latent_channels, 3, padding=1)
        for name, filters in filters_of_encoder(config.time_stride, config.haar_constant).items():
            self.add_module(name, StoredFilters(filters))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> tuple[Tensor, Wavelets]:
        """(B, 3, T, H, W) to moments (B, 2Z, T', H/8, W/8) and the coefficients on the way."""
        constant = self.config.haar_constant
        bands = haar_3d(x_BCTHW, constant, past)
        low = bands[:, :RGB]
        level_1 = haar_2d(low) if self.config.time_stride == 4 else haar_3d(low, constant, past)
        level_2 = haar_3d(level_1[:, :RGB], constant, past)
        h = torch.cat((self.down1(bands, past), self.connect_l1(level_1)), dim=1)
        h = torch.cat((self.down2(h, past), self.connect_l2(level_2)), dim=1)
        h = norm_silu(self.norm_out, self.mid(h, past))
        return self.conv_out(h, past), Wavelets(level_1, level_2)


class WfvaeDecoder(nn.Module):
    """Latents to clip."""

    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        self.config = config
        c, flow = config.base_channels, config.decoder_flow_channels
        doubles_time = config.time_stride == 8
        norm, dropout = config.norm, config.dropout
        self.conv_in = CausalConv3d(config.latent_channels, 4 * c, 3, padding=1)
        self.mid = Stack(*_middle(config, 4 * c, 4 * c, 4 * c + flow))
        self.up2 = Stack(
            *(ResnetBlock3D(4 * c, 4 * c, norm, dropout) for _ in range(config.decoder_blocks)),
            LinearUpsample(4 * c, config.time_interpolation),
            ResnetBlock3D(4 * c, 4 * c + flow, norm, dropout),
        )
        self.up1 = Stack(
            *(ResnetBlock3D((2 if i else 4) * c, 2 * c, norm, dropout) for i in range(config.decoder_blocks)),
            LinearUpsample(2 * c, "trilinear") if doubles_time else Upsample(2 * c),
            ResnetBlock3D(2 * c, 2 * c, norm, dropout),
        )
        self.layer = Stack(ResnetBlock3D(2 * c, c, norm, dropout), ResnetBlock3D(c, c, norm, dropout))
        self.connect_l1 = self._side_branch((8 if doubles_time else 4) * RGB)
        self.connect_l2 = self._side_branch(8 * RGB)
        self.norm_out = make_norm(c, norm)
        self.conv_out = FrameConv(c, OUTER_BANDS, 3, padding=1)
        for name, filters in filters_of_decoder(config.time_stride, config.haar_constant).items():
            self.add_module(name, StoredFilters(filters))

    def _side_branch(self, bands: int) -> Stack:
        flow = self.config.decoder_flow_channels
        blocks = (ResnetBlock3D(flow, flow, self.config.norm, self.config.dropout) for _ in range(self.config.connect_blocks))
        return Stack(*blocks, FrameConv(flow, bands, 3, padding=1))

    def forward(self, z_BZTHW: Tensor, past: Past | None = None) -> tuple[Tensor, Wavelets]:
        """(B, Z, T', H', W') to a clip (B, 3, T, 8H', 8W') and the coefficients on the way."""
        constant, width = self.config.haar_constant, 4 * self.config.base_channels
        h = self.mid(self.conv_in(z_BZTHW, past), past)
        level_2 = self.connect_l2(h[:, width:], past)
        low_2 = inverse_haar_3d(level_2, constant, past)

        h = self.up2(h[:, :width], past)
        level_1 = self._with_low(self.connect_l1(h[:, width:], past), low_2, past, "level 2")
        low_1 = inverse_haar_2d(level_1) if self.config.time_stride == 4 else inverse_haar_3d(level_1, constant, past)

        h = self.layer(self.up1(h[:, :width], past), past)
        bands = self._with_low(self.conv_out(norm_silu(self.norm_out, h)), low_1, past, "level 1")
        return inverse_haar_3d(bands, constant, past), Wavelets(level_1, level_2)

    def _with_low(self, bands_BCTHW: Tensor, low_BCTHW: Tensor, past: Past | None, level: str) -> Tensor:
        """Adds a level's low band. The band runs ahead of the layers where time is doubled in chunks."""
        if past is not None:
            low_BCTHW = past.in_step(self, level, low_BCTHW, bands_BCTHW.shape[2])
        return torch.cat((bands_BCTHW[:, :RGB] + low_BCTHW, bands_BCTHW[:, RGB:]), dim=1)


class WFVAE(nn.Module):
    """A WF-VAE in any of its published forms.

    Its state dict has the names of upstream's v1.3.1; loading accepts those of its branch main as well.
    """

    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WfvaeEncoder(config)
        self.decoder = WfvaeDecoder(config)
        self.register_load_state_dict_pre_hook(partial(accept_either_layout, config))

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels per latent cell, as (time, space)."""
        return self.config.time_stride, SPACE_STRIDE

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance the adversarial loss."""
        return self.decoder.conv_out.weight

    def encode(self, x_BCTHW: Tensor) -> Posterior:
        """(B, 3, 1 + stride k, H, W) to latents of 1 + k frames.

        Raises UserError VAE_CLIP_SHAPE for other shapes.
        """
        check_clip_shape(x_BCTHW.shape, self.stride)
        return Posterior(self.encoder(x_BCTHW)[0])

    def decode(self, z_BZTHW: Tensor) -> Tensor:
        """Unscaled latents (B, Z, 1 + k, H', W') to a clip (B, 3, 1 + stride k, 8H', 8W')."""
        return self.decoder(z_BZTHW)[0]

    def encode_chunked(self, x_BCTHW: Tensor, latents_per_chunk: int = 8) -> Posterior:
        """`encode` in chunks of frames: memory no longer grows with the length of the clip.

        The same up to rounding at every length, except with group norm, whose statistics span what it sees.
        """
        check_clip_shape(x_BCTHW.shape, self.stride)
        past = Past()
        sizes = chunk_sizes(x_BCTHW.shape[2], latents_per_chunk * self.config.time_stride)
        moments = [self.encoder(chunk, past)[0] for chunk in in_chunks(x_BCTHW, sizes, past)]
        return Posterior(torch.cat(moments, dim=2))

    def decode_chunked(self, z_BZTHW: Tensor, latents_per_chunk: int = 4) -> Tensor:
        """`decode` in chunks of latent frames, with the exactness of `encode_chunked`."""
        past = Past()
        sizes = chunk_sizes(z_BZTHW.shape[2], latents_per_chunk)
        return torch.cat([self.decoder(chunk, past)[0] for chunk in in_chunks(z_BZTHW, sizes, past)], dim=2)

    def forward(self, x_BCTHW: Tensor, noise_BZTHW: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes. `noise` picks the latent; without it the posterior's mean is decoded."""
        check_clip_shape(x_BCTHW.shape, self.stride)
        moments, encoder_wavelets = self.encoder(x_BCTHW)
        posterior = Posterior(moments)
        z = posterior.mode() if noise_BZTHW is None else posterior.at(noise_BZTHW)
        video, decoder_wavelets = self.decoder(z)
        return Reconstruction(video, posterior, encoder_wavelets, decoder_wavelets)

    def scaled(self, sample_BZTHW: Tensor) -> Tensor:
        """Encoder output to the latents diffusion trains on: (sample - shift) scale."""
        scale, shift = self._scale_and_shift(sample_BZTHW)
        return (sample_BZTHW - shift) * scale

    def unscaled(self, latents_BZTHW: Tensor) -> Tensor:
        """Inverse of `scaled`: what `decode` takes."""
        scale, shift = self._scale_and_shift(latents_BZTHW)
        return latents_BZTHW / scale + shift

    def export_state_dict(self, layout: Layout = "v1.3.1") -> dict[str, Tensor]:
        """All tensors under the names an upstream version reads."""
        return in_layout(self.state_dict(), layout, self.config.haar_constant)

    def _scale_and_shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in (self.config.scale, self.config.shift))
        return scale, shift


def _middle(config: WfvaeConfig, channels_in: int, channels: int, channels_out: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [
        ResnetBlock3D(channels_in, channels, config.norm, config.dropout),
        ResnetBlock3D(channels, channels_out, config.norm, config.dropout),
    ]
    if config.use_attention:
        blocks.insert(1, FrameAttention(channels, config.norm))
    return blocks
