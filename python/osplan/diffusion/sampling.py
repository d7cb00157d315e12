"""Samplers for previews: DDIM, Euler ancestral and rectified-flow Euler, with classifier-free guidance.

Sources: Song et al. 2021, DDIM (arXiv:2010.02502); Karras et al. 2022 (arXiv:2206.00364) for the ancestral step;
Lin et al. 2024 (arXiv:2305.08891), sections 3.2–3.4, for zero terminal SNR, trailing steps and guidance rescale.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.rectified_flow import shifted
from osplan.diffusion.settings import TRAIN_STEPS

Predict = Callable[[Tensor, Tensor], Tensor]
"""Latents (2B, …) and times (2B,) to a prediction: the first half without the prompt, the second with it."""

SMALLEST_SIGNAL = 2.0**-24
"""What upstream's Euler samplers leave of the data at the last level of a zero-terminal-SNR schedule."""

Kind = Literal["ddim", "euler-ancestral", "flow-euler"]
FlowGrid = Literal["continuous", "levels"]


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
    flow_shift: float = 1.0
    """Rectified flow only: above 1 spends more steps near noise."""
    flow_grid: FlowGrid = "continuous"
    """Rectified flow only. `continuous`: equal steps from 1 to 0. `levels`: from 1 to the last of the 1000 levels, then to 0."""

    def __call__(self, predict: Predict, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        """Latents of a shape (B, C, T, H, W) from noise of a generator."""

        def fresh() -> Iterator[Tensor]:
            while True:
                yield torch.randn(shape, generator=generator).to(device)

        noises = fresh()
        return deque(self.path(predict, next(noises), noises), maxlen=1).pop()

    def path(self, predict: Predict, noise: Tensor, fresh: Iterator[Tensor]) -> Iterator[Tensor]:
        """The latents after every step from standard normal noise; only ancestral steps take from `fresh`."""
        match self.kind:
            case "ddim":
                return self._ddim(predict, noise)
            case "euler-ancestral":
                return self._euler_ancestral(predict, noise, fresh)
            case _:
                return self._flow(predict, noise)

    @property
    def times(self) -> list[float]:
        """What the model is told at each step, from noisy to clean."""
        if self.kind == "flow-euler":
            return [sigma * TRAIN_STEPS for sigma in self.sigmas[:-1]]
        return [float(level) for level in self._levels()]

    @property
    def sigmas(self) -> list[float]:
        """Noise over signal before each step (rectified flow: the time) and after the last; empty for DDIM, which has none."""
        match self.kind:
            case "ddim":
                return []
            case "euler-ancestral":
                shares = self.signal_shares
                return [float(((1 - shares[level]) / shares[level]).sqrt()) for level in self._levels()] + [0.0]
            case _:
                return self._flow_sigmas()

    @property
    def initial_sigma(self) -> float:
        """Standard deviation of the latents the first step starts from."""
        if self.kind != "euler-ancestral":
            return 1.0
        largest = self.sigmas[0]
        return largest if self.zero_terminal_snr else (largest**2 + 1) ** 0.5

    @property
    def signal_shares(self) -> Tensor:
        """Signal variance at each of the 1000 levels as the sampler sees it, float32."""
        assert self.schedule is not None
        shares = self.schedule.signal_share(torch.arange(TRAIN_STEPS)).clone()
        if self.kind == "euler-ancestral" and self.zero_terminal_snr:
            shares[-1] = SMALLEST_SIGNAL
        return shares

    def _levels(self) -> list[int]:
        """Levels from noisy to clean: trailing where the schedule ends in pure noise, leading else."""
        if self.zero_terminal_snr:
            return [int(level) - 1 for level in np.arange(TRAIN_STEPS, 0, -TRAIN_STEPS / self.steps).round()[: self.steps]]
        return [place * (TRAIN_STEPS // self.steps) for place in range(self.steps)][::-1]

    def _flow_sigmas(self) -> list[float]:
        if self.flow_grid == "levels":
            even = [*np.linspace(1, 1 / TRAIN_STEPS, self.steps).tolist(), 0.0]
        else:
            even = np.linspace(1, 0, self.steps + 1).tolist()
        return shifted(torch.tensor(even, dtype=torch.float64), self.flow_shift).tolist()

    def _guided(self, predict: Predict, x: Tensor, time: float) -> Tensor:
        times = torch.full((2 * len(x),), time, device=x.device, dtype=torch.float32)
        plain, prompted = predict(torch.cat([x, x]), times).chunk(2)
        guided = plain + self.guidance_scale * (prompted - plain)
        if self.guidance_rescale == 0:
            return guided
        dims = tuple(range(1, x.ndim))
        rescaled = guided * (prompted.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
        return self.guidance_rescale * rescaled + (1 - self.guidance_rescale) * guided

    def _split(self, x: Tensor, prediction: Tensor, signal: float) -> tuple[Tensor, Tensor]:
        """The data and the noise that latents of a signal variance hold by a prediction."""
        root, sigma = signal**0.5, (1 - signal) ** 0.5
        match self.prediction:
            case "v-prediction":
                return root * x - sigma * prediction, root * prediction + sigma * x
            case "epsilon":
                return (x - sigma * prediction) / root, prediction
            case _:
                return prediction, (x - root * prediction) / sigma

    def _ddim(self, predict: Predict, x: Tensor) -> Iterator[Tensor]:
        shares = self.signal_shares
        gap = TRAIN_STEPS // self.steps
        for level in self._levels():
            following = float(shares[level - gap]) if level >= gap else 1.0
            x0, noise = self._split(x, self._guided(predict, x, level), float(shares[level]))
            x = following**0.5 * x0 + (1 - following) ** 0.5 * noise
            yield x

    def _euler_ancestral(self, predict: Predict, noise: Tensor, fresh: Iterator[Tensor]) -> Iterator[Tensor]:
        sigmas = self.sigmas
        x = noise * self.initial_sigma
        for level, sigma, following in zip(self._levels(), sigmas, sigmas[1:], strict=False):
            spread = (sigma**2 + 1) ** 0.5
            scaled = x / spread
            prediction = self._guided(predict, scaled, level)
            x0, _ = self._split(scaled, prediction, 1 / spread**2)
            up = (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5
            down = (following**2 - up**2) ** 0.5
            x = x + (x - x0) / sigma * (down - sigma) + up * next(fresh)
            yield x

    def _flow(self, predict: Predict, x: Tensor) -> Iterator[Tensor]:
        sigmas = self.sigmas
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            x = x + (following - sigma) * self._guided(predict, x, sigma * TRAIN_STEPS)
            yield x
