"""Keeping and taking back the whole state of an attempt: which parts go into a checkpoint, and in which order they come back."""

import copy
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from osplan.domain.errors import UserError
from osplan.domain.full_disk import DiskFullError, is_full
from osplan.parallel.sharding import collected, spread_like
from osplan.train.adapters import adapter_config, adapter_state, by_parameter, file_name, has_adapters, load_adapters, weights_of
from osplan.train.attempt import Attempt
from osplan.train.checkpoint import (
    OPTIMIZER,
    Adapters,
    Checkpoint,
    Restored,
    begin_checkpoint,
    complete_checkpoint,
    generator_states,
    prune,
    restore_generators,
)
from osplan.train.measuring import Measuring
from osplan.train.optimizer import optimizer_state, restore_optimizer
from osplan.train.parameters import selectable
from osplan.train.spread_state import read_state, start_writing
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
        """Step of the newest checkpoint, written or being written."""
        self.short: int | None = None
        """On rank 0: bytes of a checkpoint that could not be written, for the disk is full."""
        self._written_step = -1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None

    def holds(self, step: int) -> bool:
        """Whether the newest checkpoint is of this step and whole; the same on all ranks."""
        self.wait()
        return self.attempt.world.from_first(self.last_step == step)

    def checkpoint(self, *, force: bool = False, is_end: bool = False) -> None:
        """Copies everything needed to continue, and has it written while the training goes on.

        Where the disk is found full, now or later, nothing is raised: rank 0 knows in `short` what is needed.
        """
        attempt, trained, world = self.attempt, self.trained, self.attempt.world
        if self.holds(trained.step) and not force:
            return
        started = time.perf_counter()
        ranks = tuple(world.gathered(generator_states()))
        named, optimizer = weights_of(trained.source), optimizer_state(trained.optimizer)
        averages, extra, adapters = _averaged(trained, named) or {}, attempt.task.extra_state(), _adapters(trained)
        parts = [named, averages, optimizer, *extra.values(), *((adapters.raw, adapters.ema or {}) if adapters is not None else ())]
        size = sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.values())
        temporary = world.from_first(self._begun(size) if world.is_first else None)
        self.last_at = time.monotonic()
        if temporary is None:
            return
        written = start_writing(optimizer, temporary / "state" / OPTIMIZER, world.writers)
        checkpoint = Checkpoint(
            step=trained.step, attempt=attempt.number, config=dict(attempt.task.config), model=collected(named, keep=world.is_first),
            ema=collected(averages, keep=world.is_first) or None, adapters=adapters,
            extra={name: collected(tensors, keep=world.is_first) for name, tensors in extra.items()}, ranks=ranks,
            state=copy.deepcopy(self._state()), held_out=self.measuring.last, stage_hash=attempt.stage_hash, is_end=is_end,
        )  # fmt: skip
        self._writing = self._thread.submit(self._complete, temporary, checkpoint, written, started, size) if world.is_first else written
        self.last_step, self.short = trained.step, None

    def _begun(self, size: int) -> Path | None:
        """On rank 0: the folder to write in; None where there is no room."""
        self.attempt.port.end_unless_ours()
        try:
            return begin_checkpoint(self.attempt.run, self.trained.step, size)
        except DiskFullError as full:
            self.short = full.needed
            return None

    def _complete(self, temporary: Path, checkpoint: Checkpoint, others: Future[Any], started: float, size: int) -> None:
        """In the writing thread of rank 0: publishes the checkpoint, says so, and then lets go of what is not kept."""
        attempt = self.attempt
        written = complete_checkpoint(attempt.run, temporary, checkpoint, others, size, attempt.port.end_unless_ours)
        self._written_step = written.step
        attempt.port.emit(
            "checkpoint",
            step=written.step,
            path=str(written.path.relative_to(attempt.run)),
            bytes=written.bytes,
            sha256=written.sha256,
            seconds=time.perf_counter() - started,
        )
        for gone in prune(attempt.run, attempt.stage.checkpoint):
            step = int(gone.name.removeprefix("step-"))
            attempt.port.emit("checkpointDeleted", step=step, path=str(gone.relative_to(attempt.run)))

    def look(self) -> None:
        """Takes note of a checkpoint that is no longer being written; raises what went wrong with it."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when no checkpoint is being written; raises what went wrong with it, but for a full disk."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except DiskFullError as full:
            self.short, self.last_step = full.needed, self._written_step
        except (Exception, CheckpointException) as cause:
            # What another rank could not write rank 0 knows too.
            if self.attempt.world.is_first or not is_full(cause):
                raise

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
        restore_optimizer(trained.optimizer, read_state(saved.state_folder, dict(trained.source.named_parameters())))
        trained.clipper.restore(state["clipper"])
        attempt.task.restore_extra(saved.extra)
        self.last_step = self._written_step = trained.step


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
    return Adapters(
        adapter_config(trained.source),
        collected(adapter_state(trained.source), keep=True),
        None if averages is None else collected(averages, keep=True),
    )


def _restore_weights(trained: Trained, saved: Restored) -> Mapping[str, Tensor] | None:
    """Takes over the weights, or the adapters beside a base that is there already; returns the averages, which may be none.

    Raises UserError BASE_CHANGED where the base is not the one the adapters were trained beside.
    """
    source = trained.source
    if not has_adapters(source):
        here = source.state_dict()
        source.load_state_dict({name: spread_like(value, here[name]) for name, value in saved.model.items()})
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
