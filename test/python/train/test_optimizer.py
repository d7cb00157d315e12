import math

import pytest
import torch
from torch import nn

from osplan.domain.errors import UserError
from osplan.domain.stage import Clip, Optimizer
from osplan.train.optimizer import Clipper, build_optimizer, gradient_norm, optimizer_state, restore_optimizer, scale_gradients
from osplan.train.parameters import Group

SETTINGS = Optimizer(name="adamw", beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01)


def clipper(mode, norm=1.0, decay=0.9):
    return Clipper(Clip(mode=mode, norm=norm, ema_decay=decay))


def test_none_never_clips_and_norm_clips_to_the_norm():
    assert clipper("none").scale_for(1e9) == 1
    assert clipper("norm", 2).scale_for(8) == 0.25
    assert clipper("norm", 2).scale_for(0) == 1


@pytest.mark.parametrize("mode", ["adaptive", "zclip"])
def test_adaptive_modes_let_usual_norms_pass_and_cut_a_spike(mode):
    each = clipper(mode)
    usual = [each.scale_for(1 + 0.1 * (-1) ** step) for step in range(50)]
    assert usual == [1.0] * 50
    limit = 100 * each.scale_for(100)
    assert 0.9 < limit < 2


def test_a_spike_moves_the_statistics_no_further_than_its_clipped_norm():
    each = clipper("adaptive")
    for step in range(50):
        each.scale_for(1 + 0.1 * (-1) ** step)
    each.scale_for(1e6)
    assert each.mean < 1.5
    other = clipper("adaptive")
    other.restore(each.state())
    assert other.scale_for(50) == each.scale_for(50)


def test_the_norm_is_over_all_gradients_and_scaling_scales_all():
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm(parameters) == 5
    scale_gradients(parameters, 0.5)
    assert gradient_norm(parameters) == 2.5
    assert gradient_norm(parameters[2:]) == 0


def test_state_follows_parameters_by_name_into_other_groups():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = [name for name, _ in model.named_parameters()]
    first = build_optimizer(SETTINGS, model, [Group("all", 1.0, tuple(names[2:]))], 1e-2)
    model(torch.ones(1, 2)).sum().backward()
    first.step()
    second = build_optimizer(SETTINGS, model, [Group("a", 0.5, tuple(names[:3])), Group("b", 1.0, tuple(names[3:]))], 1e-2)
    assert restore_optimizer(second, optimizer_state(first)) == (2, 2)
    named = dict(model.named_parameters())
    for name in names[2:]:
        assert torch.equal(second.state[named[name]]["exp_avg"], first.state[named[name]]["exp_avg"])
        assert second.state[named[name]]["step"] == 1


@pytest.mark.parametrize("name", ["adamw-8bit", "prodigy", "came"])
def test_an_optimiser_that_is_not_installed_is_named(name):
    with pytest.raises(UserError, match="OPTIMIZER_MISSING"):
        build_optimizer(
            Optimizer(name=name, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0),
            nn.Linear(1, 1),
            [Group("all", 1.0, ("weight", "bias"))],
            1e-3,
        )


def test_an_infinite_norm_stays_visible():
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([math.inf])
    assert math.isinf(gradient_norm([parameter]))
