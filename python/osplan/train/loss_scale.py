"""The scale of the loss in fp16, where small gradients would vanish: as large as no gradient overflows.

Rule and numbers are those of PyTorch's GradScaler. The decision is taken from the norm of the whole gradient, which all ranks know, so
that it needs no exchange of its own and holds for gradients that are spread over ranks.
"""

from collections.abc import Mapping
from typing import Any

from osplan.domain.stage import Stage

START, GROWTH, BACKOFF, GROWS_AFTER = 2.0**16, 2.0, 0.5, 2000
LEAST = 2.0**-10
"""A gradient that is infinite at this scale is so at any."""


class LossScale:
    """Factor on the loss before its backward pass; 1 unless the stage trains in fp16."""

    def __init__(self, stage: Stage) -> None:
        self.is_used = stage.memory.precision == "fp16"
        self.value = START if self.is_used else 1.0
        self.overflows = self._good = 0

    def has_overflowed(self, *, is_finite: bool) -> bool:
        """Whether a gradient is infinite because of the scale, which is then smaller for the next."""
        if is_finite or not self.is_used or self.value <= LEAST:
            return False
        self.value *= BACKOFF
        self.overflows, self._good = self.overflows + 1, 0
        return True

    def stepped(self) -> None:
        """Counts a step that was taken; after enough of them the scale grows."""
        self._good += 1
        if self.is_used and self._good >= GROWS_AFTER:
            self.value, self._good = self.value * GROWTH, 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"scale": self.value, "good": self._good, "overflows": self.overflows}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint; one of another precision changes nothing."""
        if state is not None and self.is_used:
            self.value, self._good, self.overflows = state["scale"], state["good"], state["overflows"]
