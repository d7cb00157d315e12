"""What is looked at between two steps: the held-out loss and sample videos. Neither disturbs the training."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn

from osplan.domain.full_disk import is_full
from osplan.domain.watch.levels import GAIN
from osplan.train.attempt import Attempt
from osplan.train.checkpoint import generator_states, restore_generators
from osplan.train.trained import Trained


class Measuring:
    """Measurements of one attempt, and how the held-out loss stands."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained
        self.best_loss, self.since_best = math.inf, 0
        self.gained_loss, self.since_gain = math.inf, 0
        """The loss of the last gain that counts against a plateau, and the measurements since."""
        self.last: dict[str, Any] | None = None
        """The newest held-out losses, `raw` and `ema`."""
        self.start: list[float] | None = None
        """Loss of each held-out clip with the weights the stage started from."""
        self.short = False
        """On rank 0: samples could not be written, for the disk is full."""

    def measure(self, *, baselines: bool) -> None:
        """Held-out loss of the raw and of the averaged weights."""
        task, stage, world = self.attempt.task, self.attempt.stage, self.attempt.world
        fields: dict[str, Any] | None = None
        if (world.is_first or self.trained.computes_together) and stage.data.held_out_clips > 0:
            with _undisturbed(task.model):
                raw = self._measured()
                with self.trained.handed_on():
                    ema = self._measured() if self.trained.ema is not None else None
                    more = task.baselines(stage) if baselines else {}
            fields = {"raw": raw, "ema": ema, **more}
            self.attempt.port.emit("heldOut", step=self.trained.step, **fields)
        fields = world.from_first(fields)
        if fields is None:
            return
        self.last = {"raw": fields["raw"], "ema": fields["ema"]}
        loss = (fields["ema"] or fields["raw"])["loss"]
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
        else:
            self.since_best += 1
        if loss < self.gained_loss * (1 - GAIN):
            self.gained_loss, self.since_gain = loss, 0
        else:
            self.since_gain += 1

    def _measured(self) -> dict[str, Any]:
        """The loss of the weights the model now has, alone and paired with that of those it started from."""
        found = self.attempt.task.measure(self.attempt.stage)
        if self.start is None:
            self.start = list(found.per_clip)
            return found.as_json()
        return {**found.as_json(), "againstStart": found.against(self.start) if len(self.start) == len(found.per_clip) > 0 else None}

    def sample(self) -> None:
        """Sample videos of the weights that the stage names, by default those that would be handed on."""
        self.short = False
        if self.attempt.world.is_first or self.trained.computes_together:
            wanted = self.attempt.stage.samples.weights if self.trained.ema is not None else "raw"
            if wanted != "ema":
                self._sample("raw", nullcontext())
            if wanted != "raw":
                self._sample("ema", self.trained.handed_on())
        self.attempt.world.barrier()

    def _sample(self, weights: str, within: AbstractContextManager[None]) -> None:
        task, run, step = self.attempt.task, self.attempt.run, self.trained.step
        with _undisturbed(task.model), within:
            # Other ranks compute along with rank 0, whose files are the ones that count.
            folder = run / "samples" if self.attempt.world.is_first else None
            try:
                written = task.sample(self.attempt.stage, folder, f"step-{step:08d}-{weights}")
            except OSError as cause:
                # Files are written after all that ranks compute together: nobody waits for this one.
                if not is_full(cause):
                    raise
                self.short = True
                return
            for path, prompt in written:
                self.attempt.port.emit("sample", step=step, path=str(path.relative_to(run)), prompt=prompt, weights=weights)

    def finish(self) -> None:
        """What the task measures once, on the weights that are handed on."""
        with self.trained.handed_on():
            finished = self.attempt.task.finish(self.attempt.stage)
        if finished and self.attempt.world.is_first:
            self.attempt.port.emit("latents", **finished)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "bestLoss": self.best_loss,
            "measurementsSinceBest": self.since_best,
            "gainedLoss": self.gained_loss,
            "measurementsSinceGain": self.since_gain,
            "heldOut": self.last,
            "heldOutStart": self.start,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.best_loss, self.since_best = _number(state["bestLoss"]), state["measurementsSinceBest"]
        self.gained_loss = _number(state.get("gainedLoss", state["bestLoss"]))
        self.since_gain = state.get("measurementsSinceGain", self.since_best)
        self.last = state["heldOut"]
        self.start = state.get("heldOutStart")


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Within, nothing the training depends on may change: global generators and the mode of the model come back."""
    states, was_training = generator_states(), model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        restore_generators(states)


def _number(value: Any) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value["$f"]] if isinstance(value, dict) else float(value)
