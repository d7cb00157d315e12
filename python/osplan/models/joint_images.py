"""A clip and pictures in one batch: the last frames are pictures of their own, each with a text of its own.

Shape letters: B batch, C channels, T frames (the clip's, then pictures), H and W height and width, L text tokens, I pictures a sample.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from osplan.domain.errors import UserError

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""Latents (B, C, T, H, W), times (B), text (B, 1, L, C), latent mask (B, T, H, W) and text mask (B, 1, L), to latents."""


def clip_and_pictures(
    clip: Denoise,
    picture: Denoise,
    hidden_BCTHW: Tensor,
    time_B: Tensor,
    text_BILC: Tensor,
    mask_BTHW: Tensor | None,
    text_mask_BIL: Tensor | None,
    images: int,
) -> Tensor:
    """Runs the clip and its pictures, pictures as a batch of clips of one frame, and joins the results along time.

    Raises UserError LATENT_SHAPE where no frame is left for the clip, TEXT_SHAPE where texts do not number 1 + images.
    """
    frames, texts = hidden_BCTHW.shape[2] - images, text_BILC.shape[1]
    if images < 0 or frames < 1:
        raise UserError("LATENT_SHAPE", f"latents: expected a clip before {images} images, got {frames + images} frames in all")
    if texts != 1 + images:
        raise UserError("TEXT_SHAPE", f"texts: expected {1 + images} a sample, one for the clip and one an image, got {texts}")
    if not images:
        return clip(hidden_BCTHW, time_B, text_BILC, mask_BTHW, text_mask_BIL)
    moving = clip(
        hidden_BCTHW[:, :, :frames],
        time_B,
        text_BILC[:, :1],
        None if mask_BTHW is None else mask_BTHW[:, :frames],
        None if text_mask_BIL is None else text_mask_BIL[:, :1],
    )
    still = picture(
        hidden_BCTHW[:, :, frames:].transpose(1, 2).flatten(0, 1).unsqueeze(2),
        time_B.repeat_interleave(images),
        text_BILC[:, 1:].flatten(0, 1).unsqueeze(1),
        None if mask_BTHW is None else mask_BTHW[:, frames:].flatten(0, 1).unsqueeze(1),
        None if text_mask_BIL is None else text_mask_BIL[:, 1:].flatten(0, 1).unsqueeze(1),
    )
    return torch.cat([moving, still.squeeze(2).unflatten(0, (-1, images)).transpose(1, 2)], dim=2)
