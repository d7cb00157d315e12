"""Samplers for previews: DDIM, Euler ancestral and rectified-flow Euler, with classifier-free guidance.

Sources: Song et al. 2021, DDIM (arXiv:2010.02502); Karras et al. 2022 (arXiv:2206.00364) for the ancestral step;
Lin et al. 2024 (arXiv:2305.08891), sections 3.2–3.4, for zero terminal SNR, trailing steps and guidance rescale.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.settings import TRAIN_STEPS

Predict = Callable[[Tensor, Tensor], Tensor]
"""Latents (2B, …) and times (2B,) to a prediction: the first half without the prompt, the second with it."""

SMALLEST_SIGNAL = 2.0**-24
"""What upstream's Euler samplers leave of the data at the last level of a zero-terminal-SNR schedule."""

Kind = Literal["ddim", "euler-ancestral", "flow-euler"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """One way from noise to latents."""

    kind: Kind
    steps: int
    guidance_scale: float
    guidance_rescale: float
    prediction: Literal["epsilon", "v-prediction", "sample", "velocity"]
    schedule: NoiseSchedule | None
    """None for rectified flow."""
    zero_terminal_snr: bool

    def __call__(self, predict: Predict, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        """Latents of a shape (B, C, T, H, W) from noise of a generator."""
        noise = torch.randn(shape, generator=generator).to(device)
        match self.kind:
            case "ddim":
                return self._ddim(predict, noise)
            case "euler-ancestral":
                return self._euler_ancestral(predict, noise, generator)
            case _:
                return self._flow(predict, noise)

    def _guided(self, predict: Predict, x: Tensor, time: float) -> Tensor:
        times = torch.full((2 * len(x),), time, device=x.device, dtype=torch.float32)
        plain, prompted = predict(torch.cat([x, x]), times).chunk(2)
        guided = plain + self.guidance_scale * (prompted - plain)
        if self.guidance_rescale == 0:
            return guided
        dims = tuple(range(1, x.ndim))
        rescaled = guided * (prompted.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
        return self.guidance_rescale * rescaled + (1 - self.guidance_rescale) * guided

    def _levels(self) -> list[int]:
        """Levels from noisy to clean: trailing where the schedule ends in pure noise, leading else."""
        if self.zero_terminal_snr:
            return [round(TRAIN_STEPS - place * TRAIN_STEPS / self.steps) - 1 for place in range(self.steps)]
        return [place * (TRAIN_STEPS // self.steps) for place in range(self.steps)][::-1]

    def _signal_shares(self) -> Tensor:
        assert self.schedule is not None
        return self.schedule.signal_share(torch.arange(TRAIN_STEPS)).double()

    def _x0(self, x: Tensor, prediction: Tensor, signal: float) -> Tensor:
        root, sigma = signal**0.5, (1 - signal) ** 0.5
        match self.prediction:
            case "v-prediction":
                return root * x - sigma * prediction
            case "epsilon":
                return (x - sigma * prediction) / root
            case _:
                return prediction

    def _ddim(self, predict: Predict, x: Tensor) -> Tensor:
        shares = self._signal_shares()
        gap = TRAIN_STEPS // self.steps
        for level in self._levels():
            signal = float(shares[level])
            before = level - gap
            signal_next = float(shares[before]) if before >= 0 else (1.0 if self.zero_terminal_snr else float(shares[0]))
            prediction = self._guided(predict, x, level)
            x0 = self._x0(x, prediction, signal)
            sigma = (1 - signal) ** 0.5
            noise = (
                signal**0.5 * prediction + sigma * x
                if self.prediction == "v-prediction"
                else prediction
                if self.prediction == "epsilon"
                else (x - signal**0.5 * x0) / sigma
            )
            x = signal_next**0.5 * x0 + (1 - signal_next) ** 0.5 * noise
        return x

    def _euler_ancestral(self, predict: Predict, noise: Tensor, generator: Generator) -> Tensor:
        shares = self._signal_shares()
        if self.zero_terminal_snr:
            shares[-1] = SMALLEST_SIGNAL
        sigmas = ((1 - shares) / shares).sqrt()
        levels = self._levels()
        path = [float(sigmas[level]) for level in levels] + [0.0]
        x = noise * (path[0] if self.zero_terminal_snr else (path[0] ** 2 + 1) ** 0.5)
        for place, level in enumerate(levels):
            sigma, to = path[place], path[place + 1]
            prediction = self._guided(predict, x / (sigma**2 + 1) ** 0.5, level)
            match self.prediction:
                case "v-prediction":
                    x0 = -prediction * (sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
                case "epsilon":
                    x0 = x - sigma * prediction
                case _:
                    x0 = prediction
            up = (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5
            down = (to**2 - up**2) ** 0.5
            x = x + (x - x0) / sigma * (down - sigma)
            x = x + up * torch.randn(x.shape, generator=generator).to(x.device)
        return x

    def _flow(self, predict: Predict, x: Tensor) -> Tensor:
        times = torch.linspace(1, 0, self.steps + 1).tolist()
        for time, following in zip(times, times[1:], strict=False):
            x = x + (following - time) * self._guided(predict, x, time * TRAIN_STEPS)
        return x
