"""Layers that halve or double a clip's frames, height and width, under the names configs call them by.

Time is causal: frame 0 stays by itself, so T frames become (T - 1) / 2 + 1 going down and 2T - 1 going up.
Shape letters: B batch, C channels, T frames, H and W height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate, pad

from osplan.models.causal_conv import CausalConv3d, clips_of, frames_of
from osplan.models.past import Past

RIGHT_AND_BOTTOM = (0, 1, 0, 1)


class Downsample(nn.Module):
    """Halves height and width of every frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, T, H/2, W/2)."""
        return clips_of(self.conv(pad(frames_of(x_BCTHW), RIGHT_AND_BOTTOM)), x_BCTHW.shape[0])


class Upsample(nn.Module):
    """Doubles height and width of every frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, T, 2H, 2W)."""
        doubled = interpolate(frames_of(x_BCTHW), scale_factor=2, mode="nearest")
        return clips_of(self.conv(doubled), x_BCTHW.shape[0])


class StridedDownsample(nn.Module):
    """Halves height and width, and time where its stride is two, with one causal convolution."""

    def __init__(self, channels: int, frames: int, time_stride: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (frames, 3, 3), (time_stride, 2, 2))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, T', H/2, W/2)."""
        return self.conv(pad(x_BCTHW, RIGHT_AND_BOTTOM), past)


class NearestUpsample(nn.Module):
    """Doubles height and width by repeating pixels, then smooths every frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (1, 3, 3), padding=1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, T, 2H, 2W)."""
        doubled = interpolate(frames_of(x_BCTHW), scale_factor=2, mode="nearest")
        return self.conv(clips_of(doubled, x_BCTHW.shape[0]), past)


class LinearUpsample(nn.Module):
    """Doubles height and width linearly, and time where asked, then convolves causally."""

    def __init__(self, channels: int, time_interpolation: str | None) -> None:
        super().__init__()
        self.time_interpolation = time_interpolation
        self.conv = CausalConv3d(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, 2T - 1 or T, 2H, 2W)."""
        if self.time_interpolation is not None:
            x_BCTHW = doubled_in_time(self, x_BCTHW, self.time_interpolation, past)
        doubled = interpolate(frames_of(x_BCTHW), scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv(clips_of(doubled, x_BCTHW.shape[0]), past)


class TimeAveragePool(nn.Module):
    """Halves time: each frame kept becomes the mean of itself and the two before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        del channels

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, (T - 1) / 2 + 1, H, W)."""
        return _pooled_in_time(_with_two_in_front(x_BCTHW))


class TimeLinearUpsample(nn.Module):
    """Doubles time linearly, without parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        del channels

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, 2T - 1, H, W)."""
        return doubled_in_time(self, x_BCTHW, "trilinear", past)


class TimeDownsampleMixed(nn.Module):
    """Halves time by a learnt mix of pooling and a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, (T - 1) / 2 + 1, H, W)."""
        seen = _with_two_in_front(x_BCTHW)
        return torch.lerp(self.conv(seen), _pooled_in_time(seen), torch.sigmoid(self.mix_factor))


class TimeUpsampleMixed(nn.Module):
    """Doubles time linearly, then mixes in a causal convolution by a learnt share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3, padding=1)
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, 2T - 1, H, W)."""
        doubled = doubled_in_time(self, x_BCTHW, "trilinear", past)
        return torch.lerp(self.conv(doubled, past), doubled, torch.sigmoid(self.mix_factor))


def doubled_in_time(layer: nn.Module, x_BCTHW: Tensor, interpolation: str, past: Past | None) -> Tensor:
    """Frame 0 as it is, the others twice as often: (B, C, T, H, W) to (B, C, 2T - 1, H, W).

    In chunks the last frame of a linear doubling waits for the frame after it, so a chunk may give one frame
    less than twice its own and the next one more. `layer` owns what waits.
    """
    if past is None:
        return torch.cat((x_BCTHW[:, :, :1], _doubled(x_BCTHW[:, :, 1:], interpolation)), dim=2)
    if interpolation == "nearest":
        opening, rest = (x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]) if past.is_first else (x_BCTHW[:, :, :0], x_BCTHW)
        return torch.cat((opening, _doubled(rest, interpolation)), dim=2)
    return _doubled_linearly_in_chunks(layer, x_BCTHW, past)


def _doubled_linearly_in_chunks(layer: nn.Module, x_BCTHW: Tensor, past: Past) -> Tensor:
    opening, rest = (x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]) if past.is_first else (x_BCTHW[:, :, :0], x_BCTHW)
    before = past.recall(layer, "doubled in time")
    known = rest if before is None else torch.cat((before, rest), dim=2)
    doubled = _doubled(known, "trilinear")
    finished = doubled[:, :, 0 if before is None else 1 : None if past.is_last else -1]
    if not past.is_last and known.shape[2]:
        past.keep(layer, known[:, :, -1:], "doubled in time")
    return torch.cat((opening, finished), dim=2)


def _doubled(x_BCTHW: Tensor, interpolation: str) -> Tensor:
    """Twice the frames, half-pixel centres: linearly, a frame lies a quarter from its neighbour's place."""
    t = x_BCTHW.shape[2]
    if interpolation == "nearest" or t == 0:
        return x_BCTHW.repeat_interleave(2, dim=2)
    before = torch.cat((x_BCTHW[:, :, :1], x_BCTHW[:, :, :-1]), dim=2)
    after = torch.cat((x_BCTHW[:, :, 1:], x_BCTHW[:, :, -1:]), dim=2)
    pairs = torch.stack((torch.lerp(x_BCTHW, before, 0.25), torch.lerp(x_BCTHW, after, 0.25)), dim=3)
    return pairs.flatten(2, 3)


def _with_two_in_front(x_BCTHW: Tensor) -> Tensor:
    return torch.cat((x_BCTHW[:, :, :1].expand(-1, -1, 2, -1, -1), x_BCTHW), dim=2)


def _pooled_in_time(seen_BCTHW: Tensor) -> Tensor:
    return avg_pool3d(seen_BCTHW, (3, 1, 1), stride=(2, 1, 1))
