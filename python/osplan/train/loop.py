"""The loop: one for every kind of stage. It decides what comes next; its parts do it."""

import time
from collections.abc import Sequence
from typing import Any

from osplan.train.attempt import Attempt, End
from osplan.train.checkpoint import Restored
from osplan.train.commands import Commands
from osplan.train.incidents import Incidents
from osplan.train.keeping import Keeper
from osplan.train.measuring import Measuring
from osplan.train.trained import Trained
from osplan.train.update import NonFiniteError, Update

PLATEAU_MEASUREMENTS = 3
"""Held-out measurements without improvement after which a phase that waits for a plateau begins."""


class Loop:
    """One attempt at a stage."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.trained = Trained(attempt)
        self.update = Update(attempt, self.trained)
        self.measuring = Measuring(attempt, self.trained)
        self.commands = Commands(attempt, self.trained)
        self.incidents = Incidents(attempt, self.trained)
        self.keeper = Keeper(attempt, self.trained, self.measuring, [self.measuring, self.commands, self.incidents])

    def restore(self, saved: Restored, past_commands: Sequence[dict[str, Any]], *, same_run: bool) -> None:
        """Takes over a checkpoint: all of it where the run goes on, the optimiser's state alone in a branch."""
        self.keeper.restore(saved, same_run=same_run)
        if same_run:
            self.commands.repeat(past_commands)

    def train(self) -> End:
        """Trains until the stage is over or something ends it; the last state is always in a checkpoint."""
        stage, trained = self.attempt.stage, self.trained
        self.attempt.port.emit("started", step=trained.step, steps=stage.steps)
        if trained.step == 0:
            self.measuring.measure(baselines=True)
            if stage.incidents.policy == "rollback":
                self.keeper.checkpoint()
        while True:
            end = self._boundary()
            if end is not None:
                return self._finish(end)
            try:
                self.update.make()
            except StopIteration:
                steps = self.attempt.stage.steps
                return self._finish(End("data-exhausted", f"the data ended after {trained.step} of {steps} steps", trained.step))
            except NonFiniteError as cause:
                end = self.incidents.answer(str(cause), self.keeper, self.commands)
                if end is not None:
                    return end
                continue
            self._after_update()

    def _boundary(self) -> End | None:
        """Between two steps: commands, phases, and the reasons to end."""
        self.commands.apply()
        self._next_phase()
        end = self._end()
        if end is not None:
            return end
        for name, action in (
            ("measure", lambda: self.measuring.measure(baselines=False)),
            ("checkpoint", self.keeper.checkpoint),
            ("sample", self.measuring.sample),
        ):
            if name in self.commands.requested:
                action()
        self.commands.requested.clear()
        return None

    def _next_phase(self) -> None:
        trained, measuring = self.trained, self.measuring
        upcoming = trained.phase + 1
        if upcoming >= len(trained.phases):
            return
        phase = trained.phases[upcoming]
        due = measuring.since_best >= PLATEAU_MEASUREMENTS if phase.waits_for_plateau else trained.step + 1 >= phase.start
        if due or "thaw" in self.commands.requested:
            trained.prove_phase()
            trained.enter_phase(upcoming)
            measuring.since_best = 0

    def _end(self) -> End | None:
        """The first reason to end at this boundary."""
        stage, step, commands = self.attempt.stage, self.trained.step, self.commands
        where = f"after step {step} of {stage.steps}"
        if "stop" in commands.requested or (commands.stop_at is not None and step >= commands.stop_at):
            return End("stopped", f"stopped by request {where}", step)
        if "pause" in commands.requested:
            return End("paused", f"paused {where}", step)
        if "signal" in commands.requested:
            return End("killed", f"the launcher ended the trainer {where}; a checkpoint was written", step)
        if step >= stage.steps:
            return End("completed", f"all {stage.steps} steps are done", step)
        since, patience = self.measuring.since_best, stage.held_out.patience
        if patience is not None and since >= patience:
            return End("plateau", f"the held-out loss has not improved over {since} measurements", step)
        return None

    def _after_update(self) -> None:
        stage, step = self.attempt.stage, self.trained.step
        if step >= stage.steps:
            return
        if _due(step, stage.held_out.every_steps):
            self.measuring.measure(baselines=False)
        if _due(step, stage.samples.every_steps):
            self.measuring.sample()
        minutes = stage.checkpoint.every_minutes
        late = minutes is not None and self.attempt.world.largest(int(time.monotonic() - self.keeper.last_at > 60 * minutes)) > 0
        if _due(step, stage.checkpoint.every_steps) or late:
            self.keeper.checkpoint()

    def _finish(self, end: End) -> End:
        """The last measurement, checkpoint and samples; a stop keeps to the checkpoint."""
        if end.reason in ("completed", "data-exhausted", "plateau"):
            self.trained.prove_phase()
            self.measuring.measure(baselines=True)
            self.measuring.finish()
            self.keeper.checkpoint(force=True)
            self.measuring.sample()
        elif self.keeper.last_step != self.trained.step:
            self.keeper.checkpoint()
        return end


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
