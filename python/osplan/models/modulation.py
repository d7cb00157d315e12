"""What the blocks of every transformer share: norms steered by time, feed-forward layers.

Shape letters: B batch, N tokens, D channels.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

FINAL_NORM_EPS = 1e-6
"""Of the last norm, whatever the config says about the blocks."""

Activation = Literal["gelu-approximate", "gelu", "geglu"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


def modulated(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normed tokens under a scale and a shift that come from the time."""
    return torch.addcmul(shift, normed, 1 + scale)


def final_norm(x: Tensor) -> Tensor:
    """Layer norm without weights."""
    return functional.layer_norm(x, x.shape[-1:], eps=FINAL_NORM_EPS)


class _Projection(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str, linear: type[nn.Linear], *, bias: bool) -> None:
        super().__init__()
        self.gated = activation == "geglu"
        self.approximate = "tanh" if activation == "gelu-approximate" else "none"
        self.proj = linear(width, 2 * hidden if self.gated else hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.proj(x)
        if self.gated:
            values, gate = hidden.chunk(2, dim=-1)
            return values * functional.gelu(gate)
        return functional.gelu(hidden, approximate=self.approximate)


class FeedForward(nn.Module):
    """Linear, activation, linear, four times as wide in between. Parameters carry upstream's names."""

    def __init__(
        self,
        width: int,
        activation: str = "gelu-approximate",
        *,
        bias: bool = True,
        dropout: float = 0.0,
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__()
        projection = _Projection(width, 4 * width, activation, linear, bias=bias)
        self.net = nn.ModuleList([projection, nn.Dropout(dropout), linear(4 * width, width, bias=bias)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        for layer in self.net:
            x = layer(x)
        return x


def random_table(rows: int, width: int) -> nn.Parameter:
    """A scale-shift table as it starts: normal with variance 1 / width."""
    return nn.Parameter(torch.randn(rows, width) / width**0.5)
