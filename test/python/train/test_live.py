import pytest

from osplan.domain.errors import UserError
from osplan.train.live import LiveStage


@pytest.fixture
def live(stage_json):
    return LiveStage(stage_json())


def test_a_factor_multiplies_and_a_value_replaces(live):
    assert live.change("learningRate", "*0.5") == pytest.approx(5e-4)
    assert live.change("learningRate", 2e-4) == 2e-4
    assert live.stage.learning_rate == 2e-4 and live.changes == {"learningRate": 2e-4}


@pytest.mark.parametrize("path", ["batch.perDevice", "optimizer.name", "shape.frames", "nosuch", "trainable"])
def test_what_cannot_change_while_training_is_refused(live, path):
    with pytest.raises(UserError, match="NOT_LIVE"):
        live.change(path, 1)


@pytest.mark.parametrize("value", ["fast", None, "*x", "*inf", "*nan"])
def test_a_wrong_value_is_refused_and_changes_nothing(live, value):
    with pytest.raises(UserError):
        live.change("learningRate", value)
    assert live.stage.learning_rate == 1e-3 and live.changes == {}


@pytest.mark.parametrize(("path", "value"), [("learningRate", -1), ("steps", 0), ("clip.norm", float("inf")), ("ema.decay", 1.5)])
def test_a_number_out_of_its_range_is_refused(live, path, value):
    with pytest.raises(UserError, match="STAGE_INVALID"):
        live.change(path, value)


def test_a_whole_number_times_a_factor_stays_one(live):
    assert live.change("steps", "*1.33") == 27


def test_a_reset_leaves_the_resolved_stage_with_the_given_changes(live):
    live.change("steps", 50)
    live.reset({"clip.norm": 2.0})
    assert (live.stage.steps, live.stage.clip.norm) == (20, 2.0)
