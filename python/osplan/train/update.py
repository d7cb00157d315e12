"""One optimizer update: micro-batches forwards and backwards, the norm clipped, the weights moved, what it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from osplan.domain.watch.reading import Reading
from osplan.parallel.world import World
from osplan.train.attempt import Attempt
from osplan.train.optimizer import gradient_norm, scale_gradients, set_learning_rate
from osplan.train.task import Batch, MicroBatch
from osplan.train.trained import Trained
from osplan.train.watching import Watching


class Update:
    """Makes the steps of one attempt."""

    def __init__(self, attempt: Attempt, trained: Trained, watching: Watching) -> None:
        self.attempt, self.trained, self.watching = attempt, trained, watching

    def make(self) -> Reading:
        """One step, and how it went.

        Raises RefusedError before anything has moved, StopIteration where the data ends.
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
                    part = task.losses(stage, trained.model, batches[-1], MicroBatch(step, micro, world.replica, world.replicas))
                if trains:
                    with split.time("backward"):
                        (part.loss / stage.batch.accumulate).backward()
            losses.append(part.loss.detach())
            bins.append(part.by_bin)
            extra = {name: float(value) for name, value in part.extra.items()}
        with split.time("optimizer"):
            norm = float(gradient_norm(trained.trainable))
            loss, by_bin = float(world.mean(torch.stack(losses).mean())), _bins_of_all(bins, world)
            rate = trained.learning_rate(step)
            reading = Reading(step, loss, rate, norm if trains else None, 0.0, by_bin, _memory(world.device), extra)
            limit = self.watching.before(reading, batches)
            if trains:
                factor = trained.clipper.scale_for(norm)
                scale_gradients(trained.trainable, factor if limit is None or norm <= limit else min(factor, limit / norm))
                set_learning_rate(trained.optimizer, rate)
                trained.optimizer.step()
                if trained.ema is not None:
                    trained.ema.update(step)
        extra |= task.after_step(stage, batches, step, world)
        trained.step = step
        reading = replace(reading, seconds=time.perf_counter() - started, extra=extra)
        if step % stage.log_every == 0 or step == 1 or step >= stage.steps:
            count = stage.batch.per_device * stage.batch.accumulate * world.replicas
            self.attempt.port.emit(
                "step",
                step=step,
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                seconds_per_step=reading.seconds,
                clips=count,
                tokens=count * task.tokens_per_clip(),
                split=split.seconds,
                loss_by_bin=by_bin,
                memory_bytes=reading.memory,
                extra=extra or None,
            )
        return reading


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


def _bins_of_all(parts: list[list[float | None] | None], world: World) -> list[float | None] | None:
    """Mean loss per time bin over all micro-batches of all ranks; None where nothing fell into a bin, or there are no times."""
    rows = [row for row in parts if row is not None]
    if not rows:
        return None
    columns = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
    if world.size == 1:
        return [sum(column) / len(column) if column else None for column in columns]
    sums, counts = [float(sum(column)) for column in columns], [float(len(column)) for column in columns]
    shared = world.mean(torch.tensor([sums, counts], dtype=torch.float64, device=world.device)).tolist()
    return [total / count if count else None for total, count in zip(*shared, strict=True)]


def _memory(device: torch.device) -> int:
    """Peak bytes: of the GPU's allocator, or the resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
