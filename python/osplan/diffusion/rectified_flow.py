"""Rectified flow: straight paths from clean latents to noise.

Time runs from data to noise: t = 0 is the clean latent, t = 1 is pure noise.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", section 3 (arXiv:2403.03206).
"""

import math

import torch
from torch import Generator, Tensor

from osplan.diffusion.ddpm import over_samples
from osplan.diffusion.masked_loss import masked_mean
from osplan.diffusion.settings import TRAIN_STEPS, ObjectiveSettings
from osplan.diffusion.times import draw_flow_draws

TOKENS_AT_SHIFT = ((256, 0.5), (4096, 1.15))
"""Two points of the dynamic shift: tokens of a frame and the logarithm of the shift there; in between it is linear."""
SMALLEST_WEIGHTED_TIME = 1e-3
"""Times below weigh like this one under sigma-sqrt, whose weight t⁻² has no bound; it is the discrete table's first time."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise: shift t / (1 + (shift - 1) t). The ends stay where they are."""
    return shift * t / (1 + (shift - 1) * t)


def dynamic_shift(frame_tokens: int) -> float:
    """The shift for frames of this many tokens (latent H·W / 4): large frames need more noise to lose their structure."""
    (few, low), (many, high) = TOKENS_AT_SHIFT
    slope = (high - low) / (many - few)
    return math.exp(frame_tokens * slope + low - slope * few)


def level_times(shift: float) -> Tensor:
    """The 1000 times of the discrete table in falling order, 1 first, float32."""
    return shifted(torch.arange(TRAIN_STEPS, 0, -1, dtype=torch.float32) / TRAIN_STEPS, shift)


class RectifiedFlow:
    """Velocity prediction: noise - x0."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.settings = settings
        self.table = level_times(settings.shift)

    def draw_noise(self, x0_BCTHW: Tensor, generator: Generator) -> Tensor:
        dtype = x0_BCTHW.dtype if self.settings.noise_precision == "model" else torch.float32
        return torch.randn(x0_BCTHW.shape, generator=generator, device=generator.device, dtype=dtype).to(x0_BCTHW.device)

    def draw_times(self, batch: int, generator: Generator, rank: int, world: int, frame_tokens: int = 0) -> Tensor:
        return self.times_of(draw_flow_draws(batch, generator, rank, world, self.settings), frame_tokens)

    def times_of(self, u_B: Tensor, frame_tokens: int = 0) -> Tensor:
        """Times that belong to draws u: u itself shifted, or the table's entry, which counts from noise to data."""
        if self.settings.continuous_times:
            shift = dynamic_shift(frame_tokens) if self.settings.dynamic_shift else self.settings.shift
            return shifted(u_B, shift)
        index_B = (u_B * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)
        return self.table.to(u_B.device)[index_B]

    def noised(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """Point on the straight path at time t: (1 - t) x0 + t noise."""
        t = over_samples(self._rounded(t_B, x0_BCTHW))
        return ((1 - t) * x0_BCTHW + t * noise_BCTHW).to(x0_BCTHW.dtype)

    def _rounded(self, t_B: Tensor, x0_BCTHW: Tensor) -> Tensor:
        return t_B.to(x0_BCTHW.dtype) if self.settings.noise_precision == "model" else t_B.float()

    def model_time(self, t_B: Tensor) -> Tensor:
        return t_B * TRAIN_STEPS

    def target(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        return noise_BCTHW - x0_BCTHW

    def weight(self, t_B: Tensor) -> Tensor:
        t_B = t_B.float()
        if self.settings.weighting == "sigma-sqrt":
            return t_B.clamp(min=SMALLEST_WEIGHTED_TIME).pow(-2)
        if self.settings.weighting == "cosmap":
            return 2 / (math.pi * (1 - 2 * t_B + 2 * t_B.square()))
        return torch.ones_like(t_B)

    def loss(
        self, prediction_BCTHW: Tensor, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor, mask_BTHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        target = self.target(x0_BCTHW, noise_BCTHW, t_B)
        weight_B = self.weight(self._rounded(t_B, x0_BCTHW))
        error = over_samples(weight_B) * (prediction_BCTHW.float() - target.float()).square()
        return masked_mean(error, mask_BTHW)

    def predict_x0(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        return x_t_BCTHW - over_samples(t_B.float()) * prediction_BCTHW

    def noise_share(self, t_B: Tensor) -> Tensor:
        return t_B.float()
