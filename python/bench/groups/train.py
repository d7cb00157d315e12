"""What the trainer adds to a step: its journal, its metrics, a monitor on its socket, against the bare step of the same networks.

The stage is the quickstart's first text-to-video stage, on clips of noise.
"""

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.group import Bench, Benchmark, Goal, Group, Measured
from bench.worker import Contestant, Task, contest, in_turns, walls
from osplan.bridge import Bridge, Silent
from osplan.domain.protocol import PROTOCOL_VERSION
from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train.architecture import transformer_config, vae_config
from osplan.train.assemble import stage_objective
from osplan.train.attempt import Attempt
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.optimizer import gradient_norm, scale_gradients
from osplan.train.task import Batch, MicroBatch
from osplan.train.text import Texts

ROOT = Path(__file__).parents[3]
STEPS = 2
"""Steps of a round."""
RECIPE = "configs/recipes/quickstart.yaml#t2v-1"


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


def stage_of_recipe() -> dict[str, Any]:
    """The complete stage, as the program resolves it, on this machine's processor."""
    command = ["node", str(ROOT / "bin" / "stagewright.mjs"), "config", "show", str(ROOT / RECIPE), "--json", "--set", "memory.device=cpu"]
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


def trainer_tasks(stage_json: dict[str, Any], run: Path, control: str) -> dict[str, Task]:
    """`steps` of the trainer with its journal and whoever listens."""
    loop = Loop(attempt_of(stage_json, run, Bridge(run, 1, control, "bench")))

    def steps() -> None:
        for _ in range(STEPS):
            loop.commands.apply()
            loop.update.make()

    return {"steps": steps}


def bare_tasks(stage_json: dict[str, Any], run: Path) -> dict[str, Task]:
    """`steps` of the same networks, losses and optimiser in a plain loop."""
    loop = Loop(attempt_of(stage_json, run, Silent()))
    attempt, trained = loop.attempt, loop.trained
    made = 0

    def steps() -> None:
        nonlocal made
        for _ in range(STEPS):
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

    return {"steps": steps}


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
    """Both loops in processes of their own; the monitor listens from here."""
    stage_json = stage_of_recipe()
    stage = decode_stage(stage_json)
    run = bench.scratch / "train"
    run.mkdir()
    with tempfile.TemporaryDirectory() as short:
        control = str(Path(short) / "control.sock")
        sides = {"ours": Contestant(trainer_tasks, stage_json, run, control), "reference": Contestant(bare_tasks, stage_json, run)}
        with contest(**sides):
            sides["ours"].run("steps")
            monitor = Monitor(control)
            series = in_turns(bench.rounds(10), sides, "steps")
    note = f"of {STEPS} steps, batch of {stage.batch.per_device}; the monitor heard of {monitor.steps} steps"
    cpu = {side: [each.cpu for each in rounds] for side, rounds in series.items()}
    yield Measured(name="step-cpu", series=cpu, note=f"seconds of processor time {note}")
    yield Measured(name="step-wall", series=walls(series), note=f"seconds {note}")


GROUP = Group(
    [
        Benchmark(name="step-cpu", what=f"a step of {RECIPE}, journal and monitor with it, against the bare step", goal=Goal("most", 1.01)),
        Benchmark(name="step-wall", what="the same by the clock"),
    ],
    measure,
)
