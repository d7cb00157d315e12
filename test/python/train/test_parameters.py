import pytest

from osplan.domain.errors import UserError
from osplan.train.parameters import block_depths, groups_of, phases_of, select

PARTS = ("attn1.to_q.weight", "attn1.to_q.bias", "attn2.to_k.weight", "ff.net.2.weight")
NAMES = [
    "pos_embed.proj.weight",
    *[
        f"transformer_blocks.{depth}.{part}"
        for depth in range(4)
        for part in ("attn1.to_q.weight", "attn1.to_q.bias", "attn2.to_k.weight", "ff.net.2.weight")
    ],
    "proj_out.weight",
]


def test_blocks_are_named_by_depth():
    assert select(NAMES, ["blocks[1:3]"]) == [name for name in NAMES if ".1." in name or "blocks.2." in name]
    assert select(NAMES, ["blocks[-1]"]) == [name for name in NAMES if "blocks.3." in name]


def test_a_minus_takes_away_what_it_names():
    assert select(NAMES, ["all", "-blocks[0:4]"]) == ["pos_embed.proj.weight", "proj_out.weight"]


def test_later_selectors_win():
    assert "proj_out.weight" in select(NAMES, ["all", "-all", "head"])


def test_parts_and_globs_name_parameters():
    assert all("attn1" in name for name in select(NAMES, ["attention.self"]))
    assert select(NAMES, ["*.bias"]) == [name for name in NAMES if name.endswith(".bias")]


def test_a_selector_that_names_nothing_is_refused_with_the_parts():
    with pytest.raises(UserError) as caught:
        select(NAMES, ["blokcs[0:2]"])
    assert caught.value.code == "TRAINABLE_UNKNOWN"
    assert "blocks[a:b]" in caught.value.hint


def test_nothing_left_to_train_is_refused():
    with pytest.raises(UserError, match="TRAINABLE_EMPTY"):
        select(NAMES, ["all", "-all"])


def test_blocks_of_a_u_shaped_model_count_through_its_stages():
    names = ["transformer_blocks.0.0.ff.w", "transformer_blocks.0.1.ff.w", "transformer_blocks.1.0.ff.w"]
    assert list(block_depths(names).values()) == [0, 1, 2]


def test_layer_decay_falls_towards_the_input():
    groups = groups_of(NAMES, NAMES, 0.5, {})
    ratio = {name: group.ratio for group in groups for name in group.names}
    assert ratio["proj_out.weight"] == 1
    assert ratio["transformer_blocks.3.ff.net.2.weight"] == 1
    assert ratio["transformer_blocks.0.ff.net.2.weight"] == 0.125
    assert ratio["pos_embed.proj.weight"] == 0.0625


def test_every_trainable_parameter_is_in_exactly_one_group():
    groups = groups_of(NAMES, NAMES[3:9], 0.9, {"attention.self": 0.1})
    assert sorted(name for group in groups for name in group.names) == sorted(NAMES[3:9])


def test_phases_start_after_the_steps_they_name():
    phases = phases_of(["head"], [("50%", ["all"], 0), (150, ["all"], 10)], 200)
    assert [phase.start for phase in phases] == [1, 101, 151]


def test_phases_out_of_order_are_refused():
    with pytest.raises(UserError, match="PHASES_ORDER"):
        phases_of(["head"], [(100, ["all"], 0), (50, ["all"], 0)], 200)
