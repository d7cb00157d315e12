import pytest
from hypothesis import given
from hypothesis import strategies as st
from osplan.domain.schedule import Schedule

NAMES = ["constant", "constant-with-warmup", "linear", "cosine", "cosine-with-restarts", "polynomial", "wsd"]


def schedule(name: str, **changes: float) -> Schedule:
    settings = {"warmup_steps": 0, "horizon_steps": 100, "cycles": 1, "power": 1, "decay_share": 0.1, "floor_ratio": 0, **changes}
    return Schedule(name=name, **settings)  # type: ignore[arg-type]


@given(st.sampled_from(NAMES), st.integers(0, 50), st.integers(1, 200), st.integers(1, 300), st.floats(0, 1))
def test_a_factor_never_leaves_zero_to_one(name: str, warmup: int, horizon: int, step: int, floor: float):
    assert 0 <= schedule(name, warmup_steps=warmup, horizon_steps=horizon, floor_ratio=floor).factor(step) <= 1


def test_warming_up_rises_to_the_full_rate():
    course = schedule("constant-with-warmup", warmup_steps=4)
    assert [course.factor(step) for step in range(1, 7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_cosine_is_halfway_down_in_the_middle():
    assert schedule("cosine").factor(51) == pytest.approx(0.5)


def test_wsd_decays_in_its_last_share_only():
    course = schedule("wsd", decay_share=0.2)
    assert course.factor(81) == pytest.approx(1)
    assert course.factor(91) == pytest.approx(0.5)


def test_the_floor_is_a_share_of_the_highest_rate():
    assert schedule("linear", floor_ratio=0.25).factor(101) == pytest.approx(0.25)
