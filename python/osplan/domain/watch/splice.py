"""After going back to a checkpoint: whether losses go on where they were."""

import math
from typing import Any

from osplan.domain.watch.reading import Alert, Evidence, Reading, Rule
from osplan.domain.watch.spikes import LossSpike

LOOKED_AT = 10
"""Steps after the checkpoint that are compared."""
LIMIT = 2.0
"""Mean deviations: more than six standard errors of ten steps."""
RATIO = 1.5
"""Times the loss from before: less than that is within what a stage learns and forgets."""


class Splice(Rule):
    """The first losses after a checkpoint against those before it."""

    name, threshold = "continue-break", "lossSpike"
    watches = "losses of the first ten steps after a checkpoint that are not those from before it"
    reason = "state that was not restored, of an optimiser or of the place in the data, shows as a break in the loss and nowhere else"
    source = "kohya-ss/musubi-tuner#927, hpcaitech/Open-Sora#863: losses that surge when training goes on"

    def __init__(self) -> None:
        self.after: int | None = None
        """The checkpoint's step while its first steps are looked at."""
        self.before: list[float] = []
        """Mean and deviation of the normalised loss when it was gone back."""
        self.points: list[list[float]] = []
        """(step, loss, logarithm of how far it is above that mean)."""

    def begin(self, step: int) -> None:
        """A checkpoint was gone back to."""
        self.after, self.before, self.points = step, [], []

    def step(self, reading: Reading, usual: LossSpike) -> Alert | None:
        """One step more, before `usual` has learnt it."""
        if self.after is None or usual.usual.seen < LOOKED_AT or not math.isfinite(reading.loss):
            return None
        if not self.before:
            self.before = [usual.usual.mean, usual.usual.deviation]
        above = usual.normalised(reading, reading.level)
        if above is not None:
            self.points.append([reading.step, reading.level, above - self.before[0]])
        return self._told() if len(self.points) == LOOKED_AT else None

    def _told(self) -> Alert | None:
        after, (_, deviation), points = self.after, self.before, self.points
        self.after, self.before, self.points = None, [], []
        mean = sum(above for _, _, above in points) / len(points)
        factor = math.exp(min(700.0, mean))
        if mean / deviation < LIMIT or factor < RATIO:
            return None
        values = tuple((int(step), loss) for step, loss, _ in points)
        return self.alert(
            values[0][0],
            f"after step {after} the loss is {factor:.3g} times what it was before, over {len(points)} steps",
            "look whether clips, weights or the environment were changed meanwhile; `stagewright replay` tells whether numbers come back",
            Evidence("loss", values, values[0][1] / math.exp(min(700.0, points[0][2]))),
        )

    def state(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"after": self.after, "before": list(self.before), "points": [list(point) for point in self.points]}

    def restore(self, state: Any) -> None:
        """Takes it back."""
        self.after, self.before = state["after"], list(state["before"])
        self.points = [list(point) for point in state["points"]]
