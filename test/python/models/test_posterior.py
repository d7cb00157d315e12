import torch
from torch.distributions import Normal, kl_divergence

from osplan.models.posterior import Posterior


def posterior():
    return Posterior(torch.randn(2, 8, 3, 4, 5, generator=torch.Generator().manual_seed(0)))


def test_the_divergence_is_that_of_the_textbook_summed_over_each_clip():
    p = posterior()
    textbook = kl_divergence(Normal(p.mean, p.std), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(p.kl(), textbook)
    assert p.kl_by_column().shape == (2, 5)
    torch.testing.assert_close(p.kl_by_column().sum(1), p.kl())


def test_the_log_variance_is_clamped():
    p = Posterior(torch.cat((torch.zeros(1, 2, 1, 1, 1), torch.tensor([100.0, -100.0]).view(1, 2, 1, 1, 1)), dim=1))
    assert p.logvar.flatten().tolist() == [20.0, -30.0]


def test_a_sample_is_drawn_with_the_generator_it_is_given():
    p = posterior()
    noise = torch.randn(p.mean.shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(p.sample(torch.Generator().manual_seed(5)), p.at(noise))
    assert torch.equal(p.at(torch.zeros_like(noise)), p.mode())
