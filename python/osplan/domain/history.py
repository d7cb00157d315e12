"""What happened in a run after one of its checkpoints: a continued attempt must take it into account.

Events come as they stand in the trainer's journal, in its order: `command` and `incident`.
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
    """Splits off what a roll-back to the checkpoint, or to one before it, has undone.

    A checkpoint is written while the training goes on: its own line says nothing about which commands it knows, their steps do.
    Roll-backs to before it are older than it, for they leave no newer checkpoint.
    """
    start, rollback = 0, None
    for place, event in enumerate(events):
        back_to = event.get("rolledBackTo") if event.get("event") == "incident" else None
        if back_to is not None and back_to <= step:
            start, rollback = place + 1, event if back_to == step else None
    commands = [event for event in events[start:] if _is_change(event) and event["step"] > step]
    return AfterCheckpoint(rollback, commands)


def _is_change(event: Mapping[str, Any]) -> bool:
    return event.get("event", "command") == "command" and event["status"] == "applied" and event["name"] in ("set", "thaw")
