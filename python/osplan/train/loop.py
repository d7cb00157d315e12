"""The loop: one for every kind of stage. It decides what comes next; its parts do it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from osplan.domain.history import after_checkpoint
from osplan.train.attempt import Attempt, End
from osplan.train.checkpoint import Restored
from osplan.train.commands import Commands
from osplan.train.incidents import Incidents
from osplan.train.keeping import Keeper
from osplan.train.measuring import Measuring
from osplan.train.room import LEAST_BYTES, waited
from osplan.train.stuck import StuckClock
from osplan.train.trained import Trained
from osplan.train.update import Update
from osplan.train.watching import RefusedError, Watching

FINISHED = ("completed", "data-exhausted", "plateau")
"""Ends of a stage that is over; what it leaves behind has to be written."""
USUAL_PLATEAU = 8
"""Held-out measurements that make a plateau where the rule that watches for one is off."""


class Loop:
    """One attempt at a stage."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.trained = Trained(attempt)
        self.watching = Watching(attempt, self.trained)
        self.update = Update(attempt, self.trained, self.watching)
        self.measuring = Measuring(attempt, self.trained)
        self.commands = Commands(attempt, self.trained)
        self.incidents = Incidents(attempt, self.trained, self.watching)
        self.keeper = Keeper(attempt, self.trained, self.measuring, [self.measuring, self.commands, self.incidents, self.watching])

    def restore(self, saved: Restored, past: Sequence[Mapping[str, Any]], *, same_run: bool) -> None:
        """Takes over a checkpoint: all of it where the run goes on, the optimiser's state alone in a branch.

        `past` is what the journal says of commands and incidents, in its order.
        """
        self.keeper.restore(saved, same_run=same_run)
        if not same_run:
            return
        world = self.attempt.world
        since = world.from_first(after_checkpoint(past, saved.step) if world.is_first else None)
        if since.rollback is not None:
            self.incidents.go_on(since.rollback["after"], self.commands)
        self.commands.repeat(since.commands)

    def train(self) -> End:
        """Trains until the stage is over or something ends it; the last state is always in a checkpoint."""
        with self.watched():
            return self._settled(self._train())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, a clock sees whether steps go on."""
        attempt, world = self.attempt, self.attempt.world
        self.clock = StuckClock(
            attempt.run, world.rank, world.size, lambda: attempt.stage.incidents.watch.stuck_seconds, self.watching.stuck
        )
        try:
            yield
        finally:
            self.clock.close()

    def _train(self) -> End:
        stage, trained = self.attempt.stage, self.trained
        self.attempt.port.emit("started", step=trained.step, steps=stage.steps)
        if trained.step == 0:
            self._measure(baselines=True)
            if "rollback" in (stage.incidents.policy, stage.incidents.on_spike):
                self._checkpoint()
        while True:
            try:
                end = self.next_step()
            except RefusedError as refused:
                with self.clock.resting():
                    end = self.incidents.answer(refused, self.keeper, self.commands)
            if end is not None:
                return end

    def next_step(self) -> End | None:
        """One boundary and one step; the end where there is nothing more to do.

        Raises RefusedError for what the stage's policy has to decide.
        """
        self.clock.beat(self.trained.step)
        end = self._boundary()
        if end is not None:
            return self._finish(end)
        try:
            reading = self.update.make()
        except StopIteration:
            step, steps = self.trained.step, self.attempt.stage.steps
            return self._finish(End("data-exhausted", f"the data ended after {step} of {steps} steps", step))
        self.watching.after(reading)
        self._after_update()
        return None

    def _measure(self, *, baselines: bool) -> None:
        with self.clock.resting():
            self.measuring.measure(baselines=baselines)
        self.watching.measured(self.measuring.last)

    def _sample(self) -> None:
        with self.clock.resting():
            self.measuring.sample()

    def _checkpoint(self, *, force: bool = False, is_end: bool = False) -> None:
        with self.clock.resting():
            self.watching.check_weights()
            with self.update.split.time("checkpoint"):
                self.keeper.checkpoint(force=force, is_end=is_end)

    def _short_of(self) -> dict[str, int]:
        """On rank 0: what could not be written for the disk is full, and the bytes it needs."""
        short = {"checkpoint": self.keeper.short or 0, "sample": LEAST_BYTES * self.measuring.short}
        return {name: needed for name, needed in short.items() if needed} or ({"journal": 0} if self.attempt.port.is_blocked else {})

    def _hold(self, *, is_end: bool = False) -> End | None:
        """Waits until there is room for what could not be written, and writes it; ends where that is asked for meanwhile."""
        short = self.attempt.world.from_first(self._short_of())
        if not short:
            return None
        with self.clock.resting():
            for _ in waited(self.attempt, self.trained.step, sum(short.values())):
                self.commands.apply(again=True)
                self.watching.changed(self.commands.changed)
                end = self._asked_to_end()
                if end is not None:
                    return end
        if "checkpoint" in short:
            self._checkpoint(force=True, is_end=is_end)
        if "sample" in short:
            self._sample()
        return None

    def _written(self) -> End | None:
        """Returns when all that belongs to an end is written; a full disk is waited for, and what is asked for meanwhile ends that."""
        while self._is_short():
            end = self._hold(is_end=True)
            if end is not None:
                return end
        return None

    def _is_short(self) -> bool:
        """Whether something is left to be written once nothing is being written any more; the same on all ranks."""
        with self.clock.resting():
            self.keeper.wait()
        return bool(self.attempt.world.from_first(self._short_of()))

    def _settled(self, end: End) -> End:
        """The end, once all that belongs to it is written, unless a person or the launcher wants to end while the disk is full."""
        stopped = self._written() if end.reason in FINISHED else end if self._is_short() else None
        if stopped is None:
            return end
        newest = self.attempt.world.from_first(self.keeper.last_step)
        kept = f"the newest checkpoint is of step {newest}" if newest >= 0 else "there is no checkpoint"
        return replace(stopped, message=f"{stopped.message}; the disk is full: {kept}")

    def _boundary(self) -> End | None:
        """Between two steps: commands, phases, and the reasons to end."""
        self.keeper.look()
        if self._short_of():
            self.commands.ask("hold")
        self.commands.apply()
        self.watching.changed(self.commands.changed)
        end = self._next_phase() or self._end()
        if end is None and "hold" in self.commands.requested:
            end = self._hold()
        if end is not None:
            return end
        for name, action in (
            ("measure", lambda: self._measure(baselines=False)),
            ("checkpoint", self._checkpoint),
            ("sample", self._sample),
        ):
            if name in self.commands.requested:
                action()
        self.commands.requested.clear()
        return None

    def _next_phase(self) -> End | None:
        """Begins the next phase where it is due; the end that is asked for before the one before it is kept."""
        trained, measuring = self.trained, self.measuring
        upcoming = trained.phase + 1
        if upcoming >= len(trained.phases):
            return None
        phase = trained.phases[upcoming]
        due = self._has_levelled_off() if phase.waits_for_plateau else trained.step + 1 >= phase.start
        if due or "thaw" in self.commands.requested:
            trained.prove_phase()
            # A phase begun by hand is known to a checkpoint as begun.
            if self.attempt.stage.checkpoint.keep_ends and trained.step > 0 and "thaw" not in self.commands.requested:
                self._checkpoint(force=True, is_end=True)
                end = self._written()
                if end is not None:
                    return end
            trained.enter_phase(upcoming)
            self.watching.watch.new_phase()
            measuring.since_best = measuring.since_gain = 0
        return None

    def _has_levelled_off(self) -> bool:
        """Whether a phase that waits for a plateau begins. What would end the stage for want of a better loss begins it too."""
        stage, measuring = self.attempt.stage, self.measuring
        patience = stage.held_out.patience
        is_worn_out = patience is not None and measuring.since_best >= patience
        return is_worn_out or measuring.since_gain >= (stage.incidents.watch.plateau or USUAL_PLATEAU)

    def _asked_to_end(self) -> End | None:
        step, commands = self.trained.step, self.commands
        where = f"after step {step} of {self.attempt.stage.steps}"
        if "stop" in commands.requested or (commands.stop_at is not None and step >= commands.stop_at):
            return End("stopped", f"stopped by request {where}", step)
        if "pause" in commands.requested:
            return End("paused", f"paused {where}", step)
        if "signal" in commands.requested:
            return End("killed", f"the launcher ended the trainer {where}", step)
        return None

    def _end(self) -> End | None:
        """The first reason to end at this boundary."""
        stage, step = self.attempt.stage, self.trained.step
        asked = self._asked_to_end()
        if asked is not None:
            return asked
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
            self._measure(baselines=False)
        if _due(step, stage.samples.every_steps):
            self._sample()
        minutes = stage.checkpoint.every_minutes
        late = minutes is not None and self.attempt.world.largest(int(time.monotonic() - self.keeper.last_at > 60 * minutes)) > 0
        if _due(step, stage.checkpoint.every_steps) or late:
            self._checkpoint()

    def _finish(self, end: End) -> End:
        """The last measurement, checkpoint and samples; a stop keeps to the checkpoint."""
        if end.reason in FINISHED:
            self.trained.prove_phase()
            self.watching.check_weights()
            self._measure(baselines=True)
            with self.clock.resting():
                self.measuring.finish()
            self._checkpoint(force=True, is_end=True)
            self._sample()
        elif not self.keeper.holds(self.trained.step):
            self._checkpoint()
        return end


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
