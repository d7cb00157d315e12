"""Steps of a stage on clips of noise: how long they take and what they hold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from osplan.domain.stage import Stage
from osplan.parallel.world import World
from osplan.train.attempt import Attempt
from osplan.train.autoencoder import latent_channels, latent_size
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.machine import most_resident_bytes
from osplan.train.task import Batch, Task
from osplan.train.traced import Shape

STEPS, MOST_STEPS, SECONDS = 3, 20, 3.0
"""Steps that are measured for each side that takes turns: more than the least where they are over in less than these seconds."""
WARM_STEPS = 2
"""Steps of each side before them: the first ones ask the system for memory that later ones find."""
PARTS = ("data", "forward", "backward", "optimizer")
NOTHING: Any = SimpleNamespace(held_out=[], whole_clips=[], caches=SimpleNamespace(latents=None, texts=None))
"""What a task knows of clips where none are measured."""


@dataclass(frozen=True)
class Measurement:
    """What steps of one bucket took."""

    seconds: tuple[float, ...]
    """Of each step."""
    taken: Mapping[bool, tuple[float, ...]]
    """The same by whether they trained the model."""
    step_seconds: float
    """Of the stage's mean step: the medians of both sides in their shares."""
    cpu_seconds: float
    """Of all threads, a step."""
    split: dict[str, float]
    """Seconds by part, the mean of the steps."""
    bytes: int
    """The most the process (or its GPU) held beyond what it held before the stage was built."""


def mean_step(taken: Mapping[bool, Sequence[float]], shares: Mapping[bool, float]) -> float:
    """Seconds of the stage's mean step: the medians of both sides in their shares."""
    return sum(share * median(taken[turn]) for turn, share in shares.items())


class ProbedSteps:
    """Steps of the trainer's own, of one bucket after the other."""

    def __init__(self, live: LiveStage, task: Task, world: World, base: int, shares: Mapping[bool, float], folder: Path) -> None:
        """`base` is what the process held before; `shares` are those of a stage's steps by whether they train the model."""
        self.world, self.base, self.shares = world, base, shares
        self.clips, self.said = _Noise(task, live.stage), Said()
        self.loop = Loop(Attempt(live, "", task, self.clips, world, self.said, folder, 1))

    def measure(self, shape: Shape) -> Measurement:
        """Some steps of a bucket."""
        self.clips.use(shape)
        sides = len(self.shares)
        warming = [self.loop.update.make().seconds for _ in range(WARM_STEPS * sides)]
        count = self.world.from_first(min(MOST_STEPS, max(STEPS, round(SECONDS / min(warming) / sides))))
        warm, before = len(self.said.steps), time.process_time()
        readings = [self.loop.update.make() for _ in range(count * sides)]
        cpu_seconds = (time.process_time() - before) / len(readings)
        taken = {turn: tuple(each.seconds for each in readings if (each.gradient_norm is not None) is turn) for turn in self.shares}
        splits = [step["split"] for step in self.said.steps[warm:]]
        parts = {name: sum(split.get(name, 0.0) for split in splits) / len(splits) for name in PARTS}
        return Measurement(
            seconds=tuple(each.seconds for each in readings),
            taken=taken,
            step_seconds=mean_step(taken, self.shares),
            cpu_seconds=cpu_seconds,
            split=parts,
            bytes=self._most_held(),
        )

    def _most_held(self) -> int:
        device = self.world.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else most_resident_bytes() - self.base


class _Noise:
    """Micro-batches of noise."""

    def __init__(self, task: Task, stage: Stage) -> None:
        self.task, self.stage, self.taken = task, stage, 0

    def use(self, shape: Shape) -> None:
        """Makes them of another bucket."""
        pictures = self.stage.data.images_per_clip * shape.clips
        self.clips = self._some(shape)
        self.images = self._some(replace(shape, clips=pictures, frames=1)) if pictures else None

    def _some(self, shape: Shape) -> Batch:
        pixels = torch.randint(0, 256, (shape.clips, 3, shape.frames, shape.height, shape.width), dtype=torch.uint8)
        rows = list(range(shape.clips))
        names, moments = None, ()
        if self.stage.data.cache != "off" and self.stage.kind != "vae":
            vae = self.task.encoders.vae  # type: ignore[attr-defined]
            size = latent_size(vae, pixels)
            names, moments = [str(row) for row in rows], [torch.randn(2 * latent_channels(vae), *size[2:]) for _ in rows]
        return Batch(pixels, [], rows, ["noise"] * shape.clips, names, moments)

    def take(self) -> Batch:
        """The next one."""
        self.taken += 1
        return replace(self._captioned(self.clips), images=None if self.images is None else self._captioned(self.images))

    def _captioned(self, batch: Batch) -> Batch:
        return replace(batch, captions=[f"clip {self.taken} of noise, row {row}" for row in batch.ids])

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class Said:
    """A port that keeps what steps say."""

    is_blocked = False

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        """Keeps steps."""
        if event == "step":
            self.steps.append(fields)

    def take(self) -> list[dict[str, Any]]:
        """Nothing is asked."""
        return []

    def end_unless_ours(self) -> None:
        """Nothing: a probe writes no run."""

    def acknowledge(self, *_: Any, **__: Any) -> None:
        """Nothing."""
