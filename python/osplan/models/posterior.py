"""The latent distribution an autoencoder's encoder gives: a diagonal Gaussian per latent cell.

Shape letters: B batch, Z latent channels, T latent frames, H and W latent height and width.
Source: Kingma and Welling 2013, "Auto-Encoding Variational Bayes", appendix B (arXiv:1312.6114).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """Mean and log-variance of every latent cell. The log-variance is clamped to [-30, 20]."""

    moments: Tensor
    """(B, 2Z, T, H, W): what the encoder gave, mean and log-variance stacked on channels."""

    @property
    def mean(self) -> Tensor:
        """(B, Z, T, H, W)."""
        return self.moments.chunk(2, dim=1)[0]

    @property
    def logvar(self) -> Tensor:
        """(B, Z, T, H, W), clamped."""
        return self.moments.chunk(2, dim=1)[1].clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        """Standard deviation, (B, Z, T, H, W)."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most likely latent, which is the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A latent drawn with the generator, (B, Z, T, H, W)."""
        mean = self.mean
        return self.at(torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype))

    def at(self, noise: Tensor) -> Tensor:
        """The latent that given standard normal noise picks: mean + std noise."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """Divergence from the standard normal, summed over all cells of a clip: (B,), in nats."""
        return self._kl_terms().flatten(1).sum(1)

    def kl_by_column(self) -> Tensor:
        """The divergence as upstream sums it, over channels, frames and rows only: (B, W). Its sum over W is `kl`."""
        return self._kl_terms().sum(dim=(1, 2, 3))

    def _kl_terms(self) -> Tensor:
        logvar = self.logvar
        return 0.5 * (self.mean.square() + logvar.exp() - 1.0 - logvar)
