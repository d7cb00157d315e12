"""Settings that may change while a run trains: checked like the stage itself, applied at a step boundary."""

import json
import math
from collections.abc import Mapping
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.stage import LIVE_PATHS, Stage, decode_stage

SHARES = frozenset({"ema.decay", "incidents.learningRateCut"})
ABOVE_ZERO = frozenset(
    {
        "learningRate", "steps", "clip.norm", "checkpoint.everySteps", "checkpoint.everyMinutes", "checkpoint.keepLast",
        "checkpoint.keepEverySteps", "heldOut.everySteps", "heldOut.patience", "samples.everySteps", "samples.steps", "logEvery",
        "objective.discriminatorLearningRate",
        *(f"incidents.watch.{name}" for name in ("warmupSteps", "lossSpike", "gradientSpike", "spikeRatio", "blockSteps", "divergence")),
        *(f"incidents.watch.{name}" for name in ("plateau", "deadGradient", "discriminatorSteps", "slowSteps", "memoryGrowth")),
        "incidents.watch.stuckSeconds",
    }
)  # fmt: skip


class LiveStage:
    """The stage as it is now: as resolved, with the live changes made so far."""

    def __init__(self, stage_json: Mapping[str, Any]) -> None:
        self._resolved = stage_json
        self.reset({})

    def reset(self, changes: Mapping[str, Any]) -> None:
        """The stage as resolved, with these changes and no other."""
        self._json: dict[str, Any] = json.loads(json.dumps(self._resolved))
        self.changes: dict[str, Any] = {}
        self.stage: Stage = decode_stage(self._json)
        for path, value in changes.items():
            self.change(path, value)

    def resolved(self, path: str) -> Any:
        """The value of a field as the stage was resolved, without live changes."""
        value: Any = self._resolved
        for name in path.split("."):
            value = value[name]
        return value

    def change(self, path: str, value: Any) -> Any:
        """Changes one field and returns its effective value; `*0.5` multiplies a number.

        Raises UserError NOT_LIVE for a field that cannot change while training, STAGE_INVALID for a wrong value.
        """
        if path not in LIVE_PATHS:
            raise UserError(
                "NOT_LIVE",
                f"{path}: expected a field that can change while training, got one that cannot",
                "stop the run and use `stagewright branch --set`",
            )
        updated = json.loads(json.dumps(self._json))
        *parents, leaf = path.split(".")
        at = updated
        for name in parents:
            at = at[name]
        if isinstance(value, str) and value.startswith("*") and isinstance(at[leaf], int | float):
            value = _multiplied(path, at[leaf], value[1:])
        _check_range(path, value)
        at[leaf] = value
        self.stage = decode_stage(updated)
        self._json = updated
        self.changes[path] = value
        return value


def _check_range(path: str, value: Any) -> None:
    """Raises UserError STAGE_INVALID for a number no step could be made with."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    least = "above 0" if path in ABOVE_ZERO else "from 0 to 1" if path in SHARES else "at least 0"
    fits = math.isfinite(value) and (value > 0 if path in ABOVE_ZERO else value >= 0) and (path not in SHARES or value <= 1)
    if not fits:
        raise UserError("STAGE_INVALID", f"{path}: expected a number {least}, got {value}", "write a number in its range")


def _multiplied(path: str, number: float, factor: str) -> float:
    """A number times a factor; a whole number stays one."""
    try:
        product = number * float(factor)
    except ValueError as cause:
        raise UserError("STAGE_INVALID", f"{path}: expected a factor such as `*0.5`, got `*{factor}`", "write a number behind *") from cause
    if not math.isfinite(product):
        raise UserError("STAGE_INVALID", f"{path}: expected a finite number, got {product}", "write a finite factor behind *")
    return round(product) if isinstance(number, int) and not isinstance(number, bool) else product
