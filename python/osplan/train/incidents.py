"""A step that must not happen, and what the stage's policy makes of it. Weights are still those of the step before."""

from collections.abc import Mapping
from typing import Any

from osplan.train.attempt import Attempt, End
from osplan.train.checkpoint import latest_checkpoint, read_checkpoint
from osplan.train.commands import Commands
from osplan.train.keeping import Keeper
from osplan.train.trained import Trained


class Incidents:
    """Incidents of one run, bounded in number."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained
        self.retries = 0

    def answer(self, message: str, keeper: Keeper, commands: Commands) -> End | None:
        """Skips, rolls back, or ends the attempt."""
        settings, step = self.attempt.stage.incidents, self.trained.step
        self.retries += 1
        if settings.policy == "stop" or self.retries > settings.max_retries:
            action = "stopped" if settings.policy == "stop" else f"stopped after {settings.max_retries} retries"
            self._report(message, action)
            return End("non-finite", f"{message}; {action}; the weights on disk are those of step {keeper.last_step}", step)
        if settings.policy == "skip":
            self._report(message, "skipped the batch")
            return None
        return self._roll_back(message, keeper, commands)

    def _roll_back(self, message: str, keeper: Keeper, commands: Commands) -> End | None:
        attempt, trained = self.attempt, self.trained
        folder = attempt.world.from_first(latest_checkpoint(attempt.run) if attempt.world.is_first else None)
        if folder is None:
            self._report(message, "stopped: there is no checkpoint to go back to")
            return End("non-finite", message, trained.step)
        cut = attempt.stage.incidents.learning_rate_cut
        position, factor, retries = attempt.clips.state(), trained.rate_factor * cut, self.retries
        changes, stop_at = dict(attempt.live.changes), commands.stop_at
        saved = read_checkpoint(folder, attempt.world.rank)
        self._report(message, f"rolled back to step {saved.step}, learning rate × {cut}, the clips in between are skipped")
        keeper.restore(saved, same_run=True)
        commands.repeat([])
        attempt.clips.restore(position)
        attempt.live.reset(changes)
        trained.settings_changed()
        trained.rate_factor, self.retries, commands.stop_at = factor, retries, stop_at
        return None

    def _report(self, message: str, action: str) -> None:
        if self.attempt.world.is_first:
            self.attempt.port.emit("incident", step=self.trained.step + 1, kind="non-finite", message=message, action=action)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"retries": self.retries}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self.retries = state["retries"]
