"""Losses of a video autoencoder: reconstruction, perceptual, divergence, wavelet and adversarial.

Sums run over all elements: reconstruction per frame, divergence and wavelets per clip.
Shape letters: B batch, C channels, T frames, H and W height and width.
Sources: Esser et al. 2021, "Taming Transformers", section 3.1 (arXiv:2012.09841) for the adaptive weight;
Li et al. 2024, "WF-VAE", section 3.4 (arXiv:2411.17459) for the wavelet loss.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

LARGEST_ADAPTIVE_WEIGHT = 1e4
ADAPTIVE_EPS = 1e-4

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of each pair of images (N, 3, H, W) in [-1, 1], as (N, 1, 1, 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeLossSettings:
    """Weights of the terms."""

    pixel: Literal["l1", "l2"]
    perceptual_weight: float
    """Per element: the perceptual distance of a frame counts C H W times, as upstream's does."""
    kl_weight: float
    wavelet_weight: float
    adversarial: Literal["hinge", "vanilla"]
    adversarial_weight: float
    """Share of the adversarial gradient in the reconstruction's, at the last layer."""
    adversarial_factor: float
    """Multiplies both sides of the game; 0 plays none."""
    adversarial_start: int
    """The first step with the game."""
    logvar: float
    """Log-variance of the reconstruction's likelihood; 0 leaves the reconstruction as it is."""


@dataclass(frozen=True)
class GeneratorLoss:
    """Loss of one autoencoder step and its parts, detached scalars but for `total`."""

    total: Tensor
    """Call `backward` on it."""
    nll: Tensor
    kl: Tensor
    wavelet: Tensor
    adversarial: Tensor
    adaptive_weight: Tensor
    adversarial_factor: float


@dataclass(frozen=True)
class DiscriminatorLoss:
    """Loss of one discriminator step; the mean logits show who is winning."""

    total: Tensor
    logits_real: Tensor
    logits_fake: Tensor


def is_discriminator_step(step: int, adversarial_start: int) -> bool:
    """Whether a step trains the discriminator: the odd ones from the start of the game on."""
    return step % 2 == 1 and step >= adversarial_start


def reconstruction_nll(video_BCTHW: Tensor, recon_BCTHW: Tensor, settings: VaeLossSettings, perceptual: Perceptual | None = None) -> Tensor:
    """Negative log-likelihood of the clip given its reconstruction: summed over elements, mean over frames."""
    difference = video_BCTHW - recon_BCTHW
    frames = video_BCTHW.shape[0] * video_BCTHW.shape[2]
    summed = (difference.abs() if settings.pixel == "l1" else difference.square()).sum()
    if settings.perceptual_weight > 0:
        assert perceptual is not None, "a perceptual weight needs the metric"
        distance = perceptual(_frames(video_BCTHW), _frames(recon_BCTHW)).sum()
        summed = summed + settings.perceptual_weight * distance * (difference[0, :, 0].numel())
    return (summed / math.exp(settings.logvar) + settings.logvar * difference.numel()) / frames


def wavelet_distance(pairs: Sequence[tuple[Tensor, Tensor]], batch: int) -> Tensor:
    """Sum of absolute differences between encoder and decoder coefficients of each level, mean over clips."""
    return torch.stack([(encoder - decoder).abs().sum() for encoder, decoder in pairs]).sum() / batch


def generator_loss(
    video_BCTHW: Tensor,
    recon_BCTHW: Tensor,
    kl_B: Tensor,
    step: int,
    settings: VaeLossSettings,
    *,
    discriminator: nn.Module,
    last_layer: Tensor,
    perceptual: Perceptual | None = None,
    wavelets: Sequence[tuple[Tensor, Tensor]] = (),
) -> GeneratorLoss:
    """Loss of the autoencoder at a step.

    The perceptual network and the discriminator are each gone through backwards once, down to the reconstruction;
    from there the last layer's two gradients give the adaptive weight, and one weighted gradient goes on.
    The discriminator gets no gradients. `last_layer` must be whole on this rank.
    """
    kl = kl_B.sum() / kl_B.shape[0]
    wavelet = wavelet_distance(wavelets, video_BCTHW.shape[0]) if wavelets else recon_BCTHW.new_zeros(())
    plays = step >= settings.adversarial_start
    factor = settings.adversarial_factor if plays else 0.0

    recon = recon_BCTHW.detach().requires_grad_(torch.is_grad_enabled() and recon_BCTHW.requires_grad)
    nll = reconstruction_nll(video_BCTHW, recon, settings, perceptual)
    adversarial, weight = recon_BCTHW.new_zeros(()), recon_BCTHW.new_zeros(())
    gradient = _gradient(nll, recon)
    if plays:
        with frozen(discriminator):
            adversarial = -discriminator(recon).mean()
        adversarial_gradient = _gradient(adversarial, recon)
        weight = _adaptive_weight(recon_BCTHW, last_layer, gradient, adversarial_gradient, settings)
        if gradient is not None and adversarial_gradient is not None:
            gradient = gradient + weight * factor * adversarial_gradient
    value = nll.detach() + weight * factor * adversarial.detach()
    through_recon = value if gradient is None else _WithGradient.apply(recon_BCTHW, value, gradient)
    total = through_recon + settings.kl_weight * kl + settings.wavelet_weight * wavelet
    return GeneratorLoss(total, nll.detach(), kl.detach(), wavelet.detach(), adversarial.detach(), weight, factor)


def discriminator_loss(
    video_BCTHW: Tensor, recon_BCTHW: Tensor, step: int, settings: VaeLossSettings, discriminator: nn.Module
) -> DiscriminatorLoss:
    """Loss of the discriminator at a step; clip and reconstruction get no gradients."""
    real = discriminator(video_BCTHW.detach())
    fake = discriminator(recon_BCTHW.detach())
    if settings.adversarial == "hinge":
        game = 0.5 * (relu(1.0 - real).mean() + relu(1.0 + fake).mean())
    else:
        game = 0.5 * (softplus(-real).mean() + softplus(fake).mean())
    factor = settings.adversarial_factor if step >= settings.adversarial_start else 0.0
    return DiscriminatorLoss(factor * game, real.detach().mean(), fake.detach().mean())


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, the module's parameters want no gradients."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _adaptive_weight(
    recon: Tensor, last_layer: Tensor, nll_gradient: Tensor | None, adversarial_gradient: Tensor | None, settings: VaeLossSettings
) -> Tensor:
    """Ratio of the two gradients' lengths at the last layer, times the settings' weight."""
    if settings.adversarial_factor <= 0:
        return recon.new_ones(())
    if nll_gradient is None or adversarial_gradient is None:
        return recon.new_zeros(())
    lengths = [
        torch.autograd.grad(recon, last_layer, grad_outputs=gradient, retain_graph=True)[0].norm()
        for gradient in (nll_gradient, adversarial_gradient)
    ]
    ratio = lengths[0] / (lengths[1] + ADAPTIVE_EPS)
    return ratio.clamp(0.0, LARGEST_ADAPTIVE_WEIGHT) * settings.adversarial_weight


def _gradient(value: Tensor, at: Tensor) -> Tensor | None:
    return torch.autograd.grad(value, at)[0] if at.requires_grad else None


def _frames(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


class _WithGradient(torch.autograd.Function):
    """A value whose gradient with respect to a tensor is already known."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None
