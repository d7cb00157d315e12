import pytest
import torch
from torch import nn

from osplan.domain.stage import Ema as EmaSettings
from osplan.train.ema import Ema


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def ema_of(model, **changes):
    return Ema(
        dict(model.named_parameters()), EmaSettings(**{"enabled": True, "decay": 0.9, "start_step": 0, "rule": "upstream", **changes})
    )


def test_the_decay_warms_up_to_its_limit_and_counts_from_the_start_step(model):
    ema = ema_of(model, start_step=3)
    assert [ema.decay_at(step) for step in (1, 4, 5)] == [0.0, 0.0, pytest.approx(2 / 11)]
    assert ema.decay_at(10_000) == 0.9
    assert ema_of(model, rule="warmup", start_step=3).decay_at(1) == pytest.approx(2 / 11)


def test_an_update_is_the_weighted_mean(model):
    ema = ema_of(model)
    before = ema.shadow["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(3)
    decay = ema.decay_at(3)
    torch.testing.assert_close(ema.shadow["weight"], decay * before + (1 - decay) * model.weight)


def test_swapped_gives_the_averages_and_then_the_weights_bit_for_bit_even_after_an_error(model):
    ema = ema_of(model)
    ema.shadow["weight"].zero_()
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="inside"), ema.swapped():
        assert torch.count_nonzero(model.weight) == 0
        raise ValueError("inside")
    assert torch.equal(model.weight, before)


def test_averages_are_restored_by_name(model):
    ema, other = ema_of(model), ema_of(model)
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(5)
    other.load_state_dict({"shadow": ema.shadow_state(model.state_dict()), **ema.counters()})
    assert torch.equal(other.shadow["weight"], ema.shadow["weight"]) and other.updates == 1
