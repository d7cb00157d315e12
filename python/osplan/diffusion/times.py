"""Which times a batch is trained at.

A draw u in [0, 1) is uniform, or stratified: rank r of n draws from its own n-th slice, so that a step over all
ranks covers the times evenly. The slices belong to data-parallel ranks; ranks that share one clip share its time.
Source of the densities: Esser et al. 2024, section 3.1 (arXiv:2403.03206).
"""

import math

import torch
from torch import Generator, Tensor

from osplan.diffusion.settings import TRAIN_STEPS, ObjectiveSettings


def draw_uniform(count: int, generator: Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform draws in [0, 1) on the generator's device."""
    return torch.rand(count, generator=generator, device=generator.device, dtype=dtype)


def stratified_levels(uniform_B: Tensor, levels: int, world: int, rank: int) -> Tensor:
    """Integer levels of a rank's slice: round(U(levels r/n - 1/2, levels (r+1)/n - 1/2)), half to even."""
    width = levels / world
    low = width * rank - 0.5
    return (low + width * uniform_B.double()).round().long().clamp(0, levels - 1)


def draw_levels(batch: int, generator: Generator, rank: int, world: int, settings: ObjectiveSettings) -> Tensor:
    """DDPM levels of a batch, int64 in [0, 1000)."""
    if not settings.stratified_times:
        return torch.randint(TRAIN_STEPS, (batch,), generator=generator, device=generator.device)
    if settings.times == "upstream":
        draw_uniform(batch, generator)
    return stratified_levels(draw_uniform(batch, generator), TRAIN_STEPS, world, rank)


def draw_flow_draws(batch: int, generator: Generator, rank: int, world: int, settings: ObjectiveSettings) -> Tensor:
    """Draws u in [0, 1] of a batch from the density the weighting asks for, float32."""
    uniform_B = draw_uniform(batch, generator)
    if settings.stratified_times:
        if settings.times == "upstream":
            uniform_B = draw_uniform(batch, generator)
        uniform_B = (uniform_B + rank) / world
    if settings.weighting == "logit-normal":
        # The quantile function turns a stratified uniform draw into a stratified normal one; the bound keeps it finite.
        normal_B = torch.special.ndtri(uniform_B.clamp(1e-12, 1 - 1e-12))
        return logit_normal(normal_B, settings.logit_mean, settings.logit_std).float()
    if settings.weighting == "mode":
        return mode(uniform_B, settings.mode_scale).float()
    return uniform_B.float()


def logit_normal(normal_B: Tensor, mean: float, std: float) -> Tensor:
    """u from standard normal draws: sigmoid(mean + std z)."""
    return torch.sigmoid(mean + std * normal_B)


def mode(uniform_B: Tensor, scale: float) -> Tensor:
    """u from uniform draws, denser towards the middle for scale above 0: 1 - u - s (cos²(πu/2) - 1 + u)."""
    return 1 - uniform_B - scale * (torch.cos(math.pi * uniform_B / 2).square() - 1 + uniform_B)
