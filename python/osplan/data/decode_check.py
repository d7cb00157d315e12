"""Which clips of a data set cannot be decoded, by trying each once."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from osplan.data.annotations import read_entries
from osplan.data.decoders import Decoders
from osplan.data.decoding import ClipError
from osplan.data.selection import Chosen, ChosenClips, Rules, judge
from osplan.data.views import request_for
from osplan.domain.stage import Stage

AHEAD = 8
SAY_SECONDS = 0.5


def decode_report(source: str, stage: Stage, say: Callable[..., None] = lambda event, **fields: None) -> dict[str, Any]:
    """Decodes the last window of every kept clip in the stage's worker processes and names those that cannot be.

    A clip that hangs costs `data.decodeTimeoutSeconds`. Raises UserError as `check`.
    """
    index = read_entries(Path(source))
    judged = judge(index.columns, Rules.of(stage))
    clips = ChosenClips(index, judged, np.flatnonzero(judged.rule == 0))
    workers = max(1, stage.data.workers)
    decoders = Decoders(workers, stage.data.decode_timeout_seconds)

    def problem_of(clip: Chosen) -> str | None:
        frames = clip.bucket[0]
        try:
            decoders.decode(request_for(clip, stage, max(0, clip.resampled - frames), frames))
        except ClipError as cause:
            return str(cause)
        return None

    damaged: list[dict[str, str]] = []
    waiting: deque[tuple[str, Future[str | None]]] = deque()
    said, read = 0.0, 0

    def take() -> None:
        nonlocal said, read
        path, future = waiting.popleft()
        problem = future.result()
        read += 1
        if problem is not None:
            damaged.append({"path": path, "problem": problem})
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            say("decoding", clips=len(clips), read=read, damaged=len(damaged))

    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="clips") as pool:
            for clip in clips:
                waiting.append((clip.entry.path, pool.submit(problem_of, clip)))
                if len(waiting) > workers + AHEAD:
                    take()
            while waiting:
                take()
    finally:
        decoders.close()
    return {"formatVersion": 1, "read": len(clips), "damaged": damaged}
