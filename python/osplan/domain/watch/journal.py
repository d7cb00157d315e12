"""The watch over a journal: what the rules say, or would have said, of a run.

Rank 0's events come in their order. A continued or rolled-back run does steps again: the watch then goes back to what it knew at the
checkpoint, as the trainer does.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.reading import Alert, Measurement, Reading
from osplan.domain.watch.watch import Watch

UNSETTLING: tuple[str, ...] = ("learningRate", "learningRateRatios", "clip.", "optimizer.", "objective.")
"""Settings whose live change moves losses or gradients by itself."""
FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class JournalWatch:
    """One run's journal, event by event."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.watch = Watch()
        self.known: dict[int, str] = {}
        """The watch's state when checkpoints were written, by step, as JSON text; some steps after them where that took long."""
        self.hushed: set[int] = set()
        """Steps before which something was changed that moves losses by itself."""
        self.heard_at: float | None = None
        self.steps = 0

    def event(self, event: Mapping[str, Any]) -> list[Alert]:
        """One event more. What is not understood is passed over: a newer trainer may say more."""
        try:
            found = self._taken(event)
        except (KeyError, TypeError, ValueError):
            return []
        if event.get("event") != "heartbeat" and isinstance(event.get("ts"), int | float):
            self.heard_at = float(event["ts"])
        return found

    def _taken(self, event: Mapping[str, Any]) -> list[Alert]:
        match event["event"]:
            case "step":
                return self._step(event)
            case "heldOut":
                ema = event["ema"]
                measured = Measurement(event["step"], number(event["raw"]["loss"]), number(ema["loss"]) if ema else None)
                return self.watch.measured(measured, self.thresholds)
            case "checkpoint":
                self.known[event["step"]] = json.dumps(self.watch.state())
            case "checkpointDeleted":
                self.known.pop(event["step"], None)
            case "started":
                self._back_to(event["step"])
            case "phase":
                self.watch.new_phase()
            case "command" if event["name"] == "set" and event["status"] == "applied" and str(event.get("path")).startswith(UNSETTLING):
                self.hushed.add(event["step"])
            case "incident":
                return self._incident(event)
            case "heartbeat" if self.heard_at is not None:
                return self.watch.heartbeat(event["step"], event["ts"] - self.heard_at, self.thresholds)
            case _:
                pass
        return []

    def _step(self, event: Mapping[str, Any]) -> list[Alert]:
        reading = reading_of(event)
        if not math.isfinite(reading.loss) or not math.isfinite(reading.gradient_norm or 0.0):
            return []
        self.steps += 1
        if reading.step in self.hushed:
            self.watch.hush(reading.step - 1, self.thresholds)
        spike = self.watch.judge(reading, self.thresholds)
        said = [] if spike is None else self.watch.spiked(spike, self.thresholds)
        return [*said, *self.watch.step(reading, self.thresholds)]

    def _incident(self, event: Mapping[str, Any]) -> list[Alert]:
        """What was refused left no step behind: it is said again as the trainer said it."""
        found = []
        if event["kind"] == self.watch.non_finite.name:
            found = [self.watch.non_finite.found(event["step"], str(event["message"]), math.nan)]
        if event.get("rolledBackTo") is not None:
            self._back_to(event["rolledBackTo"])
        return found

    def _back_to(self, step: int) -> None:
        """Steps after this one are done again."""
        if step > 0 and step not in self.known:
            return
        self.watch = Watch()
        if step > 0:
            self.watch.restore(json.loads(self.known[step]))
            self.watch.gone_back(step, self.thresholds)
        self.known = {at: state for at, state in self.known.items() if at <= step}


def reading_of(event: Mapping[str, Any]) -> Reading:
    """A `step` event as the rules read it."""
    extra = {name: number(value) for name, value in (event.get("extra") or {}).items()}
    norm = None if event.get("gradientNorm") is None or "discriminator" in extra else number(event["gradientNorm"])
    bins = event.get("lossByBin")
    return Reading(
        step=int(event["step"]),
        loss=number(event["loss"]),
        learning_rate=number(event["learningRate"]),
        gradient_norm=norm,
        seconds=number(event["secondsPerStep"]),
        by_bin=None if bins is None else [None if value is None else number(value) for value in bins],
        memory=event.get("memoryBytes"),
        extra=extra,
    )


def number(value: Any) -> float:
    """A number of the journal, tagged where JSON cannot hold it."""
    return FLOATS[value["$f"]] if isinstance(value, Mapping) else float(value)


def events_of(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a journal; a torn last line and lines that are no event are passed over. A run not started has none."""
    if not path.exists():
        return
    with open(path, "rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event
