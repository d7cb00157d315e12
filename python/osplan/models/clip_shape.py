"""The clip shapes a video autoencoder takes."""

import torch

from osplan.domain.errors import UserError

RGB = 3


def check_clip_shape(shape: torch.Size, stride: tuple[int, int]) -> None:
    """Refuses clips that would lose frames or pixels on their way through an autoencoder of a (time, space) stride.

    Raises UserError VAE_CLIP_SHAPE.
    """
    time, space = stride
    is_whole = len(shape) == 5 and shape[1] == RGB and (shape[2] - 1) % time == 0 and shape[3] % space == 0 and shape[4] % space == 0
    if not is_whole or 0 in shape:
        expected = f"(B, {RGB}, 1 + {time}k, multiple of {space}, multiple of {space})"
        raise UserError("VAE_CLIP_SHAPE", f"clip: expected {expected}, got {tuple(shape)}", "crop the clip to the VAE's stride")
