"""LPIPS: how different two images look, by the features of VGG-16.

Shape letters: N images, C channels, H and W height and width. Images are RGB in [-1, 1].
Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osplan.domain.errors import UserError

_SLICES = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
"""Where VGG-16's feature layers are cut, behind relu 1_2, 2_2, 3_3, 4_3 and 5_3."""
_WIDTHS = (64, 128, 256, 512, 512)
_VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Output channels of VGG-16's convolutions in order; 0 is a pooling."""
_IMAGE_SHIFT = (-0.030, -0.088, -0.188)
_IMAGE_SCALE = (0.458, 0.448, 0.450)
_FEATURE_EPS = 1e-10


class LPIPS(nn.Module):
    """Perceptual distance with frozen weights. Build it with `load_lpips`; parameter names are upstream's."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _ImageScaling()
        self.net = _SlicedVgg16()
        self.lins = tuple(f"lin{index}" for index in range(len(_WIDTHS)))
        for name, width in zip(self.lins, _WIDTHS, strict=True):
            self.add_module(name, _ChannelWeights(width))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in evaluation mode whatever holds it: the metric has no training behaviour."""
        return super().train(False)

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        """Distance of each pair, (N, 1, 1, 1)."""
        features_a, features_b = self.net(self.scaling_layer(a_NCHW)), self.net(self.scaling_layer(b_NCHW))
        distances = [
            self.get_submodule(name)((_unit(a) - _unit(b)).square()).mean(dim=(2, 3), keepdim=True)
            for name, a, b in zip(self.lins, features_a, features_b, strict=True)
        ]
        return torch.stack(distances).sum(0)


class _ImageScaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(_IMAGE_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_IMAGE_SCALE).view(1, 3, 1, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return (x_NCHW - self.shift) / self.scale


class _SlicedVgg16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG_WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        for number, (start, end) in enumerate(_SLICES, start=1):
            part = nn.Sequential()
            for index in range(start, end):
                part.add_module(str(index), layers[index])
            self.add_module(f"slice{number}", part)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        features = []
        for number in range(1, len(_SLICES) + 1):
            x_NCHW = self.get_submodule(f"slice{number}")(x_NCHW)
            features.append(x_NCHW)
        return features


class _ChannelWeights(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.model(x_NCHW)


def _unit(x_NCHW: Tensor) -> Tensor:
    """Features at length one per pixel. `vector_norm` has a zero gradient at zero, where a square root has none."""
    return x_NCHW / (torch.linalg.vector_norm(x_NCHW, dim=1, keepdim=True) + _FEATURE_EPS)


def load_lpips(*paths: Path) -> LPIPS:
    """LPIPS from local files, `.safetensors` or `.pth`, that together hold VGG-16 and the five channel weights.

    Accepts upstream's names, with or without `perceptual_loss.` in front, and torchvision's `features.N.*` for VGG-16.
    Raises UserError LPIPS_WEIGHTS where a file is missing or cannot be read, or tensors are missing.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        state |= {_upstream_name(name): value for name, value in _read(path).items()}
    model = LPIPS()
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.startswith("scaling_layer.")]
    if missing:
        where = ", ".join(map(str, paths)) or "no file"
        raise UserError(
            "LPIPS_WEIGHTS", f"{where}: expected VGG-16 and lin0 to lin4, {len(missing)} tensors are missing: {missing[0]}", _HINT
        )
    misshapen = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if misshapen:
        name = misshapen[0]
        raise UserError("LPIPS_WEIGHTS", f"{name}: expected shape {tuple(expected[name].shape)}, got {tuple(state[name].shape)}", _HINT)
    model.load_state_dict({name: state.get(name, value) for name, value in expected.items()})
    return model


_HINT = "name files with the weights, or set the perceptual weight to 0"


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError("LPIPS_WEIGHTS", f"{path}: expected a file with LPIPS weights, found none", _HINT)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:
        raise UserError("LPIPS_WEIGHTS", f"{path}: expected safetensors or a plain state dict, got {cause}", _HINT) from cause
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError("LPIPS_WEIGHTS", f"{path}: expected a state dict of tensors only", _HINT)
    return state


def _upstream_name(name: str) -> str:
    name = name.removeprefix("module.").removeprefix("perceptual_loss.")
    if not name.startswith("features."):
        return name
    index = int(name.split(".")[1])
    number = next((number for number, (start, end) in enumerate(_SLICES, start=1) if start <= index < end), None)
    return name if number is None else name.replace("features.", f"net.slice{number}.", 1)
