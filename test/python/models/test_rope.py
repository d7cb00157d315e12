import pytest
import torch

from osplan.models.rope import RotaryTables, rotary_table, rotated
from osplan.models.skiparse import Skip

CPU = torch.device("cpu")


def turned_by_the_formula(x, position, parts, scales):
    """One head of one token, channel by channel."""
    out, first = x.clone(), 0
    for part, place, scale in zip(parts, position, scales, strict=True):
        for j in range(part // 2):
            angle = torch.tensor(place / scale * 10_000.0 ** (-2 * j / part), dtype=torch.float64)
            a, b = x[first + j], x[first + j + part // 2]
            out[first + j] = a * angle.cos() - b * angle.sin()
            out[first + j + part // 2] = b * angle.cos() + a * angle.sin()
        first += part
    return out


@pytest.mark.parametrize("parts", [(8, 8, 8), (8, 12, 12)])
def test_every_channel_turns_by_the_angle_of_its_axis(parts):
    grid, scales = (2, 3, 4), (1.0, 2.0, 0.5)
    x = torch.randn(1, 24, 2, sum(parts), dtype=torch.float64)
    got = rotated(x.float(), rotary_table(grid, parts, scales, CPU))
    for token, position in enumerate((t, h, w) for t in range(2) for h in range(3) for w in range(4)):
        expected = turned_by_the_formula(x[0, token, 1], position, parts, scales)
        torch.testing.assert_close(got[0, token, 1].double(), expected, rtol=0, atol=2e-6)


def test_turning_keeps_lengths_and_the_origin_stands_still():
    x = torch.randn(2, 12, 3, 24)
    out = rotated(x, rotary_table((3, 2, 2), (8, 8, 8), (1, 1, 1), CPU))
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(out[:, 0], x[:, 0])


def test_a_start_moves_the_whole_grid():
    moved = rotary_table((1, 1, 2), (8, 8, 8), (1, 1, 1), CPU, start=(0, 0, 3))
    whole = rotary_table((1, 1, 5), (8, 8, 8), (1, 1, 1), CPU)
    assert torch.equal(moved.cosine, whole.cosine[3:])


def test_angles_in_model_precision_are_rounded_and_angles_in_fp32_are_not():
    exact = rotary_table((80, 1, 1), (32, 32, 32), (1, 1, 1), CPU)
    rounded = rotary_table((80, 1, 1), (32, 32, 32), (1, 1, 1), CPU, rounded_to=torch.bfloat16)
    angles = torch.arange(80.0)[:, None] * 10_000.0 ** (-torch.arange(0, 32, 2) / 32)
    torch.testing.assert_close(exact.cosine[:, 0, :16], angles.cos(), rtol=0, atol=2e-5)
    torch.testing.assert_close(rounded.cosine[:, 0, :16], angles.bfloat16().float().cos(), rtol=0, atol=2e-5)
    assert (exact.cosine - rounded.cosine).abs().max() > 0.05


def test_a_table_is_made_once_per_shape_and_the_store_of_tables_stays_small():
    tables = RotaryTables((8, 8, 8), (1, 1, 1))
    first = tables.of((1, 2, 2), Skip(), CPU)
    assert tables.of((1, 2, 2), Skip(), CPU) is first
    for size in range(1, 40):
        tables.of((size, 1, 1), Skip(), CPU)
    assert len(tables._kept) < 20
    assert tables.of((1, 2, 2), Skip(), CPU) is not first


def test_axes_of_equal_length_keep_their_own_scale():
    table = rotary_table((1, 3, 3), (8, 8, 8), (1.0, 1.0, 2.0), CPU)
    row, column = table.cosine[3, 0], table.cosine[1, 0]
    assert not torch.equal(row[8:16], column[16:24])
