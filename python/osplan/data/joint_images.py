"""Pictures trained jointly with clips: which go along with a clip, in its size.

Source: the joint training of Open-Sora-Plan v1.0 to v1.2. There the pictures follow the list; here an epoch goes through all of them
in an order of its own.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from osplan.data.decoding import ClipError, Wanted
from osplan.data.samples import Sample, SampleReader
from osplan.data.selection import Chosen, ChosenClips
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

STREAM = 2
"""Sets these draws apart from those of clips."""


class JointImages:
    """The pictures beside the clips of a stage."""

    def __init__(self, images: ChosenClips, stage: Stage, samples: SampleReader, decode: Callable[[Wanted], Tensor], first: int) -> None:
        """Pictures are numbered from `first` on, behind the clips."""
        self.images, self.stage, self.samples, self.decode, self.first = images, stage, samples, decode, first
        self._drawn = (-1, np.empty(0, np.int64))

    def beside(self, clip: Sample, bucket: tuple[int, int, int], epoch: int, slot: int) -> tuple[list[Sample], list[tuple[str, ClipError]]]:
        """The pictures of one slot of an epoch, and the damaged ones others stand in for.

        Raises UserError CLIPS_DAMAGED where none can be read.
        """
        count = self.stage.data.images_per_clip
        if self.stage.data.images_from_clips:
            return frames_of(clip, count), []
        found: list[Sample] = []
        damaged: list[tuple[str, ClipError]] = []
        at = slot * count
        while len(found) < count:
            if len(damaged) >= len(self.images):
                raise UserError(
                    "CLIPS_DAMAGED",
                    f"expected one readable image, got {len(damaged)} damaged ones; first: {damaged[0][1]}",
                    "`stagewright data check --decode` names them all",
                )
            place = int(self._of_epoch(epoch)[at % len(self.images)])
            rng = np.random.default_rng([self.stage.data.seed & 0xFFFFFFFF, epoch, at, 0, STREAM])
            at += 1
            try:
                found.append(self._read(place, bucket, rng))
            except ClipError as cause:
                damaged.append((self.images[place].entry.path, cause))
        return found, damaged

    def _read(self, place: int, bucket: tuple[int, int, int], rng: np.random.Generator) -> Sample:
        chosen: Chosen = replace(self.images[place], bucket=(1, *bucket[1:]))
        return self.samples.read(chosen, self.first + place, rng, lambda wanted, _: self.decode(wanted), is_joint=True)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        of_epoch, order = self._drawn
        if epoch != of_epoch:
            order = np.random.default_rng([self.stage.data.seed & 0xFFFFFFFF, epoch, 1, STREAM]).permutation(len(self.images))
            self._drawn = (epoch, order)
        return order


def frames_of(clip: Sample, count: int) -> list[Sample]:
    """Frames of a clip as pictures, evenly spread from its first to its last, with its caption."""
    frames = clip.pixels_CTHW.shape[1]
    return [
        Sample(clip.pixels_CTHW[:, frame : frame + 1], clip.caption, clip.place, clip.path)
        for frame in np.linspace(0, frames - 1, count).astype(int).tolist()
    ]
