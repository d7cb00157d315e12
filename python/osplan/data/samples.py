"""One clip or picture as training takes it: its draws, its caption, its pixels or its kept encoding.

Shape letters: C channels (RGB), T frames, H and W height and width; Z latent channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from osplan.data.decoding import Wanted
from osplan.data.latents import LatentCache
from osplan.data.quality_sentences import training_caption
from osplan.data.selection import Chosen
from osplan.data.views import View, caption_generator, cut_out, drawn_view, request_for, shown_size, view_of_variant
from osplan.domain.stage import Stage


@dataclass(frozen=True)
class Sample:
    """One clip ready to train on."""

    pixels_CTHW: Tensor
    """On the meta device, a shape without numbers, where the moments are known and pixels are of no use."""
    caption: str
    place: int
    """A number that is the same whenever the pixels are the same."""
    path: str
    latent_name: str | None = None
    """What its encoding is kept under; None where none is kept."""
    moments_CTHW: Tensor | None = None
    """Its encoding (2Z, T, H, W), where it was found."""
    images: Sequence["Sample"] = ()
    """Pictures trained jointly with it, one frame each, in its size."""


class SampleReader:
    """Draws and reads samples of a stage."""

    def __init__(self, stage: Stage, latents: LatentCache | None) -> None:
        self.stage, self.latents = stage, latents

    def read(
        self, chosen: Chosen, place: int, rng: np.random.Generator, decode: Callable[[Wanted, View], Tensor], *, is_joint: bool = False
    ) -> Sample:
        """A sample of a clip. `decode` gives the window a view shows; a joint picture takes the size of its bucket by cropping alone.

        Raises ClipError where the file cannot be read.
        """
        data = self.stage.data
        captions = chosen.entry.captions
        drawn = int(rng.integers(len(captions))) if captions else 0
        if data.cache == "off":
            variant, view = 0, drawn_view(chosen, self.stage, rng)
        else:
            variant = int(rng.integers(data.cache_variants))
            view = view_of_variant(chosen, self.stage, variant)
        # A kept caption is one of few: its sentence on quality is drawn once and for all.
        quality = caption_generator(chosen, data.seed, drawn) if data.cache == "latents-and-text" else rng
        caption = training_caption(chosen.entry, drawn, self.stage.text.aesthetic_phrases, quality)
        number = place * data.cache_variants + variant
        wanted = request_for(chosen, self.stage, view.start, chosen.bucket[0], view.crop_at)
        if is_joint:
            wanted = replace(wanted, largest_area=None)
        if self.latents is None:
            return Sample(cut_out(decode(wanted, view), view, data.crop_size), caption, number, chosen.entry.path)
        name = self.latents.name(wanted, view)
        moments = self.latents.find(name)
        if moments is None or self.latents.with_pixels:
            pixels = cut_out(decode(wanted, view), view, data.crop_size)
        else:
            pixels = torch.empty(3, *shown_size(chosen, data.crop_size), dtype=torch.uint8, device="meta")
        return Sample(pixels, caption, number, chosen.entry.path, name, moments)


def stacked(samples: Sequence[Sample]) -> Tensor:
    """Pixels of samples of one shape, (B, C, T, H, W); zeros for those without, on the meta device where none has any."""
    pixels = [sample.pixels_CTHW for sample in samples]
    if all(one.is_meta for one in pixels):
        return torch.stack(pixels)
    return torch.stack([torch.zeros(one.shape, dtype=torch.uint8) if one.is_meta else one for one in pixels]).contiguous()
