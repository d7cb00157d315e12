from dataclasses import replace

import pytest
import torch

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.sampling import Sampler

CPU = torch.device("cpu")
SHAPE = (1, 2, 2, 4, 4)
X0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def sampler(**changes) -> Sampler:
    plain = Sampler(
        kind="ddim",
        steps=10,
        guidance_scale=1.0,
        guidance_rescale=0.0,
        prediction="v-prediction",
        schedule=NoiseSchedule("linear", zero_terminal_snr=True),
        zero_terminal_snr=True,
    )
    return replace(plain, **changes)


def knowing(x0: torch.Tensor, schedule: NoiseSchedule, prediction: str):
    """A model that knows the data and answers as if it had found the noise."""

    def predict(x, time):
        share = schedule.signal_share(time[:1].long()).clamp(min=2.0**-24)
        root, sigma = share.sqrt(), (1 - share).sqrt()
        noise = (x - root * x0) / sigma
        return {"v-prediction": root * noise - sigma * x0, "epsilon": noise, "sample": x0.expand_as(x)}[prediction]

    return predict


@pytest.mark.parametrize("kind", ["ddim", "euler-ancestral"])
@pytest.mark.parametrize("prediction", ["v-prediction", "sample", "epsilon"])
def test_a_model_that_knows_the_data_is_sampled_to_it(kind, prediction):
    schedule = NoiseSchedule("linear", zero_terminal_snr=prediction != "epsilon")
    made = sampler(kind=kind, prediction=prediction, schedule=schedule, zero_terminal_snr=prediction != "epsilon")
    found = made(knowing(X0, schedule, prediction), SHAPE, torch.Generator().manual_seed(0), CPU)
    assert torch.allclose(found, X0, atol=2e-3)


@pytest.mark.parametrize("grid", ["continuous", "levels"])
@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_a_flow_that_knows_the_data_arrives_there_on_any_grid(grid, shift):
    made = sampler(kind="flow-euler", prediction="velocity", schedule=None, flow_grid=grid, flow_shift=shift, zero_terminal_snr=False)

    def predict(x, time):
        return (x - X0) / (time[0] / 1000)

    assert torch.allclose(made(predict, SHAPE, torch.Generator().manual_seed(0), CPU), X0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 30, 61, 103, 1000])
@pytest.mark.parametrize("zero_snr", [True, False])
def test_a_sampler_visits_as_many_falling_levels_as_it_has_steps(steps, zero_snr):
    times = sampler(steps=steps, zero_terminal_snr=zero_snr, schedule=NoiseSchedule("linear", zero_terminal_snr=zero_snr)).times
    assert len(times) == steps
    assert times == sorted(set(times), reverse=True)
    assert (times[0] == 999) if zero_snr else (times[-1] == 0)


def test_guidance_moves_from_the_plain_prediction_past_the_prompted_one():
    made = sampler(kind="flow-euler", prediction="velocity", schedule=None, steps=1, guidance_scale=3.0)

    def predict(x, time):
        plain, prompted = x.chunk(2)
        return torch.cat([torch.zeros_like(plain), torch.ones_like(prompted)])

    noise = torch.randn(SHAPE)
    (moved,) = made.path(predict, noise, iter(()))
    assert torch.allclose(moved, noise - 3)


def test_rescaled_guidance_has_the_spread_of_the_prompted_prediction():
    made = sampler(kind="flow-euler", prediction="velocity", schedule=None, steps=1, guidance_scale=5.0, guidance_rescale=1.0)
    prediction = torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(2))
    (moved,) = made.path(lambda x, time: prediction, torch.zeros(SHAPE), iter(()))
    assert moved.std().item() == pytest.approx(prediction[1:].std().item(), rel=1e-5)


def test_ancestral_steps_take_the_noise_that_is_handed_in():
    schedule = NoiseSchedule("linear", zero_terminal_snr=True)
    made = sampler(kind="euler-ancestral", steps=3)
    noises = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(3))

    def last(fresh):
        *_, before, _end = made.path(knowing(X0, schedule, "v-prediction"), torch.ones(SHAPE), iter(fresh))
        return before

    assert torch.equal(last(noises), last(noises.clone()))
    assert not torch.allclose(last(noises), last(-noises))
