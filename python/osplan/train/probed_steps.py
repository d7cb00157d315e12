"""Steps of a stage on clips of noise: how long they take and what they hold."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
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

STEPS, MOST_STEPS, SECONDS = 3, 12, 1.5
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
    step_seconds: float
    """Of the stage's mean step: the medians of both sides in their shares."""
    cpu_seconds: float
    """Of all threads, a step."""
    split: dict[str, float]
    """Seconds by part, the mean of the steps."""
    bytes: int
    """The most the process (or its GPU) held beyond what it held before the stage was built."""


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
        last = [self.loop.update.make() for _ in range(WARM_STEPS * sides)][-1]
        count = self.world.from_first(min(MOST_STEPS, max(STEPS, round(SECONDS / last.seconds / sides))))
        warm, before = len(self.said.steps), time.process_time()
        readings = [self.loop.update.make() for _ in range(count * sides)]
        cpu_seconds = (time.process_time() - before) / len(readings)
        taken = {turn: [each.seconds for each in readings if (each.gradient_norm is not None) is turn] for turn in self.shares}
        splits = [step["split"] for step in self.said.steps[warm:]]
        parts = {name: sum(split.get(name, 0.0) for split in splits) / len(splits) for name in PARTS}
        return Measurement(
            seconds=tuple(each.seconds for each in readings),
            step_seconds=sum(share * median(taken[turn]) for turn, share in self.shares.items()),
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
        self.shape = shape
        self.pixels = torch.randint(0, 256, (shape.clips, 3, shape.frames, shape.height, shape.width), dtype=torch.uint8)
        self.moments = None
        if self.stage.data.cache != "off" and self.stage.kind != "vae":
            vae = self.task.encoders.vae  # type: ignore[attr-defined]
            size = latent_size(vae, self.pixels)
            self.moments = [torch.randn(2 * latent_channels(vae), *size[2:]) for _ in range(shape.clips)]

    def take(self) -> Batch:
        """The next one."""
        self.taken += 1
        rows = range(self.shape.clips)
        captions = [f"clip {self.taken} of noise, row {row}" for row in rows]
        names = None if self.moments is None else [str(row) for row in rows]
        return Batch(self.pixels, captions, list(rows), ["noise"] * self.shape.clips, names, self.moments or ())

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
