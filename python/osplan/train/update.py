"""One optimizer update: micro-batches forwards and backwards, the norm clipped, the weights moved, what it took.

The host waits for the device once in a step: for the norm and the losses, without which nobody could say whether the step may be taken.
"""

import math
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from osplan.domain.watch.reading import Reading
from osplan.parallel.world import World
from osplan.train.attempt import Attempt
from osplan.train.optimizer import gradient_norm, scale_gradients, set_learning_rate
from osplan.train.split import Split
from osplan.train.task import Batch, MicroBatch, StepLoss
from osplan.train.trained import Trained
from osplan.train.utilisation import PASSES, FlopCount, peak_flops
from osplan.train.watching import Watching


@dataclass
class Passes:
    """The micro-batches of one step on this rank, as they stand on the device."""

    batches: list[Batch] = field(default_factory=list)
    parts: list[StepLoss] = field(default_factory=list)


class Update:
    """Makes the steps of one attempt."""

    def __init__(self, attempt: Attempt, trained: Trained, watching: Watching) -> None:
        self.attempt, self.trained, self.watching = attempt, trained, watching
        self.split = Split(attempt.world.device)
        memory = attempt.stage.memory
        self._flops = FlopCount(trained.source)
        self._peak = peak_flops(attempt.world.device, memory.precision, tf32=memory.tf32)

    def make(self) -> Reading:
        """One step, and how it went. Gradients that overflow in fp16 take another try with a smaller scale and the next clips.

        Raises RefusedError before anything has moved, StopIteration where the data ends.
        """
        trained, task, world = self.trained, self.attempt.task, self.attempt.world
        stage, step = self.attempt.stage, trained.step + 1
        trains = task.trains_model(stage, step)
        started = time.perf_counter()
        while True:
            passes = self._passes(step, trains=trains)
            with self.split.time("optimizer"):
                if trained.loss_scale.is_used:
                    scale_gradients(trained.trainable, 1 / trained.loss_scale.value)
                norm = gradient_norm(trained.trainable)
            with self.split.time("communication"):
                tokens = sum(task.tokens(batch) for batch in passes.batches)
                said = numbers_of(norm, passes.parts, world, tokens)
            # A loss that is no number is not the doing of its scale.
            if not trained.loss_scale.has_overflowed(is_finite=math.isfinite(said.norm) or not math.isfinite(said.loss)):
                break
        rate = trained.learning_rate(step)
        reading = Reading(step, said.loss, rate, said.norm if trains else None, 0.0, said.by_bin, _memory(world.device))
        limit = self.watching.before(reading, passes.batches)
        if trains:
            with self.split.time("optimizer"):
                self._move(said.norm, limit, rate, step)
        extra = {**said.extra, **task.after_step(stage, passes.batches, step, world)}
        trained.step = step
        reading = replace(reading, seconds=time.perf_counter() - started, extra=extra)
        split = self.split.taken()
        if step % stage.log_every == 0 or step == 1 or step >= stage.steps:
            self._tell(reading, said, passes, split)
        return reading

    def _passes(self, step: int, *, trains: bool) -> Passes:
        task, clips, world, trained, stage = self.attempt.task, self.attempt.clips, self.attempt.world, self.trained, self.attempt.stage
        trained.optimizer.zero_grad(set_to_none=True)
        if not trained.model.training:
            trained.model.train()
        passes = Passes()
        for micro in range(stage.batch.accumulate):
            with self.split.time("data"):
                passes.batches.append(clips.take())
            last = micro + 1 == stage.batch.accumulate
            with _without_sync(trained.model, wait=not last):
                shape = passes.batches[-1].pixels_BCTHW.shape
                with self.split.time("forward"), torch.set_grad_enabled(trains), self._flops.counting(shape):
                    at = MicroBatch(step, micro, world.replica, world.replicas, self.split.time)
                    part = task.losses(stage, trained.model, passes.batches[-1], at)
                if trains:
                    with self.split.time("backward"):
                        (part.loss * (trained.loss_scale.value / stage.batch.accumulate)).backward()
            passes.parts.append(replace(part, loss=part.loss.detach()))
        return passes

    def _move(self, norm: float, limit: float | None, rate: float, step: int) -> None:
        trained = self.trained
        factor = trained.clipper.scale_for(norm)
        scale_gradients(trained.trainable, factor if limit is None or norm <= limit else min(factor, limit / norm))
        set_learning_rate(trained.optimizer, rate)
        trained.optimizer.step()
        trained.loss_scale.stepped()
        if trained.ema is not None:
            trained.ema.update(step)

    def _tell(self, reading: Reading, said: "Numbers", passes: Passes, split: Mapping[str, float]) -> None:
        stage, world = self.attempt.stage, self.attempt.world
        count = stage.batch.per_device * stage.batch.accumulate * world.replicas
        tokens = round(said.tokens * world.replicas)
        self.attempt.port.emit(
            "step",
            step=reading.step,
            loss=reading.loss,
            learning_rate=reading.learning_rate,
            gradient_norm=said.norm,
            seconds_per_step=reading.seconds,
            clips=count,
            tokens=tokens,
            split=dict(split),
            loss_by_bin=reading.by_bin,
            memory_bytes=reading.memory,
            extra={**reading.extra, **self._speed(reading, count, tokens, passes)},
        )

    def _speed(self, reading: Reading, clips: int, tokens: int, passes: Passes) -> dict[str, float]:
        speed = {"clipsPerSecond": clips / reading.seconds, "tokensPerSecond": tokens / reading.seconds}
        forward = [self._flops.of(batch.pixels_BCTHW.shape) or 0 for batch in passes.batches]
        if all(forward) and self._peak and reading.gradient_norm is not None:
            speed["modelFlopUtilisation"] = PASSES * sum(forward) / reading.seconds / self._peak
        if self.trained.loss_scale.is_used:
            speed |= {"lossScale": self.trained.loss_scale.value, "overflows": float(self.trained.loss_scale.overflows)}
        return speed


@dataclass(frozen=True)
class Numbers:
    """What is said of a step, over all ranks."""

    norm: float
    loss: float
    by_bin: list[float | None] | None
    extra: dict[str, float]
    tokens: float
    """Of a rank's micro-batches, the mean of the ranks."""


def numbers_of(norm: Tensor, parts: list[StepLoss], world: World, tokens: int) -> Numbers:
    """Gradient norm, mean loss, mean loss by bin, the last micro-batch's further scalars, tokens.

    One exchange, and one wait for the device.
    """
    names = list(parts[-1].extra)
    bins = [part.by_bin for part in parts if part.by_bin is not None]
    row = [norm.double().reshape(1), torch.stack([part.loss for part in parts]).double().mean().reshape(1)]
    row += [parts[-1].extra[name].double().reshape(1) for name in names]
    row.append(torch.tensor([tokens], dtype=torch.double))
    if bins:
        table = torch.stack(bins).double()
        row += [table.nan_to_num(0.0).sum(0), (~table.isnan()).double().sum(0)]
    values = world.mean(torch.cat([part.to(world.device) for part in row])).tolist()
    rest, by_bin = values[3 + len(names) :], None
    if bins:
        half = len(rest) // 2
        by_bin = [total / count if count else None for total, count in zip(rest[:half], rest[half:], strict=True)]
    return Numbers(values[0], values[1], by_bin, dict(zip(names, values[2:], strict=False)), values[2 + len(names)])


@contextmanager
def _without_sync(model: nn.Module, *, wait: bool) -> Iterator[None]:
    """Within, ranks do not exchange gradients yet: more micro-batches follow."""
    if wait and isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def _memory(device: torch.device) -> int:
    """Peak bytes so far: of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
