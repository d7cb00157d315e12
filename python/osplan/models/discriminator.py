"""The 3-D PatchGAN that video autoencoders are trained against: one logit per patch of a clip.

Shape letters: B batch, C channels, T frames, H and W height and width.
Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", section 3.2.2 (arXiv:1611.07004).
"""

from torch import Tensor, nn

WIDEST = 8
"""No layer is wider than this many times the first."""


class PatchDiscriminator3D(nn.Module):
    """Convolutions over time and space. The first two halve time, all but the last two halve height and width.

    Parameter names are upstream's `main.*`.
    """

    def __init__(self, in_channels: int = 3, base_channels: int = 64, layers: int = 4) -> None:
        super().__init__()
        sequence: list[nn.Module] = [nn.Conv3d(in_channels, base_channels, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        width = base_channels
        for index in range(1, layers + 1):
            wider = base_channels * min(2**index, WIDEST)
            sequence += [
                nn.Conv3d(width, wider, 3, stride=_stride(index, layers), padding=1, bias=False),
                nn.BatchNorm3d(wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width = wider
        self.main = nn.Sequential(*sequence, nn.Conv3d(width, 1, 3, padding=1))
        self.apply(_start_small)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to logits (B, 1, T', H', W'), high where the clip looks real."""
        return self.main(x_BCTHW)


def _stride(index: int, layers: int) -> tuple[int, int, int]:
    if index == layers:
        return 1, 1, 1
    return (2 if index == 1 else 1), 2, 2


def _start_small(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
