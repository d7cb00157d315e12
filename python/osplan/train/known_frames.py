"""What an inpainting transformer is given beside the noisy latents: the latents of the known frames, and which they are.

Source: Open-Sora-Plan v1.3 (inpainting by frames; noise on known pixels as its later code adds it).
Shape letters: B batch, C channels (RGB), T frames, H and W height and width; Z latent channels, S time stride of the autoencoder,
L latent frames, h and w latent height and width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from osplan.data.inpaint_masks import compressed_mask, draw_frames, draw_kind, frame_mask, masked_pixels
from osplan.domain.stage import Stage
from osplan.train.pixels import normalised
from osplan.train.preview import known_places, preview_mask

IMAGE_RATIOS = {"t2iv": 0.0, "clear": 0.0}
"""Masks of a single frame: known or not, each as often."""
NOISE_MEAN, NOISE_DEVIATION, NOISE_SKIPPED = -3.0, 0.5, 0.05
"""Logarithm of the deviation of the noise on known pixels, and the share of clips that get none."""

Encode = Callable[[Tensor, Generator], Tensor]
"""A video in [-1, 1], (B, C, T, H, W), to scaled latents, (B, Z, L, h, w)."""


def drawn_condition(stage: Stage, pixels_BCTHW: Tensor, encode: Encode, generator: Generator, device: torch.device) -> Tensor:
    """Known latents and mask, (B, Z + S, L, h, w), for masks drawn by the stage's ratios. The pixels are uint8."""
    frames = pixels_BCTHW.shape[2]
    ratios = IMAGE_RATIOS if frames == 1 else stage.objective.mask_ratios
    shares = (stage.objective.min_clear, stage.objective.max_clear)
    masks = []
    for _ in range(len(pixels_BCTHW)):
        kind = draw_kind(ratios, generator)
        masks.append(frame_mask(kind, frames, draw_frames(kind, frames, shares, generator)))
    return _condition(stage, pixels_BCTHW, masks, encode, generator, device)


def preview_condition(stage: Stage, pixels_BCTHW: Tensor, encode: Encode, generator: Generator, device: torch.device) -> Tensor:
    """The same for the mask of the stage's previews."""
    frames, kind = pixels_BCTHW.shape[2], preview_mask(stage)
    masks = [frame_mask(kind, frames, known_places(kind, frames))] * len(pixels_BCTHW)
    return _condition(stage, pixels_BCTHW, masks, encode, generator, device, noisy=False)


def _condition(
    stage: Stage,
    pixels_BCTHW: Tensor,
    masks: Sequence[Tensor],
    encode: Encode,
    generator: Generator,
    device: torch.device,
    *,
    noisy: bool = True,
) -> Tensor:
    known = torch.stack(
        [masked_pixels(pixels_CTHW.transpose(0, 1), mask).transpose(0, 1) for pixels_CTHW, mask in zip(pixels_BCTHW, masks, strict=True)]
    )
    video = normalised(known, device)
    mask_BT = torch.stack(list(masks)).to(device)
    if noisy and stage.objective.condition_noise:
        video = _with_noise(video, mask_BT, generator)
    batch, _, frames, height, width = pixels_BCTHW.shape
    time, space = stage.vae.stride
    mask_B1THW = mask_BT[:, None, :, None, None].expand(batch, 1, frames, height, width)
    return torch.cat([encode(video, generator), compressed_mask(mask_B1THW, (time, space, space))], dim=1)


def _with_noise(video_BCTHW: Tensor, mask_BT: Tensor, generator: Generator) -> Tensor:
    deviation_B = torch.exp(NOISE_MEAN + NOISE_DEVIATION * torch.randn(len(video_BCTHW), generator=generator))
    skipped_B = torch.rand(len(video_BCTHW), generator=generator) < NOISE_SKIPPED
    strength_B = deviation_B.masked_fill(skipped_B, 0.0).to(video_BCTHW)
    noise = torch.randn(video_BCTHW.shape, generator=generator).to(video_BCTHW)
    known_BT = (mask_BT < 0.5).to(video_BCTHW)
    return video_BCTHW + noise * strength_B[:, None, None, None, None] * known_BT[:, None, :, None, None]
