"""What the watch reads and what it says: one step, one measurement, one alert."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["alert", "advice"]

SHOWN = 40
"""Points of evidence an alert carries at most."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One optimiser step, as the journal's `step` event says it."""

    step: int
    loss: float
    """Mean over the global batch."""
    learning_rate: float
    gradient_norm: float | None
    """Before clipping; None where the step did not train the model."""
    seconds: float
    by_bin: Sequence[float | None] | None = None
    """Mean loss per time bin; None where a bin had no clip, or the task has no times."""
    memory: int | None = None
    """Bytes."""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def level(self) -> float:
        """What is watched as the loss: of an autoencoder its reconstruction, for its whole loss jumps where the adversarial part begins."""
        part = self.extra.get("reconstruction", self.loss)
        return part if part > 0 and math.isfinite(self.loss) else self.loss


@dataclass(frozen=True, slots=True)
class Measurement:
    """Held-out losses at a step, as the journal's `heldOut` event says them."""

    step: int
    raw: float
    ema: float | None

    @property
    def handed_on(self) -> float:
        """Loss of the weights that would be handed on."""
        return self.raw if self.ema is None else self.ema


@dataclass(frozen=True, slots=True)
class Evidence:
    """The steps an alert rests on: their values, and what was expected of them."""

    quantity: str
    """Name and unit of the values."""
    values: tuple[tuple[int, float], ...]
    """(step, value), oldest first."""
    expected: float | None = None
    """In the same unit."""

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        shown = self.values[-SHOWN:]
        return {
            "quantity": self.quantity,
            "from": self.values[0][0] if self.values else None,
            "to": self.values[-1][0] if self.values else None,
            "values": [list(point) for point in shown],
            "expected": self.expected,
        }


@dataclass(frozen=True, slots=True)
class Alert:
    """What one rule says at one step."""

    rule: str
    severity: Severity
    step: int
    message: str
    """What was found, with numbers."""
    advice: str
    source: str
    evidence: Evidence

    @property
    def since(self) -> int:
        """First step of the evidence: weights from before it know nothing of this."""
        return self.evidence.values[0][0] if self.evidence.values else self.step

    def as_json(self) -> dict[str, Any]:
        """For the journal and for `monitor --json`."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "step": self.step,
            "message": self.message,
            "advice": self.advice,
            "source": self.source,
            "evidence": self.evidence.as_json(),
        }


class Rule:
    """One rule of the watch: an online fold over readings whose state fits into a checkpoint.

    A rule says something once and then waits until what it saw has passed.
    """

    name: str
    threshold: str
    """The setting under `incidents.watch` that sets it and, as null, switches it off."""
    watches: str
    """One line: what it finds."""
    reason: str
    """Why that matters."""
    source: str

    STATE: tuple[str, ...] = ()
    """Attributes that are its state: numbers, strings, lists and mappings of such."""

    def state(self) -> dict[str, Any]:
        """Everything it has learnt, as JSON."""
        return {name: getattr(self, name) for name in self.STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back; what the state does not know stays as it is."""
        for name in self.STATE:
            if name in state:
                setattr(self, name, state[name])

    def alert(self, step: int, message: str, advice: str, evidence: Evidence, severity: Severity = "alert") -> Alert:
        """An alert in this rule's name."""
        return Alert(self.name, severity, step, message, advice, self.source, evidence)
