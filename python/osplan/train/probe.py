"""Memory and time of a stage on this machine: estimated from a traced step, then measured on steps of its largest bucket.

The probe runs the trainer's own update on clips of noise, on as many ranks as the stage asks of this machine; weights are random but
for an autoencoder that is there already. Reading clips is timed apart, on one core, and set against the cores that are left.
"""

import copy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from osplan.data.loading import ClipReader, TrainingLoader
from osplan.data.order import order_of
from osplan.domain.stage import Stage
from osplan.parallel.world import World
from osplan.train.architecture import RANDOM_WEIGHTS
from osplan.train.assemble import RANDOM_STEPS, build_task
from osplan.train.clips import split
from osplan.train.live import LiveStage
from osplan.train.machine import Machine, available_bytes, cores, forget_most_resident, measured_machine, resident_bytes
from osplan.train.parameters import phases_of
from osplan.train.pickles import ENDINGS as PICKLES
from osplan.train.pickles import as_safetensors
from osplan.train.probe_ranks import local_ranks, probing_ranks
from osplan.train.probed_steps import NOTHING, STEPS, Measurement, ProbedSteps, Said, mean_step
from osplan.train.supported import refuse_unsupported
from osplan.train.task import Task
from osplan.train.traced import Shape, TracedStep, traced_step
from osplan.train.ways import ways_to_fit
from osplan.train.world_size import as_trained_by

SAMPLED_STEPS = 1000
"""Steps of a stage that are looked at to see whose turn they are."""


def probe(stage_json: Mapping[str, Any], inputs: Mapping[str, Any], buckets: Mapping[tuple[int, int, int], int]) -> dict[str, Any]:
    """Estimate, measurement and their difference. `buckets` are clips by (frames, height, width); the stage's shape where there are none.

    On the ranks beside the first the answer is empty. Raises UserError for a stage this trainer cannot train.
    """
    asked = LiveStage(stage_json).stage
    refuse_unsupported(asked)
    request = {"stage": dict(stage_json), "inputs": dict(inputs), "steps": True}
    with probing_ranks(asked, request) as world:
        probed = _probed(stage_json, inputs)
        # Fewer ranks than the stage wants: each does what one of them would.
        live = LiveStage(as_trained_by(probed, world) if world.size == local_ranks(asked) else probed)
        stage = live.stage
        shapes = _shapes(stage, buckets)
        traced = {shape: traced_step(stage, shape, inputs["weights"]) for shape in shapes} if world.is_first else {}
        machine = measured_machine(world.device, stage.memory.precision, stage.memory.vae_precision) if world.is_first else None
        # The others wait here: what they do would be measured with it.
        world.barrier()
        base = resident_bytes()
        forget_most_resident()
        started = time.perf_counter()
        with _readable(inputs["weights"] if stage.kind == "vae" else None) as weights:
            task = build_task(stage, {**inputs, "weights": weights}, NOTHING, world.device, Said())
        built = time.perf_counter() - started
        with tempfile.TemporaryDirectory() as folder:
            turns = _turns(task, asked)
            steps = ProbedSteps(live, task, world, base, turns, Path(folder))
            measured = [(shape, steps.measure(shape)) for shape in _tried(shapes)]
        loading = _loading_seconds(stage, inputs, world)
        if machine is None:
            return {}
        answer = _answer(asked, stage, shapes, buckets, traced, machine, measured, base, world, loading, turns)
        return answer | {"largest": _json(shapes[0]), "buildSeconds": built}


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
    device = torch.device("cuda" if torch.cuda.is_available() and stage.memory.device != "cpu" else "cpu")
    torch.set_num_threads(stage.memory.threads or max(1, cores() // local_ranks(stage)))
    shape = _shapes(stage, buckets)[0]
    machine = measured_machine(device, stage.memory.precision, stage.memory.vae_precision)
    traced = traced_step(stage, shape, inputs["weights"])
    return {
        "largest": _json(shape),
        "seconds": {"estimated": sum(machine.step_seconds(traced, stage.batch.accumulate).values())},
        "memory": {
            "estimated": traced.bytes,
            "parts": traced.parts,
            "checkpoint": traced.checkpoint_bytes if device.type == "cpu" else 0,
            "process": resident_bytes() if device.type == "cpu" else 0,
            "available": available_bytes(device),
        },
        "phases": _phases(stage, shape, machine, inputs["weights"], on_cpu=device.type == "cpu"),
        "ways": [
            {"settings": way.settings, "bytes": way.bytes, "slowdown": way.slowdown, "changesTraining": way.changes_training}
            for way in ways_to_fit(stage, shape, machine, inputs["weights"], on_cpu=device.type == "cpu")
        ],
    }


def _phases(stage: Stage, shape: Shape, machine: Machine, weights: str | None, *, on_cpu: bool) -> list[dict[str, Any]]:
    """Memory, on a CPU with a checkpoint's copies, and time by phase, of a stage that has several."""
    if not stage.phases:
        return []
    found = []
    for phase in phases_of(stage.trainable, [(entry.at, entry.trainable, entry.rewarm_steps) for entry in stage.phases], stage.steps):
        traced = traced_step(replace(stage, trainable=phase.selectors, phases=()), shape, weights)
        seconds = sum(machine.step_seconds(traced, stage.batch.accumulate).values())
        size = traced.bytes + (traced.checkpoint_bytes if on_cpu else 0)
        found.append({"start": phase.start, "waitsForPlateau": phase.waits_for_plateau, "bytes": size, "seconds": seconds})
    return found


def _answer(
    asked: Stage,
    stage: Stage,
    shapes: Sequence[Shape],
    buckets: Mapping[tuple[int, int, int], int],
    traced: Mapping[Shape, TracedStep],
    machine: Machine,
    measured: Sequence[tuple[Shape, Measurement]],
    base: int,
    world: World,
    loading: float,
    turns: Mapping[bool, float],
) -> dict[str, Any]:
    """`measured` are the largest bucket, the smallest where there is one, and what the calibration by these is checked on."""
    *tried, (checked, control) = measured
    found = tried[0][1]
    estimates = {shape: sum(machine.step_seconds(step, stage.batch.accumulate).values()) for shape, step in traced.items()}
    calibration = {estimates[shape]: each.step_seconds for shape, each in tried}
    said = calibrated(estimates[checked], calibration)
    # Once the error is known, what it was found by is as good a measurement as the others.
    pooled = {turn: [*(found.taken[turn] if checked == shapes[0] else ()), *control.taken[turn]] for turn in turns}
    calibration[estimates[checked]] = mean_step(pooled, turns)

    def with_clips(shape: Shape) -> float:
        seconds = calibrated(estimates[shape], calibration)
        return beside_loading(seconds, found.cpu_seconds * seconds / found.step_seconds, loading, stage.data.workers, world)

    clips = {shape: buckets.get((shape.frames, shape.height, shape.width), 0) or 1 for shape in shapes}
    mean = sum(clips[shape] * with_clips(shape) for shape in shapes) / sum(clips.values())
    # What Python and its libraries hold before anything is built; a GPU's allocator knows nothing of it.
    process = base if world.device.type == "cpu" else 0
    largest = traced[shapes[0]]
    return {
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "threads": world.threads,
        "ranks": world.size,
        "steps": len(found.seconds),
        "seconds": {
            "measured": found.step_seconds,
            "each": list(found.seconds),
            "split": found.split,
            "estimated": estimates[shapes[0]],
            "error": estimates[shapes[0]] / found.step_seconds - 1,
            "check": _check(checked, said, control.step_seconds),
            "loading": loading,
            "perStep": mean,
            "stage": mean * asked.steps,
        },
        "memory": {
            "measured": found.bytes,
            "estimated": largest.bytes,
            "parts": largest.parts,
            "error": (process + largest.bytes) / (process + found.bytes) - 1,
            "checkpoint": largest.checkpoint_bytes if world.device.type == "cpu" else 0,
            "process": process,
            "available": available_bytes(world.device),
        },
    }


def calibrated(estimate: float, measured: Mapping[float, float]) -> float:
    """Seconds for an estimate, from what was measured for others: in the ratio of one, or on the lines through neighbours."""
    known = sorted(measured.items())
    if len(known) == 1:
        (other, took), *_ = known
        return took * estimate / other
    place = max(1, min(len(known) - 1, sum(other < estimate for other, _ in known)))
    (first, took), (last, longest) = known[place - 1 : place + 1]
    return took + (longest - took) * (estimate - first) / (last - first)


def beside_loading(seconds: float, cpu_seconds: float, loading: float, workers: int, world: World) -> float:
    """Seconds of a step while the clips of the next are read: cores and readers are shared. `loading` is on one core."""
    if loading == 0:
        return seconds
    of_rank = max(1.0, cores() / world.local_size)
    return max(seconds, loading / max(1, workers), (cpu_seconds + loading) / of_rank)


def _loading_seconds(stage: Stage, inputs: Mapping[str, Any], world: World) -> float:
    """Seconds one core takes to read the clips of a step; 0 where there are none, or where they are kept encoded."""
    kept = stage.data.cache != "off" and stage.kind == "text-to-video"
    if inputs["data"] is None or kept or not world.is_first:
        return 0.0
    alone = replace(stage, data=replace(stage.data, workers=0))
    training, _, selection = split(alone, inputs)
    order = order_of(training, stage.batch.per_device * stage.batch.accumulate * world.replicas, stage)
    loader = TrainingLoader(ClipReader(training, alone), order, alone, 0, world.replicas, lambda *_: None)
    if stage.data.images_per_clip > 0 and selection.images is not None:
        loader.with_images(selection.images)
    before = time.process_time()
    for _ in range(STEPS):
        loader.take()
    ahead = loader.finish_ahead()
    return (time.process_time() - before) / (STEPS + ahead) * stage.batch.accumulate


def _turns(task: Task, stage: Stage) -> dict[bool, float]:
    """Share of a stage's steps that train the model, and of those that train what plays against it."""
    steps = range(1, stage.steps + 1, -(-stage.steps // SAMPLED_STEPS) | 1)
    share = sum(task.trains_model(stage, step) for step in steps) / len(steps)
    return {turn: part for turn, part in ((True, share), (False, 1 - share)) if part > 0}


def _check(shape: Shape, predicted: float, took: float) -> dict[str, Any]:
    """How far a calibrated estimate is off."""
    return {"shape": _json(shape), "predicted": predicted, "measured": took, "error": predicted / took - 1}


def _probed(stage_json: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The stage as it is probed: short, said at every step, beside a random autoencoder where none is there yet."""
    stage = copy.deepcopy(dict(stage_json))
    stage["logEvery"] = 1
    stage["steps"] = RANDOM_STEPS
    stage["phases"] = []
    objective = stage["objective"]
    if objective["discriminatorStart"] <= stage_json["steps"]:
        # From the first step on both sides take turns: a step of either has to be measured.
        objective["discriminatorStart"] = objective["discriminatorWarmup"] = 0
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
    return [Shape(stage.batch.per_device, *size) for size in ordered]


def _tried(shapes: Sequence[Shape]) -> list[Shape]:
    """The largest and the smallest, which calibrate the estimate; last what it is checked on: one between, or the largest again."""
    between = shapes[len(shapes) // 2] if len(shapes) > 2 else shapes[0]
    return [shapes[0], *shapes[-1:][: len(shapes) - 1], between]


def _json(shape: Shape) -> dict[str, int]:
    return {"clips": shape.clips, "frames": shape.frames, "height": shape.height, "width": shape.width}
