"""Complete stages, tiny networks and clips made of numbers for the tests of the trainer."""

import copy
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train.adapters import add_adapters
from osplan.train.architecture import transformer_config, vae_config
from osplan.train.assemble import stage_objective
from osplan.train.attempt import Attempt
from osplan.train.diffusion_task import DiffusionTask, Encoders
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.task import Batch
from osplan.train.text import Texts

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
COLOURS = ("red", "green", "blue")


class Recorder:
    """A port that keeps what the loop says and hands it commands at chosen steps."""

    listening = None
    is_blocked = False

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.acknowledged: list[tuple[str, int, str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.due: dict[int, list[dict[str, Any]]] = {}
        self.step = 0

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))
        if event == "step":
            self.step = fields["step"]

    def take(self) -> list[dict[str, Any]]:
        return self.due.pop(self.step, [])

    def end_unless_ours(self) -> None:
        pass

    def acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        self.acknowledged.append((command["name"], step, status, effective))
        self.commands.append({**command, "step": step, "status": status, "effective": effective})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]

    def losses(self) -> dict[int, float]:
        return {fields["step"]: fields["loss"] for fields in self.of("step")}


class Numbered:
    """Micro-batches of noise, each its own; `poisoned` ones are captioned so."""

    def __init__(self, stage: Any, poisoned: frozenset[int] = frozenset()) -> None:
        self.stage, self.poisoned, self.at = stage, poisoned, 0

    def take(self) -> Batch:
        batch = numbered_batch(self.stage, self.at, poisoned=self.at in self.poisoned)
        self.at += 1
        return batch

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.at = state["at"]


def numbered_batch(stage: Any, number: int, *, poisoned: bool = False) -> Batch:
    shape = (stage.batch.per_device, 3, stage.shape.frames, stage.shape.height, stage.shape.width)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    captions = ["poison" if poisoned else f"a {COLOURS[(number + row) % 3]} square" for row in range(len(pixels))]
    return Batch(pixels, captions, list(range(number * len(pixels), (number + 1) * len(pixels))), [f"clip-{number}.mp4"] * len(pixels))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def defaults() -> dict[str, Any]:
    """The default stage, as TypeScript writes it to stage.json."""
    script = "import { defaultStage } from './src/domain/stage/fields.ts'; console.log(JSON.stringify(defaultStage('tiny')))"
    command = ["node", "--import", "tsx", "--input-type=module", "-e", script]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.fixture
def stage_json(defaults: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """A tiny text-to-video stage of 20 steps; keyword arguments change whole sections."""

    def build(**sections: Any) -> dict[str, Any]:
        stage = copy.deepcopy(defaults)
        small: dict[str, Any] = {
            "steps": 20,
            "learningRate": 1e-3,
            "shape": {"frames": 5, "height": 32, "width": 32},
            "batch": {"perDevice": 2},
            "model": {"layers": 2, "heads": 1, "headDim": 24, "textChannels": 16, "sparseN": 2, "sparseBlocks": [1]},
            "vae": {
                "weights": "random", "latentChannels": 4, "baseChannels": 4, "encoderFlowChannels": 4, "decoderFlowChannels": 4,
                "residualBlocks": 1, "connectLayers": 1, "attention": False,
            },
            "text": {"maxLength": 8, "captionDropout": 0},
            "memory": {"precision": "fp32", "device": "cpu", "threads": 1},
            "checkpoint": {"everySteps": 1000},
            "data": {"heldOutClips": 0},
            "ema": {"decay": 0.9},
        }  # fmt: skip
        for changes in (small, sections):
            for name, change in changes.items():
                stage[name] = stage[name] | change if isinstance(change, dict) else change
        return stage

    return build


@pytest.fixture
def recorder() -> Recorder:
    """A port nobody reads but the test."""
    return Recorder()


@pytest.fixture
def loop_of(stage_json: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., tuple[Loop, Recorder]]:
    """A loop over a tiny transformer; `poisoned` micro-batches have a loss that is not a number."""

    def build(poisoned: frozenset[int] = frozenset(), held_out: int = 0, **sections: Any) -> tuple[Loop, Recorder]:
        live, recorder = LiveStage(stage_json(**sections)), Recorder()
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        task = task_of(live.stage, held_out)
        world = World(0, 1, 0, CPU, 1)
        return Loop(Attempt(live, "hash", task, Numbered(live.stage, poisoned), world, recorder, tmp_path, 1)), recorder

    return build


class Poisonable(Texts):
    """The shipped encoder, but the caption `poison` has states that are not numbers."""

    def __call__(self, captions: Any) -> Any:
        text = super().__call__(captions)
        for row, caption in enumerate(captions):
            if caption == "poison":
                text.states_B1LD[row] = float("nan")
        return text


def task_of(stage: Any, held_out: int = 0) -> DiffusionTask:
    torch.manual_seed(7)
    vae: Any = build_model(vae_config(stage)).eval().requires_grad_(False)
    config = transformer_config(stage)
    model = build_model(config)
    if stage.lora.rank is not None:
        add_adapters(model, stage.lora, 1)
    batches = [numbered_batch(stage, 1000 + number) for number in range(held_out)]
    return DiffusionTask(stage, model, config, Encoders(vae, Poisonable(stage, CPU)), stage_objective(stage), batches, CPU)
