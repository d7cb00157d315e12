"""Which clips of a data set cannot be decoded, by trying each once."""

from pathlib import Path
from typing import Any

import numpy as np

from osplan.data.annotations import read_entries
from osplan.data.decoders import Decoders
from osplan.data.decoding import ClipError
from osplan.data.selection import ChosenClips, Rules, judge
from osplan.data.views import request_for
from osplan.domain.stage import Stage


def decode_report(source: str, stage: Stage) -> dict[str, Any]:
    """Decodes one window of every kept clip in worker processes and names those that cannot be.

    Raises UserError as `check`.
    """
    index = read_entries(Path(source))
    judged = judge(index.columns, Rules.of(stage))
    clips = ChosenClips(index, judged, np.flatnonzero(judged.rule == 0))
    decoders = Decoders(max(1, stage.data.workers), stage.data.decode_timeout_seconds)
    damaged = []
    try:
        for clip in clips:
            frames = clip.bucket[0]
            wanted = request_for(clip, stage, max(0, clip.resampled - frames), frames)
            try:
                decoders.decode(wanted)
            except ClipError as cause:
                damaged.append({"path": clip.entry.path, "problem": str(cause)})
    finally:
        decoders.close()
    return {"formatVersion": 1, "read": len(clips), "damaged": damaged}
