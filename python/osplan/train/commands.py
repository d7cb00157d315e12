"""Commands at a step boundary: the same on all ranks, acknowledged with the first step that sees them, repeated on continue."""

from collections.abc import Mapping, Sequence
from typing import Any

from osplan.domain.errors import UserError
from osplan.train.attempt import Attempt
from osplan.train.trained import Trained


class Commands:
    """What was asked of one attempt and is not done yet."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained
        self.requested: set[str] = set()
        """Names of commands to carry out at this boundary."""
        self.changed: list[str] = []
        """Paths of the settings changed at this boundary."""
        self.stop_at: int | None = None
        self._replay: list[dict[str, Any]] = []

    def apply(self) -> None:
        """Takes the commands of a boundary and applies them, on every rank."""
        self.changed = []
        for command in self.attempt.world.from_first(self._due()):
            self._apply(command)

    def _due(self) -> list[dict[str, Any]]:
        first = self.trained.step + 1
        due = [{**command, "replayed": True} for command in self._replay if command["step"] <= first]
        self._replay = [command for command in self._replay if command["step"] > first]
        return due + (self.attempt.port.take() if self.attempt.world.is_first else [])

    def _apply(self, command: dict[str, Any]) -> None:
        name = command["name"]
        if name != "set":
            if name == "stop" and command.get("after") is not None:
                self.stop_at = int(command["after"])
            else:
                self.requested.add(name)
            self._acknowledge(command, "applied", {"step": self.trained.step})
            return
        live = self.attempt.live
        before = dict(live.changes)
        try:
            value = command["effective"] if command.get("replayed") else command["value"]
            effective = live.change(command["path"], value)
            self.trained.settings_changed()
            self.changed.append(command["path"])
        except UserError as refused:
            live.reset(before)
            self.trained.settings_changed()
            self._acknowledge(command, "refused", None, f"{refused.message}. {refused.hint}")
            return
        self._acknowledge(command, "applied", effective)

    def _acknowledge(self, command: dict[str, Any], status: str, effective: Any, message: str | None = None) -> None:
        if self.attempt.world.is_first and not command.get("replayed") and not command.get("silent"):
            self.attempt.port.acknowledge(command, self.trained.step + 1, status, effective, message)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"stopAt": self.stop_at}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint. A stop that was obeyed is over; continuing means going on."""
        stop_at = state["stopAt"]
        self.stop_at = stop_at if stop_at is not None and stop_at > self.trained.step else None

    def repeat(self, past: Sequence[dict[str, Any]]) -> None:
        """Changes made after the checkpoint an attempt goes on from, or by the run it repeats, are made again at the same steps."""
        self._replay = [
            command
            for command in past
            if command["status"] == "applied" and command["name"] in ("set", "thaw") and command["step"] > self.trained.step
        ]
