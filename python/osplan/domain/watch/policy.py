"""What a stage's policy makes of an alert."""

from typing import Literal

from osplan.domain.stage import Incidents
from osplan.domain.watch.reading import Alert

Policy = Literal["note", "clip", "skip", "rollback", "stop"]


def policy_for(alert: Alert, settings: Incidents) -> Policy:
    """What is done. Only what is wrong with a step, and a divergence, are acted on; the rest is said."""
    match alert.rule:
        case "non-finite":
            return settings.policy
        case "loss-spike" | "gradient-spike":
            return settings.on_spike
        case "divergence" if settings.on_spike in ("rollback", "stop"):
            return settings.on_spike
        case _:
            return "note"
