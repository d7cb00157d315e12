"""What happened in a run after one of its checkpoints: a continued attempt must take it into account.

Events come as they stand in the trainer's journal, in its order: `checkpoint`, `command` and `incident`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AfterCheckpoint:
    """What a run did after a checkpoint that is not in it."""

    rollback: Mapping[str, Any] | None
    """The newest incident that went back to this checkpoint: training goes on as it did after that."""
    commands: Sequence[Mapping[str, Any]]
    """Live changes since, to be made again at their steps."""


def after_checkpoint(events: Sequence[Mapping[str, Any]], step: int) -> AfterCheckpoint:
    """Splits off what came before the newest checkpoint of a step, and what a roll-back to it undid."""
    start, rollback = 0, None
    for place, event in enumerate(events):
        if event.get("event") == "checkpoint" and event.get("step") == step:
            start, rollback = place + 1, None
        elif event.get("event") == "incident" and event.get("rolledBackTo") == step:
            start, rollback = place + 1, event
    commands = [event for event in events[start:] if _is_change(event) and event["step"] > step]
    return AfterCheckpoint(rollback, commands)


def _is_change(event: Mapping[str, Any]) -> bool:
    return event.get("event", "command") == "command" and event["status"] == "applied" and event["name"] in ("set", "thaw")
