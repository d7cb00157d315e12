"""Keeping and taking back the whole state of an attempt: which parts go into a checkpoint, and in which order they come back."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from osplan.train.attempt import Attempt
from osplan.train.checkpoint import Checkpoint, Restored, generator_states, prune, restore_generators, write_checkpoint
from osplan.train.measuring import Measuring
from osplan.train.optimizer import optimizer_state, restore_optimizer
from osplan.train.trained import Trained


class Kept(Protocol):
    """A part of the loop with something to remember."""

    def state(self) -> dict[str, Any]:
        """As JSON, under keys no other part has."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back from the state of all parts."""
        ...


class Keeper:
    """Checkpoints of one attempt."""

    def __init__(self, attempt: Attempt, trained: Trained, measuring: Measuring, parts: Sequence[Kept]) -> None:
        self.attempt, self.trained, self.measuring = attempt, trained, measuring
        self.parts = parts
        self.last_at = time.monotonic()
        self.last_step = -1

    def checkpoint(self, *, force: bool = False) -> None:
        """Writes everything needed to continue, and then lets go of what is not kept."""
        attempt, trained = self.attempt, self.trained
        if self.last_step == trained.step and not force:
            return
        started = time.perf_counter()
        ranks = tuple(attempt.world.gathered(generator_states()))
        if attempt.world.is_first:
            weights = trained.source.state_dict()
            written = write_checkpoint(
                attempt.run,
                Checkpoint(
                    step=trained.step, attempt=attempt.number, config=attempt.task.config, model=weights,
                    ema=trained.ema.shadow_state(weights) if trained.ema is not None else None,
                    optimizer=optimizer_state(trained.optimizer), extra=attempt.task.extra_state(), ranks=ranks,
                    state=self._state(), held_out=self.measuring.last, stage_hash=attempt.stage_hash,
                ),
            )  # fmt: skip
            attempt.port.emit(
                "checkpoint",
                step=trained.step,
                path=str(written.path.relative_to(attempt.run)),
                bytes=written.bytes,
                sha256=written.sha256,
                seconds=time.perf_counter() - started,
            )
            for gone in prune(attempt.run, attempt.stage.checkpoint.keep_last, attempt.stage.checkpoint.keep_best):
                step = int(gone.name.removeprefix("step-"))
                attempt.port.emit("checkpointDeleted", step=step, path=str(gone.relative_to(attempt.run)))
        attempt.world.barrier()
        self.last_step, self.last_at = trained.step, time.monotonic()

    def _state(self) -> dict[str, Any]:
        whole = {
            "worldSize": self.attempt.world.size,
            "live": self.attempt.live.changes,
            "clips": self.attempt.clips.state(),
            **self.trained.state(),
        }
        for part in self.parts:
            whole |= part.state()
        return whole

    def restore(self, saved: Restored, *, same_run: bool) -> None:
        """Takes over a checkpoint: all of it where the run goes on, the optimiser's state alone in a branch."""
        attempt, trained, state = self.attempt, self.trained, saved.state
        trained.source.load_state_dict(saved.model)
        if trained.ema is not None and saved.ema is not None:
            trained.ema.load_state_dict({"shadow": saved.ema, **state["ema"]})
        if same_run:
            attempt.live.reset(state["live"])
            trained.restore(state, saved.step)
            attempt.clips.restore(state["clips"])
            for part in self.parts:
                part.restore(state)
            if saved.rank is not None:
                restore_generators(saved.rank)
        trained.optimizer.state.clear()
        restore_optimizer(trained.optimizer, saved.optimizer)
        trained.clipper.restore(state["clipper"])
        attempt.task.restore_extra(saved.extra)
        self.last_step = trained.step
