"""The loop: one for every kind of stage. It owns steps, phases, commands, checkpoints, measurements and the end."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from osplan.domain.errors import UserError
from osplan.domain.schedule import Schedule
from osplan.domain.stage import Stage
from osplan.parallel.world import World
from osplan.train.checkpoint import (
    Checkpoint,
    Restored,
    generator_states,
    latest_checkpoint,
    prune,
    read_checkpoint,
    restore_generators,
    write_checkpoint,
)
from osplan.train.ema import Ema
from osplan.train.live import LiveStage
from osplan.train.optimizer import (
    Clipper,
    build_optimizer,
    gradient_norm,
    optimizer_state,
    restore_optimizer,
    scale_gradients,
    set_learning_rate,
)
from osplan.train.parameters import Phase, groups_of, phases_of, select, set_trainable
from osplan.train.proof import compare, fingerprints
from osplan.train.task import Batch, MicroBatch, Task

PLATEAU_MEASUREMENTS = 3
"""Held-out measurements without improvement after which a phase that waits for a plateau begins."""


class Port(Protocol):
    """The loop's way out and in; only rank 0 has a live one."""

    def emit(self, event: str, **fields: Any) -> None:
        """Says what happened."""
        ...

    def take(self) -> list[dict[str, Any]]:
        """Commands since the last call."""
        ...

    def acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        """Says what became of a command."""
        ...


class Clips(Protocol):
    """The training clips in their order, without end; its state says how far they are consumed."""

    def take(self) -> Batch:
        """The next micro-batch of this rank.

        Raises StopIteration where the stage's epochs are over.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Position after the batches taken so far; the same on all ranks."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a position."""
        ...


@dataclass(frozen=True)
class End:
    """Why the loop ended."""

    reason: str
    message: str
    step: int


class NonFiniteError(Exception):
    """The loss or gradient of a step is not a number."""


class Loop:
    """One attempt at a stage."""

    def __init__(
        self, live: LiveStage, stage_hash: str, task: Task, clips: Clips, world: World, port: Port, run: Path, attempt: int
    ) -> None:
        self.live, self.stage_hash, self.task, self.clips = live, stage_hash, task, clips
        self.world, self.port, self.run, self.attempt = world, port, run, attempt
        self.step = 0
        self.names = [name for name, _ in task.model.named_parameters()]
        self.phases = self._phases()
        self.phase = 0
        self.phase_started = 1
        self.ema = Ema(dict(task.model.named_parameters()), self.stage.ema) if self.stage.ema.enabled else None
        self.clipper = Clipper(self.stage.clip)
        self.retries = 0
        self.rate_factor = 1.0
        self.best_loss, self.measurements_since_best = math.inf, 0
        self.last_held_out: dict[str, Any] | None = None
        self.last_checkpoint_at = time.monotonic()
        self.checkpointed_step = -1
        self.replay: list[dict[str, Any]] = []
        self.stop_at: int | None = None
        self.requested: set[str] = set()
        self._enter_phase(0, announce=False)

    @property
    def stage(self) -> Stage:
        """The stage with the live changes made so far."""
        return self.live.stage

    def _phases(self) -> list[Phase]:
        stage = self.stage
        return phases_of(stage.trainable, [(phase.at, phase.trainable, phase.rewarm_steps) for phase in stage.phases], stage.steps)

    def _wrapped(self) -> nn.Module:
        if self.world.size == 1:
            return self.task.model
        on_gpu = self.world.device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            self.task.model, device_ids=[self.world.local_rank] if on_gpu else None, gradient_as_bucket_view=True
        )

    def _enter_phase(self, number: int, *, announce: bool = True) -> None:
        """Freezes and thaws, and gives the newly trainable an optimiser state of their own."""
        self.phase = number
        trainable = select(self.names, self.phases[number].selectors)
        if self.stage.vae.freeze_encoder and self.stage.kind == "vae":
            trainable = [name for name in trainable if not name.startswith(("encoder.", "quant_conv."))]
        set_trainable(self.task.model, trainable)
        self._regroup(trainable)
        self.trainable = [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]
        self.phase_fingerprints = fingerprints(self.task.model) if len(self.phases) > 1 or len(trainable) < len(self.names) else None
        self.model = self._wrapped()
        if announce:
            self.phase_started = self.step + 1
            self.port.emit(
                "phase",
                step=self.step,
                index=number,
                trainable=list(self.phases[number].selectors),
                parameters=sum(parameter.numel() for parameter in self.trainable),
            )

    def _regroup(self, trainable: list[str]) -> None:
        """The optimiser over the trainable parameters in groups of equal learning rate; what it knew of them is kept."""
        kept = optimizer_state(self.optimizer) if hasattr(self, "optimizer") else {}
        self.groups = groups_of(self.names, trainable, self.stage.layer_decay, dict(self.stage.learning_rate_ratios))
        self.optimizer = build_optimizer(self.stage.optimizer, self.task.model, self.groups, self.stage.learning_rate)
        restore_optimizer(self.optimizer, kept)

    def _prove_phase(self) -> None:
        if self.phase_fingerprints is not None and self.world.is_first and self.step >= self.phase_started:
            self.port.emit("phaseProof", step=self.step, index=self.phase, **compare(self.phase_fingerprints, self.task.model))

    # --- continuing -----------------------------------------------------------------------------------------------

    def restore(self, saved: Restored, past_commands: list[dict[str, Any]], *, same_run: bool) -> None:
        """Takes over a checkpoint: all of it where the run goes on, the optimiser's state alone in a branch."""
        self.task.model.load_state_dict(saved.model)
        if self.ema is not None and saved.ema is not None:
            self.ema.load_state_dict({"shadow": saved.ema, **saved.state["ema"]})
        state = saved.state
        if same_run:
            self.live.reset(state["live"])
            self.step = saved.step
            self._enter_phase(state["phase"]["index"], announce=False)
            self._settings_changed()
            self.phase_started = state["phase"]["started"]
            if self.phase_fingerprints is not None:
                self.phase_fingerprints = dict(state["phase"]["fingerprints"])
            self.clips.restore(state["clips"])
            self.retries, self.rate_factor = state["retries"], state["rateFactor"]
            self.best_loss, self.measurements_since_best = _number(state["bestLoss"]), state["measurementsSinceBest"]
            self.last_held_out = state["heldOut"]
            # A stop that was obeyed is over; continuing means going on.
            stop_at = state["stopAt"]
            self.stop_at = stop_at if stop_at is not None and stop_at > saved.step else None
            self.replay = [
                command
                for command in past_commands
                if command["status"] == "applied" and command["name"] == "set" and command["step"] > saved.step
            ]
            if saved.rank is not None:
                restore_generators(saved.rank)
        self.optimizer.state.clear()
        restore_optimizer(self.optimizer, saved.optimizer)
        self.clipper.restore(state["clipper"])
        self.task.restore_extra(saved.extra)
        self.checkpointed_step = self.step

    # --- the loop -------------------------------------------------------------------------------------------------

    def train(self) -> End:
        """Trains until the stage is over or something ends it; the last state is always in a checkpoint."""
        self.port.emit("started", step=self.step, steps=self.stage.steps)
        if self.step == 0:
            self.measure(baselines=True)
            if self.stage.incidents.policy == "rollback":
                self.checkpoint()
        while True:
            end = self._boundary()
            if end is not None:
                return self._finish(end)
            try:
                self._update()
            except StopIteration:
                return self._finish(End("data-exhausted", f"the data ended after {self.step} of {self.stage.steps} steps", self.step))
            except NonFiniteError as cause:
                end = self._incident(str(cause))
                if end is not None:
                    return end
                continue
            self._after_update()

    def _boundary(self) -> End | None:
        """Between two steps: commands, phases, and the reasons to end."""
        for command in self.world.from_first(self._commands()):
            self._apply(command)
        stage = self.stage
        upcoming = self.phase + 1
        if upcoming < len(self.phases):
            phase = self.phases[upcoming]
            due = self.measurements_since_best >= PLATEAU_MEASUREMENTS if phase.waits_for_plateau else self.step + 1 >= phase.start
            if due or "thaw" in self.requested:
                self._prove_phase()
                self._enter_phase(upcoming)
                self.measurements_since_best = 0
        if "stop" in self.requested or (self.stop_at is not None and self.step >= self.stop_at):
            return End("stopped", f"stopped by request after step {self.step} of {stage.steps}", self.step)
        if "pause" in self.requested:
            return End("paused", f"paused after step {self.step} of {stage.steps}", self.step)
        if "signal" in self.requested:
            return End(
                "killed", f"the launcher ended the trainer after step {self.step} of {stage.steps}; a checkpoint was written", self.step
            )
        if self.step >= stage.steps:
            return End("completed", f"all {stage.steps} steps are done", self.step)
        if stage.held_out.patience is not None and self.measurements_since_best >= stage.held_out.patience:
            return End("plateau", f"the held-out loss has not improved over {self.measurements_since_best} measurements", self.step)
        for name, action in (("measure", lambda: self.measure(baselines=False)), ("checkpoint", self.checkpoint), ("sample", self.sample)):
            if name in self.requested:
                action()
        self.requested.clear()
        return None

    def _commands(self) -> list[dict[str, Any]]:
        due = [{**command, "replayed": True} for command in self.replay if command["step"] <= self.step + 1]
        self.replay = [command for command in self.replay if command["step"] > self.step + 1]
        return due + (self.port.take() if self.world.is_first else [])

    def _apply(self, command: dict[str, Any]) -> None:
        """Applies one command on this rank; rank 0 acknowledges it with the first step that sees it."""
        name, first = command["name"], self.step + 1
        if name != "set":
            if name == "stop" and command.get("after") is not None:
                self.stop_at = int(command["after"])
            else:
                self.requested.add(name)
            self._acknowledge(command, first, "applied", {"step": self.step})
            return
        before = dict(self.live.changes)
        try:
            value = command["effective"] if command.get("replayed") else command["value"]
            effective = self.live.change(command["path"], value)
            self._settings_changed()
        except UserError as refused:
            self.live.reset(before)
            self._settings_changed()
            self._acknowledge(command, first, "refused", None, f"{refused.message}. {refused.hint}")
            return
        self._acknowledge(command, first, "applied", effective)

    def _settings_changed(self) -> None:
        """Takes over what the parts keep of the stage's live settings.

        Raises UserError where a part cannot do what the stage now asks of it.
        """
        stage = self.stage
        self.task.check(stage)
        grouped = {name for group in self.groups for name in group.names}
        trainable = [name for name in self.names if name in grouped]
        if groups_of(self.names, trainable, stage.layer_decay, dict(stage.learning_rate_ratios)) != self.groups:
            self._regroup(trainable)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = stage.optimizer.weight_decay
        self.clipper.mode, self.clipper.norm = stage.clip.mode, stage.clip.norm
        if self.ema is not None:
            self.ema.decay = stage.ema.decay

    def _acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        if self.world.is_first and not command.get("replayed") and not command.get("silent"):
            self.port.acknowledge(command, step, status, effective, message)

    def learning_rate(self, step: int) -> float:
        """The learning rate of one update: the course of the stage, the phase's re-warming, cuts after roll-backs."""
        stage = self.stage
        schedule = stage.schedule
        course = Schedule(
            name=schedule.name, warmup_steps=schedule.warmup_steps, horizon_steps=schedule.horizon_steps or stage.steps,
            cycles=schedule.cycles, power=schedule.power, decay_share=schedule.decay_share, floor_ratio=schedule.floor_ratio,
        )  # fmt: skip
        since, rewarm = step - self.phase_started + 1, self.phases[self.phase].rewarm_steps
        rising = min(1.0, since / (rewarm + 1)) if rewarm else 1.0
        return stage.learning_rate * course.factor(step) * rising * self.rate_factor

    def _update(self) -> None:
        stage, step = self.stage, self.step + 1
        split = Split(self.world.device)
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        losses, bins, extra = [], [], {}
        batches: list[Batch] = []
        trains = self.task.trains_model(stage, step)
        for micro in range(stage.batch.accumulate):
            with split.time("data"):
                batches.append(self.clips.take())
            last = micro + 1 == stage.batch.accumulate
            with _without_sync(self.model, wait=not last):
                with split.time("forward"), torch.set_grad_enabled(trains):
                    part = self.task.losses(stage, self.model, batches[-1], MicroBatch(step, micro, self.world.rank, self.world.size))
                if trains:
                    with split.time("backward"):
                        (part.loss / stage.batch.accumulate).backward()
            losses.append(part.loss.detach())
            bins.append(part.by_bin)
            extra = {name: float(value) for name, value in part.extra.items()}
        with split.time("optimizer"):
            norm = float(gradient_norm(self.trainable))
            loss = float(self.world.mean(torch.stack(losses).mean()))
            if not math.isfinite(norm) or not math.isfinite(loss):
                paths = [path for batch in batches for path in batch.paths]
                found = f"loss {loss} and gradient norm {norm}; clips: {', '.join(paths[:8])}"
                raise NonFiniteError(f"step {step}: expected a finite loss and gradient, got {found}")
            rate = self.learning_rate(step)
            if trains:
                scale_gradients(self.trainable, self.clipper.scale_for(norm))
                set_learning_rate(self.optimizer, rate)
                self.optimizer.step()
                if self.ema is not None:
                    self.ema.update(step)
        extra |= self.task.after_step(stage, batches, step, self.world)
        self.step = step
        if step % stage.log_every == 0 or step == 1 or step >= stage.steps:
            clips = stage.batch.per_device * stage.batch.accumulate * self.world.size
            self.port.emit(
                "step",
                step=step,
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                seconds_per_step=time.perf_counter() - started,
                clips=clips,
                tokens=clips * self.task.tokens_per_clip(),
                split=split.seconds,
                loss_by_bin=_mean_bins(bins),
                memory_bytes=_memory(self.world.device),
                extra=extra or None,
            )

    def _after_update(self) -> None:
        stage, step = self.stage, self.step
        if step < stage.steps and _due(step, stage.held_out.every_steps):
            self.measure(baselines=False)
        if step < stage.steps and _due(step, stage.samples.every_steps):
            self.sample()
        minutes = stage.checkpoint.every_minutes
        late = minutes is not None and self.world.largest(int(time.monotonic() - self.last_checkpoint_at > 60 * minutes)) > 0
        if step < stage.steps and (_due(step, stage.checkpoint.every_steps) or late):
            self.checkpoint()

    def _finish(self, end: End) -> End:
        """The last measurement, checkpoint and samples; a stop keeps to the checkpoint."""
        if end.reason in ("completed", "data-exhausted", "plateau"):
            self._prove_phase()
            self.measure(baselines=True)
            with self._handed_on():
                finished = self.task.finish(self.stage)
            if finished and self.world.is_first:
                self.port.emit("latents", **finished)
            self.checkpoint(force=True)
            self.sample()
        elif self.checkpointed_step != self.step:
            self.checkpoint()
        return end

    def _incident(self, message: str) -> End | None:
        """A step that must not happen. Weights are still those of the step before."""
        policy, limit = self.stage.incidents.policy, self.stage.incidents.max_retries
        self.retries += 1
        if policy == "stop" or self.retries > limit:
            action = "stopped" if policy == "stop" else f"stopped after {limit} retries"
            self._report_incident(message, action)
            return End("non-finite", f"{message}; {action}; the weights on disk are those of step {self.checkpointed_step}", self.step)
        if policy == "skip":
            self._report_incident(message, "skipped the batch")
            return None
        folder = self.world.from_first(latest_checkpoint(self.run) if self.world.is_first else None)
        if folder is None:
            self._report_incident(message, "stopped: there is no checkpoint to go back to")
            return End("non-finite", message, self.step)
        position, cut, retries = self.clips.state(), self.rate_factor * self.stage.incidents.learning_rate_cut, self.retries
        changes, stop_at = dict(self.live.changes), self.stop_at
        saved = read_checkpoint(folder, self.world.rank)
        self._report_incident(
            message,
            f"rolled back to step {saved.step}, learning rate × {self.stage.incidents.learning_rate_cut}, the clips in between are skipped",
        )
        self.restore(saved, [], same_run=True)
        self.clips.restore(position)
        self.live.reset(changes)
        self._settings_changed()
        self.rate_factor, self.retries, self.stop_at = cut, retries, stop_at
        return None

    def _report_incident(self, message: str, action: str) -> None:
        if self.world.is_first:
            self.port.emit("incident", step=self.step + 1, kind="non-finite", message=message, action=action)

    # --- measuring, sampling, saving ------------------------------------------------------------------------------

    @contextmanager
    def _handed_on(self) -> Iterator[None]:
        """Within, the model has the weights that would be handed on: the moving average where one is kept."""
        if self.ema is None or not self.ema.started:
            yield
            return
        with self.ema.swapped():
            yield

    def measure(self, *, baselines: bool) -> None:
        """Held-out loss of the raw and of the averaged weights."""
        fields: dict[str, Any] | None = None
        if self.world.is_first and self.stage.data.held_out_clips > 0:
            with _undisturbed(self.task.model):
                raw = self.task.measure(self.stage).as_json()
                with self._handed_on():
                    ema = self.task.measure(self.stage).as_json() if self.ema is not None else None
                    more = self.task.baselines(self.stage) if baselines else {}
            fields = {"raw": raw, "ema": ema, **more}
            self.port.emit("heldOut", step=self.step, **fields)
        fields = self.world.from_first(fields)
        if fields is None:
            return
        self.last_held_out = {"raw": fields["raw"], "ema": fields["ema"]}
        loss = (fields["ema"] or fields["raw"])["loss"]
        if loss < self.best_loss:
            self.best_loss, self.measurements_since_best = loss, 0
        else:
            self.measurements_since_best += 1

    def sample(self) -> None:
        """Sample videos of the weights that would be handed on."""
        if self.world.is_first:
            with _undisturbed(self.task.model), self._handed_on():
                for path, prompt in self.task.sample(self.stage, self.run / "samples", self.step):
                    self.port.emit(
                        "sample",
                        step=self.step,
                        path=str(path.relative_to(self.run)),
                        prompt=prompt,
                        weights="ema" if self.ema is not None else "raw",
                    )
        self.world.barrier()

    def checkpoint(self, *, force: bool = False) -> None:
        """Writes everything needed to continue, and then lets go of what is not kept."""
        if self.checkpointed_step == self.step and not force:
            return
        started = time.perf_counter()
        ranks = tuple(self.world.gathered(generator_states()))
        if self.world.is_first:
            written = write_checkpoint(
                self.run,
                Checkpoint(
                    step=self.step, attempt=self.attempt, config=self.task.config, model=self.task.model.state_dict(),
                    ema=self.ema.shadow_state(self.task.model.state_dict()) if self.ema is not None else None,
                    optimizer=optimizer_state(self.optimizer), extra=self.task.extra_state(), ranks=ranks,
                    state=self._state(), held_out=self.last_held_out, stage_hash=self.stage_hash,
                ),
            )  # fmt: skip
            self.port.emit(
                "checkpoint",
                step=self.step,
                path=str(written.path.relative_to(self.run)),
                bytes=written.bytes,
                sha256=written.sha256,
                seconds=time.perf_counter() - started,
            )
            for gone in prune(self.run, self.stage.checkpoint.keep_last, self.stage.checkpoint.keep_best):
                self.port.emit("checkpointDeleted", step=int(gone.name.removeprefix("step-")), path=str(gone.relative_to(self.run)))
        self.world.barrier()
        self.checkpointed_step, self.last_checkpoint_at = self.step, time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "worldSize": self.world.size,
            "live": self.live.changes,
            "phase": {"index": self.phase, "started": self.phase_started, "fingerprints": self.phase_fingerprints},
            "clips": self.clips.state(),
            "clipper": self.clipper.state(),
            "ema": self.ema.counters() if self.ema is not None else None,
            "retries": self.retries,
            "rateFactor": self.rate_factor,
            "bestLoss": self.best_loss,
            "measurementsSinceBest": self.measurements_since_best,
            "heldOut": self.last_held_out,
            "stopAt": self.stop_at,
        }


class Split:
    """Seconds of a step by what they went into. On a GPU the forward and backward parts count launch time only."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device = device

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds the time spent within to one part."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def _without_sync(model: nn.Module, *, wait: bool) -> Iterator[None]:
    """Within, ranks do not exchange gradients yet: more micro-batches follow."""
    if wait and isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


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


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _number(value: Any) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value["$f"]] if isinstance(value, dict) else float(value)


def _mean_bins(parts: list[list[float | None] | None]) -> list[float | None] | None:
    rows = [row for row in parts if row is not None]
    if not rows:
        return None
    columns = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    return [sum(column) / len(column) if column else None for column in columns]


def _memory(device: torch.device) -> int:
    """Peak bytes: of the GPU's allocator, or the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
