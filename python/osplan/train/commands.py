"""Commands at a step boundary: the same on all ranks, acknowledged with the first step that sees them, repeated on continue."""

from collections.abc import Mapping, Sequence
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.history import stop_after
from osplan.train.attempt import Attempt
from osplan.train.trained import Trained

Command = dict[str, Any]


class Commands:
    """What was asked of one attempt and is not done yet."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained
        self.requested: set[str] = set()
        """Names of commands to carry out at this boundary."""
        self.changed: list[str] = []
        """Paths of the settings changed at this boundary."""
        self.stop_at: int | None = None
        self.rollbacks = 0
        """Of the run so far. Of a run that is replayed each command says after how many it was given: it waits for them."""
        self._to_come: list[Command] = []
        """Commands to follow again, at their steps."""
        self._thawed: list[Command] = []
        """Phases begun by hand, with their first steps."""
        self._known: list[str] = []
        """Commands of the last boundary: a checkpoint written there knows their effect, though they are for the step after it."""
        self._asked: set[str] = set()

    def ask(self, name: str) -> None:
        """On rank 0: what the trainer asks of all ranks itself, at the next boundary."""
        self._asked.add(name)

    def apply(self, *, again: bool = False) -> None:
        """Takes the commands of a boundary and applies them, on every rank; `again` at one that lasts."""
        self.changed = []
        due = self.attempt.world.from_first(self._due())
        self._known = (self._known if again else []) + [str(command["id"]) for command in due if "id" in command]
        for command in due:
            self._apply(command)

    def _due(self) -> list[Command]:
        first = self.trained.step + 1
        due = [command for command in self._to_come if command["step"] <= first and command.get("rollbacks") in (None, self.rollbacks)]
        self._to_come = [command for command in self._to_come if command not in due]
        asked, self._asked = self._asked, set()
        new = self.attempt.port.take() if self.attempt.world.is_first else []
        return [{**command, "replayed": True} for command in due] + [{"name": name, "silent": True} for name in sorted(asked)] + new

    def _apply(self, command: Command) -> None:
        name, after = command["name"], stop_after(command)
        if name == "set":
            self._set(command)
        elif (reason := self._impossible(name, after)) is not None:
            self._acknowledge(command, "refused", None, reason)
        elif name == "stop" and after is not None:
            self.stop_at = after
            self._acknowledge(command, "applied", {"after": after})
        else:
            self.requested.add(name)
            if name == "thaw":
                self._thawed.append({**command, "step": self.trained.step + 1})
            self._acknowledge(command, "applied", {"step": self.trained.step})

    def _impossible(self, name: str, after: int | None) -> str | None:
        """Why a command would do nothing, or not what it says."""
        stage, trained = self.attempt.stage, self.trained
        if name == "stop" and after is not None and not trained.step <= after < stage.steps:
            return f"expected a step from {trained.step} to {stage.steps - 1}, got {after}. Without a step it stops at once"
        if name == "thaw" and trained.phase + 1 >= len(trained.phases):
            return f"expected a phase that is still to come, got the last of {len(trained.phases)}. Give the stage `phases`, in a branch"
        if name == "measure" and stage.data.held_out_clips == 0:
            return "expected held-out clips to measure, got none. Set data.heldOutClips, in a branch"
        return None

    def _set(self, command: Command) -> None:
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

    def _acknowledge(self, command: Command, status: str, effective: Any, message: str | None = None) -> None:
        if self.attempt.world.is_first and not command.get("replayed") and not command.get("silent"):
            self.attempt.port.acknowledge(command, self.trained.step + 1, status, effective, message)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "stopAt": self.stop_at,
            "knownCommands": self._known,
            "toCome": self._to_come,
            "thawed": self._thawed,
            "rollbacks": self.rollbacks,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint. A stop that was obeyed is over; continuing means going on."""
        stop_at = state["stopAt"]
        self.stop_at = stop_at if stop_at is not None and stop_at > self.trained.step else None
        self._known, self._to_come = list(state.get("knownCommands", [])), list(state.get("toCome", []))
        self._thawed, self.rollbacks = list(state.get("thawed", [])), state.get("rollbacks", 0)

    def repeat(self, past: Sequence[Command]) -> None:
        """What was asked after the checkpoint an attempt goes on from, or of the run it repeats, is done again at the same steps."""
        known = {*self._known, *(command.get("id") for command in self._to_come)}
        for command in past:
            later = command.get("rollbacks", self.rollbacks) > self.rollbacks
            if command.get("id") not in known and (later or command["step"] > self.trained.step):
                self._to_come.append(command)

    def after_rollback(self, step: int) -> list[Command]:
        """What is still to be done after going back to a step: a phase that was begun by hand begins again where it did."""
        return [*self._to_come, *(command for command in self._thawed if command["step"] > step)]

    def went_back(self, to_come: Sequence[Command], rollbacks: int) -> None:
        """The run has gone back, so many times in all."""
        self.rollbacks = rollbacks
        self._to_come = [dict(command) for command in to_come if command.get("id") not in self._known]
