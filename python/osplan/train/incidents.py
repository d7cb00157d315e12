"""What the stage's policy makes of what must not go on: leave the batch out, go back, or end the attempt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osplan.train.attempt import Attempt, End
from osplan.train.checkpoint import checkpoints_of, read_checkpoint, remove_checkpoint
from osplan.train.commands import Commands
from osplan.train.keeping import Keeper
from osplan.train.trained import Trained
from osplan.train.watching import RefusedError, Watching

SUSPECT = "learningRate"
"""A live change of it after the checkpoint that is gone back to is undone, unless it was a cut."""


class Incidents:
    """Incidents of one run, bounded in number."""

    def __init__(self, attempt: Attempt, trained: Trained, watching: Watching) -> None:
        self.attempt, self.trained, self.watching = attempt, trained, watching
        self.retries = 0
        self.last: int | None = None
        """Step of the newest incident that was acted on."""
        self.back_to: int | None = None
        """Where the newest roll-back went."""

    def answer(self, refused: RefusedError, keeper: Keeper, commands: Commands) -> End | None:
        """Skips, rolls back, or ends the attempt."""
        keeper.wait()
        settings, alert = self.attempt.stage.incidents, refused.alert
        policy = self.watching.policy(alert)
        if self.last is not None and settings.forget_steps is not None and alert.step >= self.last + settings.forget_steps:
            self.retries, self.back_to = 0, None
        self.retries += 1
        again = self.last is not None and alert.step <= self.last
        self.last = max(alert.step, self.last or 0)
        if policy == "stop" or self.retries > settings.max_retries:
            return self._stop(refused, "stopped" if policy == "stop" else f"stopped after {settings.max_retries} retries", keeper)
        if policy == "skip" and alert.step > self.trained.step:
            self.watching.acted(alert, "skipped the batch", refused.scene)
            return None
        return self._roll_back(refused, keeper, commands, again=again)

    def _stop(self, refused: RefusedError, action: str, keeper: Keeper) -> End:
        alert = refused.alert
        self.watching.report(alert, action, refused.scene)
        reason = "non-finite" if alert.rule == "non-finite" else "incident"
        clips = f"; clips: {', '.join(refused.scene.clips[:8])}" if refused.scene.clips else ""
        where = f"the weights on disk are those of step {keeper.last_step}" if keeper.last_step >= 0 else "no checkpoint was written yet"
        return End(reason, f"step {alert.step}: {alert.message}{clips}; {action}; {where}", self.trained.step)

    def _good_checkpoint(self, since: int, *, again: bool) -> Path | None:
        """The newest checkpoint from before the evidence; where going back did not help, one before the last that was tried.

        Where none is that old, the oldest there is.
        """
        if not self.attempt.world.is_first:
            return None
        there = checkpoints_of(self.attempt.run)
        before = self.back_to if again and self.back_to is not None else since
        good = [folder for step, folder in there if step < before]
        return good[-1] if good else there[0][1] if there else None

    def _roll_back(self, refused: RefusedError, keeper: Keeper, commands: Commands, *, again: bool) -> End | None:
        attempt, trained, alert = self.attempt, self.trained, refused.alert
        folder = attempt.world.from_first(self._good_checkpoint(alert.since, again=again))
        if folder is None:
            return self._stop(refused, "stopped: there is no checkpoint to go back to", keeper)
        saved = read_checkpoint(folder, attempt.world.rank)
        changes, undone = self._changes_kept(saved.state["live"])
        cut = attempt.stage.incidents.learning_rate_cut
        after = {
            "clips": attempt.clips.state(),
            "rateFactor": trained.rate_factor * cut,
            "live": changes,
            "stopAt": commands.stop_at,
            "toCome": commands.after_rollback(saved.step),
            "rollbacks": commands.rollbacks + 1,
            "retries": self.retries,
            "last": self.last,
            "backTo": saved.step,
        }
        if attempt.world.is_first:
            self._forget_after(saved.step)
        what = f"rolled back to step {saved.step}, learning rate × {cut}, the clips in between are skipped"
        what += "".join(f", {path} is {now} again instead of {was}" for path, (was, now) in undone.items())
        self.watching.report(alert, what, refused.scene, rolled_back_to=saved.step, after=after, undone=undone)
        keeper.restore(saved, same_run=True)
        self.go_on(after, commands)
        return None

    def go_on(self, after: Mapping[str, Any], commands: Commands) -> None:
        """What a roll-back changes about the checkpoint it went to; the same when a run is continued from there."""
        attempt, trained = self.attempt, self.trained
        attempt.clips.restore(after["clips"])
        attempt.live.reset(after["live"])
        trained.settings_changed()
        trained.rate_factor, commands.stop_at = after["rateFactor"], after["stopAt"]
        commands.went_back(after["toCome"], after["rollbacks"])
        self.retries, self.last, self.back_to = after["retries"], after["last"], after["backTo"]

    def _forget_after(self, step: int) -> None:
        """Checkpoints newer than the good one hold what went wrong; `continue` must not take them."""
        for newer, folder in checkpoints_of(self.attempt.run):
            if newer > step:
                remove_checkpoint(folder)
                self.attempt.port.emit("checkpointDeleted", step=newer, path=str(folder.relative_to(self.attempt.run)))

    def _changes_kept(self, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
        """Live changes that stay, and those undone, with the value they had and have again."""
        changes = dict(self.attempt.live.changes)
        now, was = self.attempt.stage.learning_rate, known.get(SUSPECT, self.attempt.live.resolved(SUSPECT))
        if changes.get(SUSPECT) == known.get(SUSPECT) or now <= was:
            return changes, {}
        del changes[SUSPECT]
        if SUSPECT in known:
            changes[SUSPECT] = known[SUSPECT]
        return changes, {SUSPECT: (now, was)}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"retries": self.retries, "lastIncident": self.last, "backTo": self.back_to}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self.retries, self.last, self.back_to = state["retries"], state.get("lastIncident"), state.get("backTo")
