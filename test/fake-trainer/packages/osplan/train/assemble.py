"""A loop that trains nothing: steps of a few milliseconds whose loss is 1 / step, checkpoints of some bytes, the commands.

FAKE_TRAINER holds JSON: `stepMs`; `withoutSocket`, a socket that nobody can reach; `startMs`, the time before the first word;
`dies: {step, how}` in attempt `diesInAttempt`, where how is one of the names in `die`.
"""

import hashlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.protocol import PROTOCOL_VERSION
from osplan.domain.run_files import read_stage

BEHAVIOUR = {"stepMs": 5, "startMs": 0, "dies": None, "diesInAttempt": 1, **json.loads(os.environ.get("FAKE_TRAINER", "{}"))}
DRAINED_SECONDS = 0.15
"""The bridge has written everything by then."""


def train_attempt(run: Path, identity: dict[str, Any], attempt: int, port: Any) -> SimpleNamespace:
    """Rank 0 trains; the others end with it."""
    if os.environ["RANK"] != "0":
        return follow_first(run, attempt)
    try:
        return FakeLoop(run, identity, attempt, port).train()
    finally:
        (run / "derived" / f"done-{attempt}").touch()


def follow_first(run: Path, attempt: int) -> SimpleNamespace:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    parent, dies = os.getppid(), BEHAVIOUR["dies"]
    while os.getppid() == parent and not (run / "derived" / f"done-{attempt}").exists():
        if dies and dies["how"] == "rank" and (run / "checkpoints").exists():
            raise UserError("OUT_OF_MEMORY", "rank 1 asked for 3 GiB", "lower batch.perDevice")
        time.sleep(0.01)
    return end("completed", "the first rank is done", 0)


def end(reason: str, message: str, step: int) -> SimpleNamespace:
    return SimpleNamespace(reason=reason, message=message, step=step)


class FakeLoop:
    """What the real loop says and obeys, without a model."""

    def __init__(self, run: Path, identity: dict[str, Any], attempt: int, port: Any) -> None:
        self.run, self.attempt, self.port = run, attempt, port
        self.stage = read_stage(run)[0]
        # A cluster may start an attempt again.
        (run / "derived" / f"done-{attempt}").unlink(missing_ok=True)
        time.sleep(BEHAVIOUR["startMs"] / 1000)
        if BEHAVIOUR.get("withoutSocket"):
            Path(identity["socket"]).unlink()
        self.step = max([0, *(int(folder.parent.name[5:]) for folder in (run / "checkpoints").glob("step-*/manifest.json"))])
        self.steps, self.rate = self.stage["steps"], self.stage["learningRate"]
        self.stop_at, self.requested = sys.maxsize, set()

    def train(self) -> SimpleNamespace:
        port = self.port
        port.emit(
            "ready", protocol=PROTOCOL_VERSION, world_size=int(os.environ["WORLD_SIZE"]), pids=[os.getpid()], host=os.uname().nodename,
            device="cpu", torch="none", threads=1, socket=port.listening,
        )  # fmt: skip
        port.emit("model", parameters=10, trainable=10, groups=[])
        port.emit("data", clips=4, held_out=1, dropped={}, steps_per_epoch=2, ends_at=self.steps, ends_because="steps")
        port.emit("started", step=self.step, steps=self.steps)
        while True:
            for command in port.take():
                self.apply(command)
            reason = self.reason()
            if reason is not None:
                self.checkpoint()
                return reason
            self.die()
            time.sleep(BEHAVIOUR["stepMs"] / 1000)
            self.step += 1
            loss = float("nan") if self.step == 7 else 1 / self.step
            port.emit("step", step=self.step, loss=loss, learning_rate=self.rate, gradient_norm=1.0, seconds_per_step=0.005)
            self.measure()
            if self.step % (self.stage["checkpoint"]["everySteps"] or sys.maxsize) == 0:
                self.checkpoint()

    def apply(self, command: dict[str, Any]) -> None:
        if command["name"] == "set":
            value = command["value"]
            if not isinstance(value, float | int):
                self.port.acknowledge(command, self.step + 1, "refused", None, "expected a number")
                return
            if command["path"] == "learningRate":
                self.rate = value
            if command["path"] == "steps":
                self.steps = value
            self.port.acknowledge(command, self.step + 1, "applied", value)
            return
        if command.get("after") is not None:
            self.stop_at = command["after"]
        else:
            self.requested.add(command["name"])
        if not command.get("silent"):
            self.port.acknowledge(command, self.step + 1, "applied", {"step": self.step})

    def measure(self) -> None:
        """A held-out loss that a learning rate of 1e-3 and few frozen parts make least, at the stage's steps and its end."""
        every = self.stage["heldOut"]["everySteps"] or sys.maxsize
        if self.stage["data"]["heldOutClips"] == 0 or (self.step % every != 0 and self.step < self.steps):
            return
        off = abs(math.log10(self.rate) + 3) + 0.1 * (len(self.stage["trainable"]) - 1) + 0.01 * (self.stage["seed"] or 0)
        loss = float("nan") if self.rate > BEHAVIOUR.get("nanAbove", 1e9) else off + 1 / self.step
        value = {"loss": loss, "standardError": 0.01}
        self.port.emit("heldOut", step=self.step, raw=value, ema=value if self.stage["ema"]["enabled"] else None)

    def reason(self) -> SimpleNamespace | None:
        after = f"after step {self.step}"
        if "stop" in self.requested or self.step >= self.stop_at:
            return end("stopped", f"stopped by request {after}", self.step)
        if "pause" in self.requested:
            return end("paused", f"paused {after}", self.step)
        if "signal" in self.requested:
            return end("killed", f"the launcher ended the trainer {after}; a checkpoint was written", self.step)
        if self.step >= self.steps:
            return end("completed", f"all {self.steps} steps are done", self.step)
        return None

    def die(self) -> None:
        dies = BEHAVIOUR["dies"]
        if not dies or self.step + 1 != dies["step"] or self.attempt != BEHAVIOUR["diesInAttempt"]:
            return
        time.sleep(DRAINED_SECONDS)
        print(f"about to {dies['how']} before step {dies['step']}", flush=True)
        match dies["how"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "torn":
                with open(self.run / "trainer.jsonl", "a") as journal:
                    journal.write('{"seq":99,"ts":1,"attempt":1,"event":"st')
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "fail":
                raise UserError("SHAPE_FRAMES", "expected 1 + 4k frames, got 64", "use 61")
            case "memory":
                raise MemoryError("3 GiB")
            case "bug":
                raise ZeroDivisionError("division by zero")
            case "hang":
                while True:
                    time.sleep(60)

    def checkpoint(self) -> None:
        folder = self.run / "checkpoints" / f"step-{self.step:08d}"
        if folder.exists():
            return
        files = {}
        for part in ("model", "model_ema") if self.stage["ema"]["enabled"] else ("model",):
            content = f"{part} at {self.step}".encode()
            path = folder / part / "diffusion_pytorch_model.safetensors"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            files[str(path.relative_to(folder))] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        loss = {"loss": 1 / max(1, self.step)}
        held_out = {"raw": loss, "ema": loss if self.stage["ema"]["enabled"] else None}
        manifest = {
            "formatVersion": 1, "step": self.step, "attempt": self.attempt, "stageHash": "none", "heldOut": held_out, "files": files,
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
        sha256 = next(reversed(files.values()))["sha256"]
        self.port.emit("checkpoint", step=self.step, path=f"checkpoints/{folder.name}", bytes=1, sha256=sha256, seconds=0.0)
