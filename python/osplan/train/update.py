"""One optimizer update: micro-batches forwards and backwards, the norm clipped, the weights moved, what it took."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from osplan.train.attempt import Attempt
from osplan.train.optimizer import gradient_norm, scale_gradients, set_learning_rate
from osplan.train.task import Batch, MicroBatch
from osplan.train.trained import Trained


class NonFiniteError(Exception):
    """The loss or gradient of a step is not a number."""


class Update:
    """Makes the steps of one attempt."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained

    def make(self) -> None:
        """One step.

        Raises NonFiniteError before anything has moved, StopIteration where the data ends.
        """
        task, clips, world, trained = self.attempt.task, self.attempt.clips, self.attempt.world, self.trained
        stage, step = self.attempt.stage, trained.step + 1
        split = Split(world.device)
        started = time.perf_counter()
        trained.optimizer.zero_grad(set_to_none=True)
        trained.model.train()
        losses, bins, extra = [], [], {}
        batches: list[Batch] = []
        trains = task.trains_model(stage, step)
        for micro in range(stage.batch.accumulate):
            with split.time("data"):
                batches.append(clips.take())
            last = micro + 1 == stage.batch.accumulate
            with _without_sync(trained.model, wait=not last):
                with split.time("forward"), torch.set_grad_enabled(trains):
                    part = task.losses(stage, trained.model, batches[-1], MicroBatch(step, micro, world.rank, world.size))
                if trains:
                    with split.time("backward"):
                        (part.loss / stage.batch.accumulate).backward()
            losses.append(part.loss.detach())
            bins.append(part.by_bin)
            extra = {name: float(value) for name, value in part.extra.items()}
        with split.time("optimizer"):
            norm = float(gradient_norm(trained.trainable))
            loss = float(world.mean(torch.stack(losses).mean()))
            if not math.isfinite(norm) or not math.isfinite(loss):
                paths = [path for batch in batches for path in batch.paths]
                found = f"loss {loss} and gradient norm {norm}; clips: {', '.join(paths[:8])}"
                raise NonFiniteError(f"step {step}: expected a finite loss and gradient, got {found}")
            rate = trained.learning_rate(step)
            if trains:
                scale_gradients(trained.trainable, trained.clipper.scale_for(norm))
                set_learning_rate(trained.optimizer, rate)
                trained.optimizer.step()
                if trained.ema is not None:
                    trained.ema.update(step)
        extra |= task.after_step(stage, batches, step, world)
        trained.step = step
        if step % stage.log_every == 0 or step == 1 or step >= stage.steps:
            count = stage.batch.per_device * stage.batch.accumulate * world.size
            self.attempt.port.emit(
                "step",
                step=step,
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                seconds_per_step=time.perf_counter() - started,
                clips=count,
                tokens=count * task.tokens_per_clip(),
                split=split.seconds,
                loss_by_bin=_mean_bins(bins),
                memory_bytes=_memory(world.device),
                extra=extra or None,
            )


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
