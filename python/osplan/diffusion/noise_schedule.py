"""Noise schedules of DDPM: how much of the data is left at each of the 1000 levels.

Level 0 is nearly clean, level 999 nearly (with zero-terminal-SNR: entirely) noise.
Sources: Ho et al. 2020 (arXiv:2006.11239); Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps
are Flawed" (arXiv:2305.08891) for zero-terminal-SNR; Yang et al. 2024, CogVideoX (arXiv:2408.06072) for the SNR shift.
"""

import torch
from torch import Tensor

from osplan.diffusion.settings import TRAIN_STEPS, BetaSchedule

COGVIDEOX_SNR_SHIFT = 3.0


def betas_of(schedule: BetaSchedule, dtype: torch.dtype = torch.float32) -> Tensor:
    """Variance added at each level, before any rescaling: linear in itself or in its root."""
    if schedule == "linear":
        return torch.linspace(1e-4, 0.02, TRAIN_STEPS, dtype=dtype)
    # CogVideoX computes its table in double precision, the others in single.
    precision = torch.float64 if schedule == "cogvideox" else dtype
    return torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=precision).square()


def rescale_to_zero_terminal_snr(alphas_bar: Tensor) -> Tensor:
    """Shifts and scales the roots so that the last level is 0 and the first unchanged."""
    roots = alphas_bar.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    return ((roots - last) * (first / (first - last))).square()


def betas_from(alphas_bar: Tensor) -> Tensor:
    """The betas whose running product of 1 - beta is the given table."""
    alphas = torch.cat([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])
    return 1 - alphas


class NoiseSchedule:
    """Share of signal variance left at each level, with lookups that stay on the levels' device."""

    def __init__(self, schedule: BetaSchedule, *, zero_terminal_snr: bool) -> None:
        betas = betas_of(schedule)
        alphas_bar = torch.cumprod(1 - betas, 0)
        if schedule == "cogvideox":
            alphas_bar = alphas_bar / (COGVIDEOX_SNR_SHIFT + (1 - COGVIDEOX_SNR_SHIFT) * alphas_bar)
            if zero_terminal_snr:
                alphas_bar = rescale_to_zero_terminal_snr(alphas_bar)
            betas = betas_from(alphas_bar)
        elif zero_terminal_snr:
            # Through the betas and back, as published: the round trip decides the last bits of the table.
            betas = betas_from(rescale_to_zero_terminal_snr(alphas_bar))
            alphas_bar = torch.cumprod(1 - betas, 0)
        self.betas = betas.float()
        self.alphas_bar = alphas_bar.float()
        self._on: dict[torch.device, Tensor] = {}

    def signal_share(self, level_B: Tensor) -> Tensor:
        """Signal variance at each level, float32."""
        device = level_B.device
        if device not in self._on:
            self._on[device] = self.alphas_bar.to(device)
        return self._on[device][level_B]

    def snr(self, level_B: Tensor) -> Tensor:
        """Signal-to-noise ratio at each level; 0 where nothing of the data is left."""
        share_B = self.signal_share(level_B)
        return (share_B.sqrt() / (1 - share_B).sqrt()).square()
