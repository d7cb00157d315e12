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
    """What was asked since, to be done again at the same steps."""


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
    commands = [event for event in events[start:] if is_repeated(event) and event["step"] > step]
    return AfterCheckpoint(rollback, commands)


def is_repeated(event: Mapping[str, Any]) -> bool:
    """Whether an event is a command that an attempt must follow again where it does its steps again.

    A measurement counts: phases and the end may wait for what it finds. A stop does only where it is for a later step.
    """
    if event.get("event", "command") != "command" or event["status"] != "applied":
        return False
    return event["name"] in ("set", "thaw", "measure") or (event["name"] == "stop" and stop_after(event) is not None)


def stop_after(command: Mapping[str, Any]) -> int | None:
    """The step a stop is for; None for one at once."""
    after = command.get("after")
    if after is None and isinstance(command.get("effective"), Mapping):
        after = command["effective"].get("after")
    return None if after is None else int(after)
