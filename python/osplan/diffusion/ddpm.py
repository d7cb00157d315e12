"""DDPM: noise of a discrete schedule, and a network that predicts the noise, the velocity or the data.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
Sources: Ho et al. 2020 (arXiv:2006.11239); Salimans & Ho 2022 for v (arXiv:2202.00512); Hang et al. 2023 for
min-SNR weights (arXiv:2303.09556).
"""

import torch
from torch import Generator, Tensor

from osplan.diffusion.masked_loss import masked_mean
from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.settings import TRAIN_STEPS, ObjectiveSettings
from osplan.diffusion.times import draw_levels

MIN_V_WEIGHT = 0.1
"""Smallest min-SNR weight of v-prediction where noise outweighs the data. Unmended it is 0 at the level sampling starts
from, which then trains on nothing; where the data outweighs the noise, small weights are what min-SNR is for."""


def over_samples(values_B: Tensor) -> Tensor:
    """One value a sample, shaped to multiply latents."""
    return values_B.view(-1, 1, 1, 1, 1)


class Ddpm:
    """Epsilon, v or sample prediction over 1000 noise levels."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.settings = settings
        self.schedule = NoiseSchedule(settings.beta_schedule, zero_terminal_snr=settings.zero_terminal_snr)

    def draw_noise(self, x0_BCTHW: Tensor, generator: Generator) -> Tensor:
        dtype = x0_BCTHW.dtype if self.settings.noise_precision == "model" else torch.float32
        noise = torch.randn(x0_BCTHW.shape, generator=generator, device=generator.device, dtype=dtype)
        if self.settings.noise_offset:
            shared = torch.randn((*x0_BCTHW.shape[:2], 1, 1, 1), generator=generator, device=generator.device)
            noise += self.settings.noise_offset * shared
        return noise.to(x0_BCTHW.device)

    def draw_times(self, batch: int, generator: Generator, rank: int, world: int, frame_tokens: int = 0) -> Tensor:
        return draw_levels(batch, generator, rank, world, self.settings)

    def roots(self, t_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Factors of the data and of the noise at each level, [B, 1, 1, 1, 1].

        Float32, or rounded through `dtype` where the settings ask for the model's precision.
        """
        share_B = self.schedule.signal_share(t_B)
        if self.settings.noise_precision == "model":
            share_B = share_B.to(dtype)
        return over_samples(share_B.sqrt()), over_samples((1 - share_B).sqrt())

    def noised(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        signal, sigma = self.roots(t_B, x0_BCTHW.dtype)
        return (signal * x0_BCTHW + sigma * noise_BCTHW).to(x0_BCTHW.dtype)

    def model_time(self, t_B: Tensor) -> Tensor:
        return t_B

    def target(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        if self.settings.prediction == "epsilon":
            return noise_BCTHW
        if self.settings.prediction == "v-prediction":
            signal, sigma = self.roots(t_B, x0_BCTHW.dtype)
            return signal * noise_BCTHW - sigma * x0_BCTHW
        return x0_BCTHW + noise_BCTHW if self.settings.sample_target == "upstream" else x0_BCTHW

    def weight(self, t_B: Tensor) -> Tensor:
        gamma = self.settings.snr_gamma
        snr_B = self.schedule.snr(t_B)
        if gamma is None:
            return torch.ones_like(snr_B)
        capped_B = snr_B.clamp(max=gamma)
        mended = self.settings.min_snr == "mended"
        if self.settings.prediction == "epsilon":
            # min(snr, gamma) / snr has the limit 1 where nothing of the data is left.
            return torch.where(snr_B > 0, capped_B / snr_B, 1.0) if mended else capped_B / snr_B
        weight_B = capped_B / (snr_B + 1)
        return torch.where(snr_B < 1, weight_B.clamp(min=MIN_V_WEIGHT), weight_B) if mended else weight_B

    def loss(
        self, prediction_BCTHW: Tensor, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor, mask_BTHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        target = self.target(x0_BCTHW, noise_BCTHW, t_B)
        error = (prediction_BCTHW.float() - target.float()).square()
        if self.settings.snr_gamma is not None:
            error = error * over_samples(self.weight(t_B))
        return masked_mean(error, mask_BTHW)

    def predict_x0(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        signal, sigma = (root.float() for root in self.roots(t_B, torch.float32))
        if self.settings.prediction == "epsilon":
            return (x_t_BCTHW - sigma * prediction_BCTHW) / signal
        if self.settings.prediction == "v-prediction":
            return signal * x_t_BCTHW - sigma * prediction_BCTHW
        if self.settings.sample_target == "mended":
            return prediction_BCTHW
        # The prediction is x0 + noise here, so x0 follows from x_t = signal x0 + sigma noise; no level has signal = sigma exactly.
        return (x_t_BCTHW - sigma * prediction_BCTHW) / (signal - sigma)

    def noise_share(self, t_B: Tensor) -> Tensor:
        return t_B.float() / (TRAIN_STEPS - 1)
