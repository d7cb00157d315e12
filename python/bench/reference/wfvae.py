"""WF-VAE at stride 4×8×8 with layer norms, the way upstream runs it.

Channels lie first. Norms are two permutations around a layer norm, SiLU is a product, each causal convolution copies its input behind
two copies of frame 0, wavelets are convolutions.
Shape letters: B batch, C channels, T frames, H and W height and width, Z latent channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.reference.haar import haar_2d, haar_3d, inverse_haar_2d, inverse_haar_3d
from osplan.models.posterior import Posterior
from osplan.models.wfvae_config import WfvaeConfig

RGB = 3
RIGHT_AND_BOTTOM = (0, 1, 0, 1)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _per_frame(layer: Callable[[Tensor], Tensor], x_BCTHW: Tensor) -> Tensor:
    b, c, t, h, w = x_BCTHW.shape
    out = layer(x_BCTHW.transpose(1, 2).reshape(b * t, c, h, w))
    return out.reshape(b, t, *out.shape[1:]).transpose(1, 2)


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class _FrameConv(nn.Conv2d):
    def forward(self, x_BCTHW: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _per_frame(super().forward, x_BCTHW)


class _CausalConv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding=(0, padding, padding))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        before = x_BCTHW[:, :, :1].repeat(1, 1, self.conv.kernel_size[0] - 1, 1, 1)
        return self.conv(torch.cat((before, x_BCTHW), dim=2))


class _Resnet(nn.Module):
    def __init__(self, channels_in: int, channels: int, make: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(channels_in), _Norm(channels)
        self.conv1, self.conv2 = make(channels_in, channels, 3), make(channels, channels, 3)
        if channels_in != channels:
            self.nin_shortcut = make(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(_silu(self.norm2(self.conv1(_silu(self.norm1(x))))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class _Resnet2D(_Resnet):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(channels_in, channels, lambda c, o, kernel: nn.Conv2d(c, o, kernel, padding=kernel // 2))

    def forward(self, x: Tensor) -> Tensor:
        return _per_frame(super().forward, x)


class _Resnet3D(_Resnet):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(channels_in, channels, lambda c, o, kernel: _CausalConv(c, o, kernel, padding=kernel // 2))


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _Norm(channels)
        self.q, self.k, self.v, self.proj_out = (_CausalConv(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, c, t, h, w = x_BCTHW.shape
        normed = self.norm(x_BCTHW)
        q, k, v = (layer(normed).permute(0, 2, 3, 4, 1).reshape(b * t, 1, h * w, c).contiguous() for layer in (self.q, self.k, self.v))
        out = functional.scaled_dot_product_attention(q, k, v)
        return x_BCTHW + self.proj_out(out.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return _per_frame(lambda x: self.conv(functional.pad(x, RIGHT_AND_BOTTOM)), x_BCTHW)


class _Downsample3D(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _CausalConv(channels, channels, 3, stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(functional.pad(x_BCTHW, RIGHT_AND_BOTTOM))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return _per_frame(lambda x: self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest")), x_BCTHW)


class _Upsample3D(nn.Module):
    def __init__(self, channels: int, interpolation: str) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.conv = _CausalConv(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.shape[2] > 1:
            rest = functional.interpolate(x_BCTHW[:, :, 1:], scale_factor=(2, 1, 1), mode=self.interpolation)
            x_BCTHW = torch.cat((x_BCTHW[:, :, :1], rest), dim=2)
        return self.conv(functional.interpolate(x_BCTHW, scale_factor=(1, 2, 2), mode="trilinear"))


class _Encoder(nn.Module):
    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        c, flow, count = config.base_channels, config.encoder_flow_channels, config.encoder_blocks
        self.down1 = nn.Sequential(_FrameConv(8 * RGB, c, 3, padding=1), *(_Resnet2D(c, c) for _ in range(count)), _Downsample(c))
        self.down2 = nn.Sequential(
            _FrameConv(c + flow, 2 * c, 3, padding=1), *(_Resnet3D(2 * c, 2 * c) for _ in range(count)), _Downsample3D(2 * c)
        )
        self.connect_l1 = _FrameConv(4 * RGB, flow, 3, padding=1)
        self.connect_l2 = _FrameConv(8 * RGB, flow, 3, padding=1)
        self.mid = nn.Sequential(_Resnet3D(2 * c + flow, 4 * c), _Attention(4 * c), _Resnet3D(4 * c, 4 * c))
        self.norm_out = _Norm(4 * c)
        self.conv_out = _CausalConv(4 * c, 2 * config.latent_channels, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        bands = haar_3d(x_BCTHW)
        level_1 = haar_2d(bands[:, :RGB])
        level_2 = haar_3d(level_1[:, :RGB])
        h = torch.cat((self.down1(bands), self.connect_l1(level_1)), dim=1)
        h = torch.cat((self.down2(h), self.connect_l2(level_2)), dim=1)
        return self.conv_out(_silu(self.norm_out(self.mid(h))))


class _Decoder(nn.Module):
    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        c, flow, count = config.base_channels, config.decoder_flow_channels, config.decoder_blocks
        self.width = 4 * c
        self.conv_in = _CausalConv(config.latent_channels, 4 * c, padding=1)
        self.mid = nn.Sequential(_Resnet3D(4 * c, 4 * c), _Attention(4 * c), _Resnet3D(4 * c, 4 * c + flow))
        self.up2 = nn.Sequential(
            *(_Resnet3D(4 * c, 4 * c) for _ in range(count)), _Upsample3D(4 * c, config.time_interpolation), _Resnet3D(4 * c, 4 * c + flow)
        )
        self.up1 = nn.Sequential(
            *(_Resnet3D((2 if index else 4) * c, 2 * c) for index in range(count)), _Upsample(2 * c), _Resnet3D(2 * c, 2 * c)
        )
        self.layer = nn.Sequential(_Resnet3D(2 * c, c), _Resnet3D(c, c))
        self.connect_l1, self.connect_l2 = (
            nn.Sequential(*(_Resnet3D(flow, flow) for _ in range(config.connect_blocks)), _FrameConv(flow, bands * RGB, 3, padding=1))
            for bands in (4, 8)
        )
        self.norm_out = _Norm(c)
        self.conv_out = _FrameConv(c, 8 * RGB, 3, padding=1)

    def forward(self, z_BZTHW: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z_BZTHW))
        low_2 = inverse_haar_3d(self.connect_l2(h[:, self.width :]))
        h = self.up2(h[:, : self.width])
        level_1 = _plus_low(self.connect_l1(h[:, self.width :]), low_2)
        h = self.layer(self.up1(h[:, : self.width]))
        return inverse_haar_3d(_plus_low(self.conv_out(_silu(self.norm_out(h))), inverse_haar_2d(level_1)))


def _plus_low(bands_BCTHW: Tensor, low_BCTHW: Tensor) -> Tensor:
    bands_BCTHW[:, :RGB] = bands_BCTHW[:, :RGB] + low_BCTHW
    return bands_BCTHW


class ReferenceWfvae(nn.Module):
    """WFVAEModel with upstream's parameter names, filters left out."""

    def __init__(self, config: WfvaeConfig) -> None:
        super().__init__()
        assert (config.norm, config.time_stride, config.use_attention, config.dropout) == ("layernorm", 4, True, 0.0)
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def encode(self, x_BCTHW: Tensor) -> Posterior:
        """(B, 3, 1 + 4k, H, W) to latents of 1 + k frames."""
        return Posterior(self.encoder(x_BCTHW))

    def decode(self, z_BZTHW: Tensor) -> Tensor:
        """(B, Z, 1 + k, H', W') to a clip."""
        return self.decoder(z_BZTHW)

    def scaled(self, sample_BZTHW: Tensor) -> Tensor:
        """Encoder output to the latents diffusion trains on."""
        scale, shift = (sample_BZTHW.new_tensor(values).view(1, -1, 1, 1, 1) for values in (self.config.scale, self.config.shift))
        return (sample_BZTHW - shift) * scale
