"""Sampling: from noise to clean latents in a few steps, with guidance.

A sampler walks a falling list of noise levels. Three kinds: Euler-ancestral and DDIM for models trained on DDPM,
Euler for rectified flow.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
Sources: Karras et al. 2022 (arXiv:2206.00364) for Euler-ancestral; Song et al. 2021 (arXiv:2010.02502) for DDIM;
Lin et al. 2023, section 3.4 (arXiv:2305.08891) for trailing spacing and the rescaling of guidance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.rectified_flow import dynamic_shift, level_times, shifted
from osplan.diffusion.settings import TRAIN_STEPS, ObjectiveSettings
from osplan.domain.errors import UserError

SMALLEST_SIGNAL_SHARE = 2.0**-24
"""What Euler-ancestral takes for the last level of a zero-terminal-SNR schedule, whose noise would be infinite: sigma 4096."""

ModelFn = Callable[[Tensor, Tensor], Tensor]
"""Latents [N, C, T, H, W] and model times [N] to a prediction. N is 2 B under guidance, the negative half first, else B."""
Noise = Generator | Sequence[Tensor] | Tensor
"""Fresh noise for the steps that need it: a generator, or one tensor a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerSettings:
    """How to sample, complete."""

    method: Literal["euler-ancestral", "ddim", "flow-euler"]
    steps: int
    guidance: float
    """Strength of the prompt: negative + guidance (positive - negative); at 1 or below the model runs on the prompt alone."""
    rescale: float
    """0 to 1: how far the guided prediction is brought back to the spread of the prompted one."""


class Sampler(Protocol):
    """A list of noise levels and the step from each to the next."""

    times: Tensor
    """Time the model is told at each step, float32 [steps]."""
    sigmas: Tensor
    """Noise level at each step and a final 0, float32 [steps + 1]."""
    initial_scale: float
    """What standard normal latents are multiplied by first."""

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        """The latents as the model saw them in training."""
        ...

    def advance(self, prediction: Tensor, latents: Tensor, step: int, noise: Callable[[], Tensor]) -> Tensor:
        """The latents one step closer to the data, in the dtype of the latents."""
        ...


def sample(
    model_fn: ModelFn,
    latents: Tensor,
    sampler: Sampler,
    settings: SamplerSettings,
    noise: Noise,
    after_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Clean latents from standard normal ones."""
    for latents in walk(model_fn, latents, sampler, settings, noise):
        if after_step:
            after_step(latents)
    return latents


def walk(model_fn: ModelFn, latents: Tensor, sampler: Sampler, settings: SamplerSettings, noise: Noise) -> Iterator[Tensor]:
    """The latents after every step. Standard normal latents come in; the last ones out are clean."""
    guided = settings.guidance > 1
    latents = latents * sampler.initial_scale
    for step, time in enumerate(sampler.times.to(latents.device)):
        seen = sampler.model_input(latents, step)
        seen = torch.cat([seen, seen]) if guided else seen
        prediction = model_fn(seen, time.to(seen.dtype).expand(len(seen)))
        if guided:
            negative, positive = prediction.chunk(2)
            prediction = guide(negative, positive, settings.guidance, settings.rescale)
        latents = sampler.advance(prediction, latents, step, lambda step=step, like=latents: _fresh(noise, step, like))
        yield latents


def guide(negative: Tensor, positive: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance, its spread mixed back to that of the positive prediction by `rescale`."""
    guided = negative + scale * (positive - negative)
    if rescale <= 0:
        return guided
    over_sample = tuple(range(1, guided.ndim))
    calmed = guided * (positive.std(over_sample, keepdim=True) / guided.std(over_sample, keepdim=True))
    return rescale * calmed + (1 - rescale) * guided


def _fresh(noise: Noise, step: int, like: Tensor) -> Tensor:
    if isinstance(noise, Generator):
        return torch.randn(like.shape, generator=noise, device=noise.device).to(like.device)
    return noise[step].to(like.device)


def spaced_levels(steps: int, *, trailing: bool) -> Tensor:
    """Levels to visit, falling: trailing starts at the last level, leading ends at the first. Float64, whole numbers."""
    if trailing:
        spacing = torch.arange(TRAIN_STEPS, 0, -TRAIN_STEPS / steps, dtype=torch.float64)
        return spacing[:steps].round() - 1
    return (torch.arange(steps, dtype=torch.float64) * (TRAIN_STEPS // steps)).flip(0)


class EulerAncestral:
    """Euler steps in units of noise over signal, with part of each step's noise drawn afresh."""

    def __init__(self, steps: int, objective: ObjectiveSettings) -> None:
        trailing = objective.zero_terminal_snr
        shares = NoiseSchedule(objective.beta_schedule, zero_terminal_snr=objective.zero_terminal_snr).alphas_bar.clone()
        if objective.zero_terminal_snr:
            shares[-1] = SMALLEST_SIGNAL_SHARE
        levels = spaced_levels(steps, trailing=trailing)
        every = ((1 - shares) / shares).sqrt()
        self.sigmas = torch.cat([every[levels.long()], torch.zeros(1)])
        self.times = levels.float()
        self.prediction = objective.prediction
        largest = self.sigmas.max().item()
        self.initial_scale = largest if trailing else (largest**2 + 1) ** 0.5

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        return latents / (self.sigmas[step].item() ** 2 + 1) ** 0.5

    def advance(self, prediction: Tensor, latents: Tensor, step: int, noise: Callable[[], Tensor]) -> Tensor:
        sigma, sigma_to = self.sigmas[step], self.sigmas[step + 1]
        x, prediction = latents.float(), prediction.float()
        sigma_up = (sigma_to**2 * (sigma**2 - sigma_to**2) / sigma**2).sqrt()
        sigma_down = (sigma_to**2 - sigma_up**2).sqrt()
        moved = x + self._slope(prediction, x, sigma) * (sigma_down - sigma).item()
        if sigma_up > 0:
            moved = moved + noise().float() * sigma_up.item()
        return moved.to(latents.dtype)

    def _slope(self, prediction: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Change of the latents per unit of noise: (x - x0) / sigma."""
        s = sigma.item()
        if self.prediction == "epsilon":
            return prediction
        if self.prediction == "v-prediction":
            return (x - (prediction * (-s / (s**2 + 1) ** 0.5) + x / (s**2 + 1))) / s
        return (x - prediction) / s


class Ddim:
    """Deterministic steps between levels: the data and the noise a prediction implies, mixed anew."""

    def __init__(self, steps: int, objective: ObjectiveSettings) -> None:
        shares = NoiseSchedule(objective.beta_schedule, zero_terminal_snr=objective.zero_terminal_snr).alphas_bar
        levels = spaced_levels(steps, trailing=objective.zero_terminal_snr).long()
        before = levels - TRAIN_STEPS // steps
        self.times = levels.float()
        self.shares = shares[levels]
        self.shares_to = torch.where(before >= 0, shares[before.clamp(min=0)], torch.ones(()))
        self.sigmas = torch.cat([(1 - self.shares).sqrt(), torch.zeros(1)])
        self.prediction = objective.prediction
        self.initial_scale = 1.0

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        return latents

    def advance(self, prediction: Tensor, latents: Tensor, step: int, noise: Callable[[], Tensor]) -> Tensor:
        share, share_to = self.shares[step].item(), self.shares_to[step].item()
        signal, sigma = share**0.5, (1 - share) ** 0.5
        x, prediction = latents.float(), prediction.float()
        if self.prediction == "epsilon":
            x0, epsilon = (x - sigma * prediction) / signal, prediction
        elif self.prediction == "v-prediction":
            x0, epsilon = signal * x - sigma * prediction, signal * prediction + sigma * x
        else:
            x0, epsilon = prediction, (x - signal * prediction) / sigma
        return (share_to**0.5 * x0 + (1 - share_to) ** 0.5 * epsilon).to(latents.dtype)


class FlowEuler:
    """Euler steps along the flow, from time 1 (noise) to 0 (data).

    Models trained on the discrete table visit it evenly; those trained on continuous times walk an even grid from 1
    to 0. Either grid is then shifted towards noise.
    """

    def __init__(self, steps: int, objective: ObjectiveSettings, frame_tokens: int = 0) -> None:
        if objective.continuous_times:
            even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
            shift = dynamic_shift(frame_tokens) if objective.dynamic_shift else objective.shift
            self.sigmas = shifted(even, shift).float()
        else:
            # The grid ends at the table's last time, which is itself shifted already.
            even = torch.linspace(1, level_times(objective.shift)[-1].item(), steps, dtype=torch.float64)
            self.sigmas = torch.cat([shifted(even, objective.shift).float(), torch.zeros(1)])
        self.times = self.sigmas[:-1] * TRAIN_STEPS
        self.initial_scale = 1.0

    def model_input(self, latents: Tensor, step: int) -> Tensor:
        return latents

    def advance(self, prediction: Tensor, latents: Tensor, step: int, noise: Callable[[], Tensor]) -> Tensor:
        length = (self.sigmas[step + 1] - self.sigmas[step]).item()
        return (latents.float() + length * prediction.float()).to(latents.dtype)


def build_sampler(settings: SamplerSettings, objective: ObjectiveSettings, frame_tokens: int = 0) -> Sampler:
    """The sampler a preview asks for. `frame_tokens` (latent H·W / 4) matters to a dynamic shift only.

    Raises UserError SAMPLER_INVALID where the method does not fit what the model was trained on.
    """
    is_flow = settings.method == "flow-euler"
    if is_flow != (objective.kind == "rectified-flow"):
        fitting = "flow-euler" if objective.kind == "rectified-flow" else "euler-ancestral or ddim"
        raise UserError(
            "SAMPLER_INVALID", f"sampler.method: expected {fitting} for {objective.kind}, got {settings.method}", f"use {fitting}"
        )
    if not 1 <= settings.steps <= TRAIN_STEPS:
        raise UserError("SAMPLER_INVALID", f"sampler.steps: expected 1 to {TRAIN_STEPS}, got {settings.steps}", "previews use 20 to 30")
    if settings.method == "flow-euler":
        return FlowEuler(settings.steps, objective, frame_tokens)
    # Here epsilon says nothing about the data at the level sampling starts from.
    if objective.zero_terminal_snr and objective.prediction == "epsilon" and settings.method == "ddim":
        message = "sampler.method: expected a prediction that DDIM can start from under zero-terminal-SNR, got epsilon"
        raise UserError("SAMPLER_INVALID", message, "use euler-ancestral")
    return EulerAncestral(settings.steps, objective) if settings.method == "euler-ancestral" else Ddim(settings.steps, objective)
