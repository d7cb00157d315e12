"""What `stagewright plan --probe` says of stages before they train against what they then take, through the program itself."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.group import Bench, Measured
from osplan.data.synthetic import write_data_set

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "recipes" / "quickstart.yaml"
CLIPS = 24
STARTING = 4
"""Steps that are not counted: the first ones ask the system for memory that later ones find."""
SHORT = (
    "steps=24", "data.heldOutClips=0", "heldOut.everySteps=1000", "samples.everySteps=1000", "checkpoint.everySteps=12", "logEvery=1",
    "memory.device=cpu",
)  # fmt: skip
RANDOM_VAE = (
    "vae.weights=random", "vae.baseChannels=16", "vae.encoderFlowChannels=16", "vae.decoderFlowChannels=16", "vae.residualBlocks=1",
    "vae.connectLayers=1", "vae.attention=false", "data.cache=off", "samples.prompts=[]",
)  # fmt: skip
STAGES = {
    "autoencoder": ("vae", ()),
    "text-to-video": ("t2v-1", RANDOM_VAE),
    "two passes on one thread": ("t2v-1", (*RANDOM_VAE, "batch.perDevice=4", "batch.accumulate=2", "memory.threads=1")),
    "adapters": ("t2v-1", (*RANDOM_VAE, "batch.perDevice=4", "lora.rank=8", "model.layers=8", "model.heads=8", "model.headDim=48")),
}


@dataclass(frozen=True)
class Pair:
    """One number, before and after."""

    said: float
    seen: float

    @property
    def ratio(self) -> float:
        """Said over seen."""
        return self.said / self.seen


def predictions(bench: Bench) -> Iterator[Measured]:
    """The worst error over the stages, of time and of memory."""
    clips = bench.scratch / "predictor-clips"
    write_data_set(clips, CLIPS, 0)
    names = list(STAGES)[: bench.rounds(len(STAGES))]
    found = {name: _said_and_seen(bench.scratch / "predictor-runs" / str(place), clips, *STAGES[name]) for place, name in enumerate(names)}
    for kind, unit in (("time", "s"), ("memory", "MiB")):
        pairs = {name: pair[kind] for name, pair in found.items()}
        told = ", ".join(f"{name} {pair.said:.3g}/{pair.seen:.3g} {unit} ({pair.ratio:.2f}×)" for name, pair in pairs.items())
        worst = max(abs(pair.ratio - 1) for pair in pairs.values())
        yield Measured(name=f"predictor-{kind}", series={"ours": [100 * worst]}, note=f"said/seen: {told}")


def _said_and_seen(runs: Path, clips: Path, stage: str, settings: Sequence[str]) -> dict[str, Pair]:
    asked = [f"{RECIPE}#{stage}", "--data", str(clips), "--runs", str(runs)]
    asked += [part for setting in (*SHORT, *settings) for part in ("--set", setting)]
    probe = json.loads(_program("plan", *asked, "--probe", "--json"))["plans"][0]["probe"]
    _program("train", *asked)
    (journal,) = runs.glob("*/trainer.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    return pairs_of(probe, [event for event in events if event["event"] == "step"])


def pairs_of(probe: dict[str, Any], steps: Sequence[dict[str, Any]]) -> dict[str, Pair]:
    """Seconds of the median step and MiB, of a probe's answer and the steps of a journal. A checkpoint's time is not foretold."""
    memory = probe["memory"]
    said = memory["process"] + memory["measured"] + memory["checkpoint"]
    seen = max(step["memoryBytes"] for step in steps)
    return {
        "time": Pair(probe["seconds"]["perStep"], median(step["secondsPerStep"] for step in steps[STARTING:])),
        "memory": Pair(said / 2**20, seen / 2**20),
    }


def _program(*arguments: str) -> str:
    command = ["node", str(ROOT / "bin" / "stagewright.mjs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
