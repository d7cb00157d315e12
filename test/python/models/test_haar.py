import pytest
import torch

from osplan.models.haar import haar_2d, haar_3d, haar_filters_2d, haar_filters_3d, inverse_haar_2d, inverse_haar_3d
from osplan.models.past import Past, in_chunks


def by_convolution(x_BCTHW, filters):
    """The definition: each filter as its own strided convolution of every channel, bands stacked before channels."""
    alone = x_BCTHW.flatten(0, 1).unsqueeze(1)
    bands = [torch.nn.functional.conv3d(alone, each[None, None], stride=tuple(each.shape)) for each in filters]
    return torch.cat([band.view(*x_BCTHW.shape[:2], *band.shape[2:]) for band in bands], dim=1)


def test_the_3d_transform_is_its_eight_filters_over_a_clip_whose_first_frame_counts_twice():
    x = torch.randn(2, 3, 7, 6, 10, generator=torch.Generator().manual_seed(1))
    doubled = torch.cat((x[:, :, :1], x), dim=2)
    torch.testing.assert_close(haar_3d(x), by_convolution(doubled, haar_filters_3d()))


def test_the_2d_transform_is_its_four_filters_over_every_frame():
    x = torch.randn(2, 3, 4, 6, 10, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(haar_2d(x), by_convolution(x, haar_filters_2d()[:, None]))


def test_2d_bands_are_ordered_height_before_width_and_3d_bands_width_before_height():
    rows = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert torch.equal(haar_filters_2d()[1], rows / 2)
    assert torch.equal(haar_filters_3d("exact")[2][0].sign(), rows)


def test_the_exact_constant_is_undone_exactly_and_upstreams_stretches_the_clip_a_little():
    x = torch.randn(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(inverse_haar_3d(haar_3d(x, "exact"), "exact"), x)
    torch.testing.assert_close(inverse_haar_3d(haar_3d(x)), x * (8 * 0.3536**2))
    torch.testing.assert_close(inverse_haar_2d(haar_2d(x)), x)


@pytest.mark.parametrize("sizes", [[1, 4, 4], [5, 2, 2], [3, 6]])
def test_a_clip_in_chunks_has_the_coefficients_of_the_whole_clip(sizes):
    x = torch.randn(1, 3, 9, 4, 4, generator=torch.Generator().manual_seed(4))
    past = Past()
    parts = [haar_3d(chunk, past=past) for chunk in in_chunks(x, sizes, past)]
    torch.testing.assert_close(torch.cat(parts, dim=2), haar_3d(x))


def test_the_matrix_stays_right_after_a_first_use_in_inference_mode():
    with torch.inference_mode():
        haar_3d(torch.zeros(1, 1, 1, 2, 2, dtype=torch.float64))
    x = torch.randn(1, 1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    haar_3d(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
