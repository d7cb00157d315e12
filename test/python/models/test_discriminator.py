from pathlib import Path

import torch

from osplan.models.discriminator import PatchDiscriminator3D

KEYS = Path(__file__).parents[3] / "test" / "fixtures" / "keys" / "disc3d.txt"


def test_the_default_build_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        state = PatchDiscriminator3D().state_dict()
    rows = (line.split("\t") for line in KEYS.read_text().splitlines())
    published = {name: tuple(int(size) for size in shape.strip("()").split(",") if size.strip()) for name, shape, *_ in rows}
    assert {name: tuple(value.shape) for name, value in state.items()} == published


def test_time_is_halved_twice_and_space_once_per_layer():
    logits = PatchDiscriminator3D(3, 4, 3)(torch.randn(2, 3, 9, 32, 48))
    assert logits.shape == (2, 1, 3, 4, 6)


def test_weights_start_small_and_norms_near_one():
    torch.manual_seed(0)
    state = PatchDiscriminator3D(3, 16, 2).state_dict()
    assert 0.018 < state["main.2.weight"].std() < 0.022
    assert state["main.3.weight"].min() > 0.9 and not state["main.3.bias"].any()
