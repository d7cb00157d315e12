import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osplan.data.inpaint_masks import MASK_KINDS, compressed_mask, draw_frames, draw_kind, frame_mask, known_bounds, masked_pixels
from osplan.domain.errors import UserError


@pytest.mark.parametrize(
    ("kind", "chosen", "known"),
    [
        ("t2iv", (), []),
        ("i2v", (), [0]),
        ("transition", (), [0, 4]),
        ("clear", (), [0, 1, 2, 3, 4]),
        ("continuation", range(2), [0, 1]),
        ("random_temporal", [3, 1], [1, 3]),
    ],
)
def test_each_kind_leaves_its_own_frames_known(kind, chosen, known):
    mask = frame_mask(kind, 5, chosen)
    assert (mask == 0).nonzero().flatten().tolist() == known


def test_frames_to_be_generated_are_black_and_known_ones_unchanged():
    pixels = torch.randint(1, 256, (3, 3, 2, 2), dtype=torch.uint8)
    left = masked_pixels(pixels, torch.tensor([0.0, 1.0, 0.0]))
    assert left.dtype == torch.uint8
    assert left[1].count_nonzero() == 0
    assert torch.equal(left[[0, 2]], pixels[[0, 2]])


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 40),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple),
    seed=st.integers(0, 9),
    kind=st.sampled_from(MASK_KINDS),
)
def test_drawn_frames_are_distinct_and_as_many_as_the_shares_allow(frames, shares, seed, kind):
    chosen = draw_frames(kind, frames, shares, torch.Generator().manual_seed(seed))
    if kind not in ("continuation", "random_temporal"):
        assert chosen == []
        return
    low, high = known_bounds(frames, *shares)
    assert low <= len(set(chosen)) == len(chosen) <= high
    assert all(0 <= frame < frames for frame in chosen)
    assert kind == "random_temporal" or chosen == list(range(len(chosen)))


def test_kinds_are_drawn_by_their_ratio():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_kind({"i2v": 3, "transition": 1, "clear": 0}, generator) for _ in range(400)]
    assert set(drawn) == {"i2v", "transition"}
    assert 250 < drawn.count("i2v") < 350


def test_ratios_that_are_all_zero_draw_every_named_kind_alike():
    generator = torch.Generator().manual_seed(0)
    assert {draw_kind({"t2iv": 0, "clear": 0}, generator) for _ in range(40)} == {"t2iv", "clear"}


@pytest.mark.parametrize("ratios", [{}, {"i2v": -1.0}, {"i2v": float("nan")}, {"inside-out": 1.0}])
def test_ratios_that_say_nothing_are_refused(ratios):
    with pytest.raises(UserError) as caught:
        draw_kind(ratios, torch.Generator())
    assert caught.value.code == "MASK_RATIOS_INVALID"


@settings(max_examples=30, deadline=None)
@given(every=st.sampled_from([2, 4, 8]), latents=st.integers(1, 4), chosen=st.sets(st.integers(0, 24)))
def test_a_latent_frame_holds_the_masks_of_the_frames_it_is_made_of(every, latents, chosen):
    frames = 1 + every * (latents - 1)
    mask_T = frame_mask("random_temporal", frames, [frame for frame in chosen if frame < frames])
    small = compressed_mask(mask_T[None, None, :, None, None].expand(1, 1, -1, 16, 24), (every, 8, 8))
    assert small.shape == (1, every, latents, 2, 3)
    groups = torch.cat([mask_T[:1].repeat(every), mask_T[1:]]).view(latents, every)
    assert torch.allclose(small[0, :, :, 0, 0].T, groups)


def test_frames_that_make_no_whole_latents_are_refused_with_the_nearest_number_that_does():
    with pytest.raises(UserError) as caught:
        compressed_mask(torch.ones(1, 1, 7, 16, 16), (4, 8, 8))
    assert caught.value.code == "MASK_SHAPE"
    assert caught.value.hint == "use 5 frames"
