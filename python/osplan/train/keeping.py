"""Keeping and taking back the whole state of an attempt: which parts go into a checkpoint, and in which order they come back."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from osplan.domain.errors import UserError
from osplan.train.adapters import adapter_config, adapter_state, by_parameter, file_name, has_adapters, load_adapters, weights_of
from osplan.train.attempt import Attempt
from osplan.train.checkpoint import Adapters, Checkpoint, Restored, generator_states, prune, restore_generators, write_checkpoint
from osplan.train.measuring import Measuring
from osplan.train.optimizer import optimizer_state, restore_optimizer
from osplan.train.parameters import selectable
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
            weights = weights_of(trained.source)
            written = write_checkpoint(
                attempt.run,
                Checkpoint(
                    step=trained.step, attempt=attempt.number, config=attempt.task.config, model=weights,
                    ema=_averaged(trained, weights), adapters=_adapters(trained),
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
        averages = _restore_weights(trained, saved)
        if trained.ema is not None and averages is not None:
            trained.ema.load_state_dict({"shadow": averages, **state["ema"]})
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


def _averaged(trained: Trained, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """The weights with averages in place of what is averaged; None where no average is kept."""
    if trained.ema is None:
        return None
    if not has_adapters(trained.source):
        return trained.ema.shadow_state(weights)
    with trained.ema.swapped():
        return weights_of(trained.source)


def _adapters(trained: Trained) -> Adapters | None:
    if not has_adapters(trained.source):
        return None
    averages = {file_name(name): value for name, value in trained.ema.shadow.items()} if trained.ema is not None else None
    return Adapters(adapter_config(trained.source), adapter_state(trained.source), averages)


def _restore_weights(trained: Trained, saved: Restored) -> Mapping[str, Tensor] | None:
    """Takes over the weights, or the adapters beside a base that is there already; returns the averages, which may be none.

    Raises UserError BASE_CHANGED where the base is not the one the adapters were trained beside.
    """
    source = trained.source
    if not has_adapters(source):
        source.load_state_dict(saved.model)
        return saved.ema
    if saved.adapters is None:
        return None
    before, now = saved.state["phase"]["fingerprints"], trained.phase_fingerprints or {}
    adapters = set(selectable(list(before)))
    changed = [name for name in before if name not in adapters and now.get(name) != before[name]]
    if changed:
        raise UserError(
            "BASE_CHANGED",
            f"{changed[0]}: expected the frozen weights these adapters were trained beside, got others ({len(changed)} tensors differ)",
            "put back the weights that init.weights names",
        )
    load_adapters(source, saved.adapters)
    return None if saved.adapters_ema is None else by_parameter(source, saved.adapters_ema)
