"""Means over the positions of a batch that hold data.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from torch import Tensor


def masked_mean(loss_BCTHW: Tensor, mask_BTHW: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean of an elementwise loss over kept positions: of the whole batch (a scalar), and of each sample.

    The scalar weighs every kept position alike, so a sample with more of them counts more.
    """
    if mask_BTHW is None:
        per_sample_B = loss_BCTHW.flatten(1).mean(1)
        return per_sample_B.mean(), per_sample_B
    mask_B1THW = mask_BTHW.unsqueeze(1).to(loss_BCTHW.dtype)
    sum_B = (loss_BCTHW * mask_B1THW).flatten(1).sum(1)
    kept_B = mask_B1THW.flatten(1).sum(1) * loss_BCTHW.shape[1]
    return sum_B.sum() / kept_B.sum().clamp(min=1), sum_B / kept_B.clamp(min=1)
