"""Which clips of a selection are trained on, and which are pictures that go along with them. Asked before anything trains: no torch."""

import numpy as np

from osplan.data.selection import ChosenClips
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage


def has_joint_images(stage: Stage) -> bool:
    """Whether pictures of the data go along with clips, rather than being clips of one frame."""
    return stage.data.images_per_clip > 0 and not stage.data.images_from_clips


def parted(clips: ChosenClips, stage: Stage) -> tuple[ChosenClips, ChosenClips]:
    """The clips of a stage and the pictures that go along with them."""
    if not has_joint_images(stage):
        return clips, clips.take(np.empty(0, np.int64))
    is_image = np.asarray(clips.entries.columns["is_image"])[clips.rows]
    return clips.take(np.flatnonzero(~is_image)), clips.take(np.flatnonzero(is_image))


def checked_parts(clips: ChosenClips, stage: Stage) -> tuple[ChosenClips, ChosenClips]:
    """The same.

    Raises UserError DATA_EMPTY where a stage wants pictures and there are none, or there is nothing else.
    """
    videos, images = parted(clips, stage)
    for kind, some in (("images beside the clips", images), ("clips beside the images", videos)):
        if has_joint_images(stage) and not len(some):
            raise UserError(
                "DATA_EMPTY",
                f"data.imagesPerClip {stage.data.images_per_clip}: expected {kind}, got none",
                "add some to data.source, or set data.imagesFromClips to true, or data.imagesPerClip to 0",
            )
    return videos, images
