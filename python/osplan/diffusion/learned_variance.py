"""Epsilon prediction with a learned variance: the model returns the noise and, in as many channels again, its certainty.

The second half v places the log-variance of a denoising step between its two bounds: (v + 1)/2 of the way from the
posterior's to beta. It is trained by the variational bound alone (the noise prediction is detached there), in bits.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
Source: Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 3.1 (arXiv:2102.09672).
"""

import math

import torch
from torch import Tensor

from osplan.diffusion.ddpm import Ddpm, over_samples
from osplan.diffusion.noise_schedule import betas_of
from osplan.diffusion.settings import ObjectiveSettings

PIXEL_STEP = 1 / 255
"""Half the width of a value's bin when data counts as 8-bit pixels in [-1, 1]; latents keep the same bin."""
EDGE = 0.999
"""Beyond this the outermost bin reaches to infinity."""


class LearnedVariance(Ddpm):
    """The objective of v1.0 and v1.1: noise error plus variational bound, each a mean over all positions."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        super().__init__(settings)
        betas = betas_of(settings.beta_schedule, torch.float64)
        alphas_bar = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
        posterior = betas * (1 - before) / (1 - alphas_bar)
        # The posterior variance of level 0 is zero; its logarithm borrows level 1's.
        posterior_log = torch.cat([posterior[1:2], posterior[1:]]).log()
        mean_of_x0 = betas * before.sqrt() / (1 - alphas_bar)
        mean_of_xt = (1 - before) * (1 - betas).sqrt() / (1 - alphas_bar)
        x0_of_xt = (1 / alphas_bar).sqrt()
        x0_of_noise = (1 / alphas_bar - 1).sqrt()
        rows = [alphas_bar.sqrt(), (1 - alphas_bar).sqrt(), posterior_log, betas.log(), mean_of_x0, mean_of_xt, x0_of_xt, x0_of_noise]
        self._table = torch.stack(rows).float()

    def _at(self, t_B: Tensor) -> list[Tensor]:
        """The table's rows at each sample's level, each [B, 1, 1, 1, 1]."""
        if self._table.device != t_B.device:
            self._table = self._table.to(t_B.device)
        return [over_samples(row_B) for row_B in self._table[:, t_B]]

    def roots(self, t_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        signal, sigma, *_ = self._at(t_B)
        return signal, sigma

    def loss(
        self, prediction_BCTHW: Tensor, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor, mask_BTHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Masked positions count as zero but stay in the mean, as v1.1 trained."""
        noise_prediction, variance = prediction_BCTHW.float().chunk(2, dim=1)
        error = (noise_BCTHW.float() - noise_prediction).square()
        error = error + self._bound(noise_prediction.detach(), variance, x0_BCTHW.float(), noise_BCTHW.float(), t_B)
        if mask_BTHW is not None:
            error = error * mask_BTHW.unsqueeze(1).to(error.dtype)
        per_sample_B = error.flatten(1).mean(1)
        return per_sample_B.mean(), per_sample_B

    def _bound(self, noise_prediction: Tensor, variance: Tensor, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """The term of the variational bound at each position, in bits: a likelihood at level 0, else a divergence."""
        signal, sigma, shortest_log, longest_log, mean_of_x0, mean_of_xt, x0_of_xt, x0_of_noise = self._at(t_B)
        x_t = signal * x0 + sigma * noise
        fraction = (variance + 1) / 2
        log_variance = fraction * longest_log + (1 - fraction) * shortest_log
        predicted_x0 = x0_of_xt * x_t - x0_of_noise * noise_prediction
        mean = mean_of_x0 * predicted_x0 + mean_of_xt * x_t
        true_mean = mean_of_x0 * x0 + mean_of_xt * x_t
        divergence = gaussian_divergence(true_mean, shortest_log, mean, log_variance)
        surprise = -binned_log_likelihood(x0, mean, 0.5 * log_variance)
        return torch.where(over_samples(t_B) == 0, surprise, divergence) / math.log(2)

    def predict_x0(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        if prediction_BCTHW.shape[1] == 2 * x_t_BCTHW.shape[1]:
            prediction_BCTHW = prediction_BCTHW.chunk(2, dim=1)[0]
        return super().predict_x0(prediction_BCTHW, x_t_BCTHW, t_B)


def gaussian_divergence(mean_p: Tensor, log_variance_p: Tensor, mean_q: Tensor, log_variance_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Gaussian p from Gaussian q at each position, in nats."""
    ratio = (log_variance_p - log_variance_q).exp()
    distance = (mean_p - mean_q).square() * (-log_variance_q).exp()
    return 0.5 * (log_variance_q - log_variance_p + ratio + distance - 1)


def binned_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability that a Gaussian falls into the bin of x, one 8-bit pixel wide, in nats."""
    above = _normal_cdf((x - mean + PIXEL_STEP) * (-log_std).exp())
    below = _normal_cdf((x - mean - PIXEL_STEP) * (-log_std).exp())
    probability = torch.where(x < -EDGE, above, torch.where(x > EDGE, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Cumulative normal distribution by the tanh approximation that published weights were trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
