"""Memory and time of a stage on this machine: estimated from a traced step, then measured on three steps of its largest bucket.

The probe runs the trainer's own update on clips of noise, one rank, without data loading; weights are random but for an autoencoder
that is there already.
"""

import copy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from osplan.domain.stage import Stage
from osplan.parallel.world import World, join_world, leave_world
from osplan.train.architecture import RANDOM_WEIGHTS
from osplan.train.assemble import build_task
from osplan.train.attempt import Attempt
from osplan.train.autoencoder import latent_channels, latent_size
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.machine import (
    Machine,
    available_bytes,
    forget_most_resident,
    measured_machine,
    most_resident_bytes,
    resident_bytes,
)
from osplan.train.parameters import phases_of
from osplan.train.pickles import ENDINGS as PICKLES
from osplan.train.pickles import as_safetensors
from osplan.train.supported import refuse_unsupported
from osplan.train.task import Batch, Task
from osplan.train.traced import Shape, TracedStep, traced_step

STEPS = 3
"""Steps that are measured, after one that is not."""


@dataclass(frozen=True)
class Measurement:
    """What steps of one bucket took."""

    seconds: tuple[float, ...]
    split: dict[str, float]
    """Seconds by part, the median of the steps."""
    bytes: int
    """The most the process (or its GPU) held beyond what it held before the stage was built."""


def probe(stage_json: Mapping[str, Any], inputs: Mapping[str, Any], buckets: Mapping[tuple[int, int, int], int]) -> dict[str, Any]:
    """Estimate, measurement and their difference. `buckets` are clips by (frames, height, width); the stage's shape where there are none.

    Raises UserError for a stage this trainer cannot train.
    """
    live = LiveStage(_probed(stage_json, inputs))
    stage = live.stage
    refuse_unsupported(stage)
    world = join_world(stage.memory.device, stage.memory.threads)
    try:
        shapes = _shapes(stage, buckets)
        largest = shapes[0]
        traced = {shape: traced_step(stage, shape, inputs["weights"]) for shape in shapes}
        machine = measured_machine(world.device, stage.memory.precision, stage.memory.vae_precision)
        base = resident_bytes()
        forget_most_resident()
        started = time.perf_counter()
        with _readable(inputs["weights"] if stage.kind == "vae" else None) as weights:
            task = build_task(stage, {**inputs, "weights": weights}, _NOTHING, world.device, _Said())
        built = time.perf_counter() - started
        measured = {shape: _measured(live, task, shape, world, base) for shape in _tried(shapes)}
        answer = _answer(stage, stage_json["steps"], shapes, buckets, traced, machine, measured, base, world)
        return answer | {"largest": _json(largest), "buildSeconds": built}
    finally:
        leave_world()


@contextmanager
def _readable(weights: str | None) -> Iterator[str | None]:
    """Within, weights that are a pickle are safetensors."""
    if weights is None or Path(weights).suffix not in PICKLES:
        yield weights
        return
    with tempfile.TemporaryDirectory() as folder:
        yield str(as_safetensors(Path(weights), Path(folder)))


def fits(stage_json: Mapping[str, Any], inputs: Mapping[str, Any], buckets: Mapping[tuple[int, int, int], int]) -> dict[str, Any]:
    """The estimate of a stage without a probe, and the settings that would need less memory. Nothing is built, no step is made."""
    stage = LiveStage(stage_json).stage
    refuse_unsupported(stage)
    world = join_world(stage.memory.device, stage.memory.threads)
    shape = _shapes(stage, buckets)[0]
    machine = measured_machine(world.device, stage.memory.precision, stage.memory.vae_precision)
    traced = traced_step(stage, shape, inputs["weights"])
    return {
        "largest": _json(shape),
        "seconds": {"estimated": sum(machine.step_seconds(traced, stage.batch.accumulate).values())},
        "memory": {
            "estimated": traced.bytes,
            "parts": traced.parts,
            "process": resident_bytes() if world.device.type == "cpu" else 0,
            "available": available_bytes(world.device),
        },
        "phases": _phases(stage, shape, machine, inputs["weights"]),
        "ways": [
            {"settings": way.settings, "bytes": way.bytes, "slowdown": way.slowdown, "changesTraining": way.changes_training}
            for way in ways_to_fit(stage, shape, machine, inputs["weights"])
        ],
    }


def _phases(stage: Stage, shape: Shape, machine: Machine, weights: str | None) -> list[dict[str, Any]]:
    """Memory and time by phase, of a stage that has several."""
    if not stage.phases:
        return []
    found = []
    for phase in phases_of(stage.trainable, [(entry.at, entry.trainable, entry.rewarm_steps) for entry in stage.phases], stage.steps):
        traced = traced_step(replace(stage, trainable=phase.selectors, phases=()), shape, weights)
        seconds = sum(machine.step_seconds(traced, stage.batch.accumulate).values())
        found.append({"start": phase.start, "waitsForPlateau": phase.waits_for_plateau, "bytes": traced.bytes, "seconds": seconds})
    return found


def _answer(
    stage: Stage,
    steps: int,
    shapes: Sequence[Shape],
    buckets: Mapping[tuple[int, int, int], int],
    traced: Mapping[Shape, TracedStep],
    machine: Machine,
    measured: Mapping[Shape, Measurement],
    base: int,
    world: World,
) -> dict[str, Any]:
    largest, passes = shapes[0], stage.batch.accumulate
    found = measured[largest]
    took = median(found.seconds)
    estimates = {shape: machine.step_seconds(step, passes) for shape, step in traced.items()}
    estimated = sum(estimates[largest].values())

    def calibrated(shape: Shape) -> float:
        """Each part in the ratio of its estimates; what is in no part stays."""
        by_part = sum(found.split[name] * estimates[shape][name] / value for name, value in estimates[largest].items())
        return by_part + max(0.0, took - sum(found.split[name] for name in estimates[largest]))

    others = [shape for shape in measured if shape != largest]
    check = _check(others[0], calibrated(others[0]), median(measured[others[0]].seconds)) if others else None
    clips = {shape: buckets.get((shape.frames, shape.height, shape.width), 0) or 1 for shape in shapes}
    told = shapes if buckets else shapes[:1]
    mean = sum(clips[shape] * calibrated(shape) for shape in told) / sum(clips[shape] for shape in told)
    estimated_bytes = traced[largest].bytes
    # What Python and its libraries hold before anything is built; a GPU's allocator knows nothing of it.
    process = base if world.device.type == "cpu" else 0
    return {
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "threads": world.threads,
        "steps": len(found.seconds),
        "seconds": {
            "measured": took,
            "each": list(found.seconds),
            "split": found.split,
            "estimated": estimated,
            "error": estimated / took - 1,
            "check": check,
            "perStep": mean,
            "stage": mean * steps,
        },
        "memory": {
            "measured": found.bytes,
            "estimated": estimated_bytes,
            "parts": traced[largest].parts,
            "error": (process + estimated_bytes) / (process + found.bytes) - 1,
            "process": process,
            "available": available_bytes(world.device),
        },
    }


def _check(shape: Shape, predicted: float, took: float) -> dict[str, Any]:
    """How far a calibrated estimate for another bucket is off."""
    return {"shape": _json(shape), "predicted": predicted, "measured": took, "error": predicted / took - 1}


def _probed(stage_json: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The stage as it is probed: short, said at every step, beside a random autoencoder where none is there yet."""
    stage = copy.deepcopy(dict(stage_json))
    stage["logEvery"] = 1
    stage["steps"] = 2 * (STEPS + 1)
    stage["phases"] = []
    stage["trainable"] = max([stage_json["trainable"], *(phase["trainable"] for phase in stage_json["phases"])], key=_breadth)
    if stage["kind"] != "vae" and inputs["vae"] is None:
        stage["vae"]["weights"] = RANDOM_WEIGHTS
    return stage


def _breadth(selectors: Sequence[str]) -> int:
    """How much selectors choose, roughly: what is taken away counts against them."""
    return (1000 if "all" in selectors else 0) + sum(-1 if selector.startswith("-") else 1 for selector in selectors)


def _shapes(stage: Stage, buckets: Mapping[tuple[int, int, int], int]) -> list[Shape]:
    """Buckets by falling size; a square crop where an autoencoder trains on those."""
    crop = stage.data.crop_size if stage.kind == "vae" else None
    found = list(buckets) or [(stage.shape.frames, stage.shape.height, stage.shape.width)]
    cut = {(frames, crop or height, crop or width) for frames, height, width in found}
    ordered = sorted(cut, key=lambda size: size[0] * size[1] * size[2], reverse=True)
    return [Shape(stage.batch.per_device, *size) for size in ordered] + _half(stage, ordered)


def _half(stage: Stage, ordered: Sequence[tuple[int, int, int]]) -> list[Shape]:
    """A smaller shape to check the estimate on, where the data has only one."""
    frames, height, width = ordered[0]
    stride = stage.vae.stride[0]
    if len(ordered) > 1 or frames <= stride:
        return []
    return [Shape(stage.batch.per_device, 1 + (frames - 1) // (2 * stride) * stride, height, width)]


def _tried(shapes: Sequence[Shape]) -> list[Shape]:
    """The largest, which the estimate is calibrated on, and the smallest, which it is checked on."""
    return [shapes[0], shapes[-1]] if len(shapes) > 1 else [shapes[0]]


class _Noise:
    """Micro-batches of noise."""

    def __init__(self, task: Task, stage: Stage, shape: Shape) -> None:
        self.shape, self.taken = shape, 0
        self.pixels = torch.randint(0, 256, (shape.clips, 3, shape.frames, shape.height, shape.width), dtype=torch.uint8)
        self.moments = None
        if stage.data.cache != "off" and stage.kind != "vae":
            vae = task.encoders.vae  # type: ignore[attr-defined]
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


class _Said:
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


_NOTHING: Any = SimpleNamespace(held_out=[], whole_clips=[], caches=SimpleNamespace(latents=None, texts=None))
"""What a task knows of clips where none are measured."""


def _measured(live: LiveStage, task: Task, shape: Shape, world: World, base: int) -> Measurement:
    """Steps of the trainer's own on one bucket."""
    said = _Said()
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    with tempfile.TemporaryDirectory() as folder:
        attempt = Attempt(live, "", task, _Noise(task, live.stage, shape), world, said, Path(folder), 1)
        loop = Loop(attempt)
        for _ in range(1 + STEPS):
            loop.update.make()
    steps = said.steps[1:]
    seconds = tuple(float(step["seconds_per_step"]) for step in steps)
    parts = {name: median(step["split"].get(name, 0.0) for step in steps) for name in ("data", "forward", "backward", "optimizer")}
    held = torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else most_resident_bytes() - base
    return Measurement(seconds, parts, held)


def _json(shape: Shape) -> dict[str, int]:
    return {"clips": shape.clips, "frames": shape.frames, "height": shape.height, "width": shape.width}


@dataclass(frozen=True)
class Way:
    """A change of settings that needs less memory."""

    settings: dict[str, Any]
    bytes: int
    slowdown: float
    """Estimated seconds per step over those without it."""
    changes_training: bool
    """Whether the stage learns something else by it."""


def ways_to_fit(stage: Stage, shape: Shape, machine: Machine, weights: str | None = None) -> list[Way]:
    """Changes of settings that need less memory, the cheapest first: those that only cost time, then those that change what is learnt."""
    now = traced_step(stage, shape, weights)
    before = sum(machine.step_seconds(now, stage.batch.accumulate).values())
    found = []
    for settings, changed, less, changes_training in _candidates(stage, shape):
        traced = traced_step(changed, less, weights)
        took = sum(machine.step_seconds(traced, changed.batch.accumulate).values())
        if traced.bytes < 0.97 * now.bytes:
            found.append(Way(settings, traced.bytes, took / before, changes_training))
    return sorted(found, key=lambda way: (way.changes_training, way.slowdown))


def _candidates(stage: Stage, shape: Shape) -> list[tuple[dict[str, Any], Stage, Shape, bool]]:
    memory, batch = stage.memory, stage.batch
    found: list[tuple[dict[str, Any], Stage, Shape, bool]] = []

    def less(settings: dict[str, Any], changed: Stage, clips: int = shape.clips, *, changes_training: bool = False) -> None:
        found.append((settings, changed, replace(shape, clips=clips), changes_training))

    if stage.kind != "vae":
        for level in ("selective", "all"):
            if memory.checkpointing == "none" or (memory.checkpointing == "selective" and level == "all"):
                less({"memory.checkpointing": level}, replace(stage, memory=replace(memory, checkpointing=level)))
        if not memory.vae_tiling and stage.data.cache == "off":
            less({"memory.vaeTiling": True}, replace(stage, memory=replace(memory, vae_tiling=True)))
    if batch.per_device % 2 == 0:
        half = replace(batch, per_device=batch.per_device // 2, accumulate=2 * batch.accumulate)
        settings = {"batch.perDevice": half.per_device, "batch.accumulate": half.accumulate}
        less(settings, replace(stage, batch=half), half.per_device)
    if memory.precision == "fp32":
        less({"memory.precision": "bf16"}, replace(stage, memory=replace(memory, precision="bf16")))
    if stage.kind != "vae" and stage.lora.rank is None:
        if stage.model.class_ != "SparseUMMDiT" and stage.model.layers > 1 and not stage.phases:
            frozen = (*stage.trainable, f"-blocks[0:{stage.model.layers // 2}]")
            less({"trainable": list(frozen)}, replace(stage, trainable=frozen), changes_training=True)
        less({"lora.rank": 16}, replace(stage, lora=replace(stage.lora, rank=16), trainable=("all",), phases=()), changes_training=True)
    if stage.kind == "vae" and not stage.vae.freeze_encoder:
        less({"vae.freezeEncoder": True}, replace(stage, vae=replace(stage.vae, freeze_encoder=True)), changes_training=True)
    if stage.ema.enabled:
        less({"ema.enabled": False}, replace(stage, ema=replace(stage.ema, enabled=False)), changes_training=True)
    return found
