from dataclasses import replace

import pytest
import torch
from torch import nn

from osplan.diffusion.vae_loss import (
    VaeLossSettings,
    discriminator_loss,
    frozen,
    generator_loss,
    is_discriminator_step,
    reconstruction_nll,
    wavelet_distance,
)

SETTINGS = VaeLossSettings(
    pixel="l1",
    perceptual_weight=0.5,
    kl_weight=1e-3,
    wavelet_weight=0.1,
    adversarial="hinge",
    adversarial_weight=0.5,
    adversarial_factor=1.0,
    adversarial_start=5,
    logvar=0.3,
)


def perceptual(a_NCHW, b_NCHW):
    return (a_NCHW.tanh() - b_NCHW.tanh()).square().mean(dim=(1, 2, 3), keepdim=True)


class Toy(nn.Module):
    """A two-layer autoencoder and a discriminator, small enough to differentiate term by term."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 3, 1)
        self.discriminator = nn.Sequential(nn.Conv3d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv3d(4, 1, 1))

    def forward(self, video):
        return self.last(self.first(video).tanh())


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def video():
    return torch.randn(2, 3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def loss_of(toy, video, step, settings=SETTINGS, wavelets=()):
    recon = toy(video)
    kl = toy.first(video).square().flatten(1).sum(1)
    return generator_loss(
        video,
        recon,
        kl,
        step,
        settings,
        discriminator=toy.discriminator,
        last_layer=toy.last.weight,
        perceptual=perceptual,
        wavelets=wavelets,
    )


def written_out(toy, video, settings):
    """The textbook form: every term differentiated through its own pass."""
    recon = toy(video)
    elements = (video - recon).abs()
    distance = perceptual(video.transpose(1, 2).flatten(0, 1), recon.transpose(1, 2).flatten(0, 1)).view(2, 1, 3, 1, 1)
    nll = ((elements + settings.perceptual_weight * distance) / torch.tensor(settings.logvar).exp() + settings.logvar).sum() / 6
    adversarial = -toy.discriminator(recon).mean()
    lengths = [torch.autograd.grad(term, toy.last.weight, retain_graph=True)[0].norm() for term in (nll, adversarial)]
    weight = (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4) * settings.adversarial_weight
    kl = toy.first(video).square().sum() / 2
    return nll + settings.kl_weight * kl + weight * adversarial, weight


def test_one_backward_through_the_reconstruction_gives_the_gradients_of_the_written_out_loss(toy, video):
    loss = loss_of(toy, video, step=6)
    loss.total.backward()
    got = [parameter.grad.clone() for parameter in (*toy.first.parameters(), *toy.last.parameters())]
    toy.zero_grad()
    total, weight = written_out(toy, video, SETTINGS)
    total.backward()
    torch.testing.assert_close(loss.total, total)
    torch.testing.assert_close(loss.adaptive_weight, weight)
    for mine, theirs in zip(got, [each.grad for each in (*toy.first.parameters(), *toy.last.parameters())], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_discriminator_gets_no_gradients_from_a_generator_step_and_trains_afterwards(toy, video):
    loss_of(toy, video, step=6).total.backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in toy.discriminator.parameters())


def test_before_the_game_starts_the_discriminator_plays_no_part(toy, video):
    early = loss_of(toy, video, step=4)
    assert early.adversarial == 0 and early.adaptive_weight == 0 and early.adversarial_factor == 0
    torch.testing.assert_close(early.total, early.nll + SETTINGS.kl_weight * early.kl)


def test_a_factor_of_zero_ends_the_game(toy, video):
    loss = loss_of(toy, video, step=6, settings=replace(SETTINGS, adversarial_factor=0.0))
    torch.testing.assert_close(loss.total, loss.nll + SETTINGS.kl_weight * loss.kl)
    assert loss.adaptive_weight == 1


def test_the_perceptual_distance_counts_once_for_every_element_of_its_frame(video):
    settings = replace(SETTINGS, pixel="l2", logvar=0.0, perceptual_weight=2.0)
    ones = lambda a, b: torch.ones(a.shape[0], 1, 1, 1)  # noqa: E731
    got = reconstruction_nll(video, torch.zeros_like(video), settings, ones)
    torch.testing.assert_close(got, video.square().sum() / 6 + 2.0 * 3 * 36)


def test_the_wavelet_term_reaches_the_loss_with_its_weight(toy, video):
    pairs = [(torch.ones(2, 5), torch.zeros(2, 5)), (torch.zeros(2, 3), torch.full((2, 3), 2.0))]
    assert wavelet_distance(pairs, batch=2) == 11
    torch.testing.assert_close(
        loss_of(toy, video, 4, wavelets=pairs).total - loss_of(toy, video, 4).total, torch.tensor(1.1), rtol=1e-3, atol=1e-4
    )


def test_the_discriminator_loss_is_the_hinge_and_zero_before_the_start(toy, video):
    recon = toy(video)
    loss = discriminator_loss(video, recon, 5, SETTINGS, toy.discriminator)
    real, fake = toy.discriminator(video), toy.discriminator(recon)
    torch.testing.assert_close(loss.total, 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean()))
    loss.total.backward()
    assert toy.last.weight.grad is None
    assert discriminator_loss(video, recon, 4, SETTINGS, toy.discriminator).total == 0


def test_the_vanilla_game_is_the_logistic_loss(toy, video):
    loss = discriminator_loss(video, video, 5, replace(SETTINGS, adversarial="vanilla"), toy.discriminator)
    logits = toy.discriminator(video)
    torch.testing.assert_close(loss.total, 0.5 * ((1 + (-logits).exp()).log().mean() + (1 + logits.exp()).log().mean()))


def test_the_loss_can_be_taken_without_gradients(toy, video):
    with torch.no_grad():
        loss = loss_of(toy, video, step=6)
    assert not loss.total.requires_grad and loss.adaptive_weight == 0


def test_odd_steps_train_the_discriminator_once_the_game_has_started():
    assert [step for step in range(10) if is_discriminator_step(step, 5)] == [5, 7, 9]


def test_frozen_gives_gradients_back_even_after_an_error(toy):
    toy.last.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="stop"), frozen(toy.last):
        assert not toy.last.weight.requires_grad
        raise ValueError("stop")
    assert toy.last.weight.requires_grad and not toy.last.bias.requires_grad
