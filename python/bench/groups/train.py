"""What the trainer adds to a step: its journal, its metrics, a monitor on its socket, against the bare step of the same networks.

The stage is the quickstart's first text-to-video stage, on clips of noise; for what a cache saves, on clips that have to be decoded.
"""

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench.group import Bench, Benchmark, Goal, Group, Measured
from bench.predicted import STAGES as PREDICTED
from bench.predicted import predictions
from bench.worker import Contestant, Task, contest, cpu_note, tasks_in_turns, walls
from osplan.bridge import Bridge, Silent
from osplan.data.synthetic import write_data_set
from osplan.domain.protocol import PROTOCOL_VERSION
from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train.architecture import transformer_config, vae_config
from osplan.train.assemble import build_task, stage_objective
from osplan.train.attempt import Attempt
from osplan.train.cache_build import build_caches
from osplan.train.caches import Caches, open_latents, open_texts
from osplan.train.clips import open_clips
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.optimizer import gradient_norm, scale_gradients
from osplan.train.task import Batch, MicroBatch
from osplan.train.text import Texts

ROOT = Path(__file__).parents[3]
RECIPE = "configs/recipes/quickstart.yaml#t2v-1"
CLIPS = 32
QUICKSTART_VAE = ("baseChannels=16", "encoderFlowChannels=16", "decoderFlowChannels=16", "residualBlocks=1", "connectLayers=1")
"""What the recipe's autoencoder is trained with; here it starts from chance, which a stage of few steps may."""
ALONE = (
    "steps=1000000", "memory.device=cpu", "memory.threads=1", "data.workers=0", "data.heldOutClips=0", "checkpoint.everySteps=1000000",
    "heldOut.everySteps=1000000", "vae.weights=random", "vae.attention=false", *(f"vae.{setting}" for setting in QUICKSTART_VAE),
)  # fmt: skip
STAGES = {
    "uncached": (*ALONE, "steps=100", "data.cache=off"),
    "cached": (*ALONE, "steps=100", "data.cache=latents-and-text"),
}


class Noise:
    """Micro-batches of one noise: what is in the clips does not change how long a step takes."""

    def __init__(self, stage: Any) -> None:
        shape = (stage.batch.per_device, 3, stage.shape.frames, stage.shape.height, stage.shape.width)
        captions = [f"a red square moves left, {number}" for number in range(stage.batch.per_device)]
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        self.batch = Batch(pixels, captions, list(range(len(captions))), ["noise.mp4"] * len(captions))

    def take(self) -> Batch:
        """The batch."""
        return self.batch

    def state(self) -> dict[str, Any]:
        """Nothing moves."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing moved."""


def stage_of_recipe(*settings: str) -> dict[str, Any]:
    """The complete stage with some settings on top, as the program resolves it."""
    command = ["node", str(ROOT / "bin" / "stagewright.mjs"), "config", "show", str(ROOT / RECIPE), "--json"]
    command += [part for setting in settings for part in ("--set", setting)]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return shown["stages"][0]["stage"]


def attempt_of(stage_json: dict[str, Any], run: Path, port: Any) -> Attempt:
    """The parts of an attempt, with networks that start from chance."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    live = LiveStage(stage_json)
    stage, device = live.stage, torch.device("cpu")
    vae: Any = build_model(vae_config(stage)).eval().requires_grad_(False)
    config = transformer_config(stage)
    task = DiffusionTask(stage, build_model(config), config, Encoders(vae, Texts(stage, device)), stage_objective(stage), [], device)
    return Attempt(live, "none", task, Noise(stage), World(0, 1, 0, device, 1), port, run, 1)


def step_tasks(stage_json: dict[str, Any], run: Path, control: str) -> dict[str, Task]:
    """A step of the trainer with its journal and whoever listens, and a bare one of the same networks: in one process, by turns."""
    loop = Loop(attempt_of(stage_json, run, Bridge(run, 1, control, "bench")))
    within = ExitStack()
    within.enter_context(loop.watched())
    attempt, trained = loop.attempt, loop.trained
    made = 0

    def bare() -> None:
        nonlocal made
        made += 1
        trained.optimizer.zero_grad(set_to_none=True)
        loss = attempt.task.losses(attempt.stage, trained.model, attempt.clips.take(), MicroBatch(made, 0, 0, 1)).loss
        loss.backward()
        norm = float(gradient_norm(trained.trainable))
        scale_gradients(trained.trainable, trained.clipper.scale_for(norm))
        trained.optimizer.step()
        if trained.ema is not None:
            trained.ema.update(made)
        loss.item()

    return {"trainer": loop.next_step, "bare": bare, "close": within.close}


def cached_tasks(stages: Mapping[str, dict[str, Any]], clips: Path, run: Path) -> dict[str, Task]:
    """A step of the trainer on real clips for each stage by name; what a stage keeps is made before."""
    write_data_set(clips, CLIPS, 0)
    inputs = {"data": str(clips), "cache": None, "vae": None, "weights": None, "state": None}
    tasks: dict[str, Task] = {}
    for name, stage_json in stages.items():
        live = LiveStage(stage_json)
        stage, device = live.stage, torch.device("cpu")
        if stage.data.cache != "off":
            build_caches(stage, inputs, lambda *_, **__: None)
        torch.set_num_threads(1)
        caches = Caches(open_latents(stage, inputs, print), open_texts(stage, inputs, device, print))
        world, port = World(0, 1, 0, device, 1), Silent()
        opened = open_clips(stage, inputs, world, port, caches)
        loop = Loop(Attempt(live, "none", build_task(stage, inputs, opened, device, port), opened, world, port, run, 1))
        tasks[name] = loop.update.make
    return tasks


class Monitor:
    """Listens to a trainer as `stagewright attach` does, and counts the steps it is told of."""

    def __init__(self, control: str) -> None:
        self.steps, self.heard = 0, threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(control)
        for number, (method, params) in enumerate((("hello", {"protocol": PROTOCOL_VERSION}), ("subscribe", {}))):
            self._socket.sendall(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n")
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                self.steps += b'"event":"step"' in line
                self.heard.set()


def measure(bench: Bench) -> Iterator[Measured]:
    """The trainer against a bare loop, the monitor listening from here.

    Then the trainer with caches against the trainer without, and predictions.
    """
    yield from _steps(bench, stage_of_recipe(*ALONE, "data.cache=off"))
    stages = {name: stage_of_recipe(*settings) for name, settings in STAGES.items()}
    run = bench.scratch / "cached"
    run.mkdir()
    with contest(trainer=Contestant(cached_tasks, stages, bench.scratch / "clips", run)) as sides:
        series = tasks_in_turns(bench.rounds(12), sides["trainer"], {"ours": "cached", "reference": "uncached"})
    yield Measured(name="cached", series=walls(series), note=f"seconds; {cpu_note(series)}; text goes through the shipped encoder")
    yield from predictions(bench)


def _steps(bench: Bench, stage_json: dict[str, Any]) -> Iterator[Measured]:
    run = bench.scratch / "train"
    (run / "logs").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as short:
        control = str(Path(short) / "control.sock")
        with contest(trainer=Contestant(step_tasks, stage_json, run, control)) as sides:
            sides["trainer"].run("trainer")
            monitor = Monitor(control)
            series = tasks_in_turns(bench.rounds(160), sides["trainer"], {"ours": "trainer", "reference": "bare"})
            sides["trainer"].run("close")
    note = f"batch of {decode_stage(stage_json).batch.per_device}; the monitor heard of {monitor.steps} steps"
    cpu = {side: [each.cpu for each in rounds] for side, rounds in series.items()}
    yield Measured(name="step-cpu", series=cpu, note=f"seconds of processor time, {note}")
    yield Measured(name="step-wall", series=walls(series), note=f"seconds, {note}")


GROUP = Group(
    [
        Benchmark(
            name="step-cpu",
            what=f"a step of {RECIPE}, journal and monitor with it, against the bare step",
            figure="paired-ratio",
            goal=Goal("most", 1.01),
        ),
        Benchmark(name="step-wall", what="the same by the clock", figure="paired-ratio"),
        Benchmark(name="cached", what="a step of it with latents and captions kept, against decoding and encoding them"),
        *(
            Benchmark(
                name=f"predictor-{kind}",
                what=f"{what}, said by `plan --probe` against seen while training: the worst of {len(PREDICTED)} stages",
                figure="value",
                unit="%",
                goal=Goal("most", 15),
            )
            for kind, what in (("time", "seconds of a step"), ("memory", "memory of a process with a checkpoint in it"))
        ),
    ],
    measure,
)
