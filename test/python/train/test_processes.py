import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osplan.data.synthetic import write_data_set
from osplan.train.assemble import train_attempt
from osplan.train.checkpoint import folder_of, latest_checkpoint, read_manifest
from osplan.train.spread_state import read_state

PYTHON = Path(__file__).parents[3] / "python"
MODEL = {"layers": 2, "heads": 2, "headDim": 12, "textChannels": 16, "sparseN": 2, "sparseBlocks": [1]}
SHARDED = {"processes": 2, "strategy": "fsdp2"}
SHARED = {"processes": 2, "sequence": 2}
PHASED = {"phases": [{"at": 12, "trainable": ["all"], "rewarmSteps": 2}]}


@pytest.fixture
def runs(stage_json, tmp_path):
    """Makes run folders of stages of one accumulated global batch of four clips."""
    write_data_set(tmp_path / "clips", 8, 3)

    def make(name, **sections):
        folder = tmp_path / name
        for part in ("checkpoints", "logs", "samples", "commands"):
            (folder / part).mkdir(parents=True)
        inputs = {"data": str(tmp_path / "clips"), "weights": None, "vae": None, "state": None}
        (folder / "run.json").write_text(json.dumps({"formatVersion": 1, "id": name, "socket": "", "inputs": inputs}))
        data = {"fps": 8, "workers": 1, "heldOutClips": 0, **sections.get("data", {})}
        common = {"steps": 4, "model": MODEL, "batch": {"perDevice": 2, "accumulate": 2}, "text": {"captionDropout": 0.5}}
        (folder / "stage.json").write_text(json.dumps(stage_json(**common | sections | {"data": data})))
        return folder

    return make


def launcher(folder, ranks, attempt):
    together = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    command = [sys.executable, "-m", *together, "osplan"]
    return {
        "args": [*command, "train", str(folder), "--attempt", str(attempt)],
        "env": {**os.environ, "PYTHONPATH": str(PYTHON), "OMP_NUM_THREADS": "1"},
    }


def train(folder, ranks, attempt=1):
    """Losses by step of an attempt of some ranks."""
    done = subprocess.run(**launcher(folder, ranks, attempt), capture_output=True, text=True, timeout=180, check=False)
    failed = [line["message"] for line in journal(folder) if line["event"] == "failed"]
    assert (done.returncode, failed) == (0, []), done.stderr[-2000:]
    return losses(folder)


def journal(folder):
    lines = []
    if not (folder / "trainer.jsonl").is_file():
        return lines
    for line in (folder / "trainer.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def losses(folder):
    return {line["step"]: line["loss"] for line in journal(folder) if line["event"] == "step"}


def train_here(folder, recorder):
    """The same with this process as the only rank."""
    train_attempt(folder, json.loads((folder / "run.json").read_text()), 1, recorder)
    return recorder.losses()


def about(expected):
    return {step: pytest.approx(loss, rel=1e-5) for step, loss in expected.items()}


def test_two_ranks_that_share_the_weights_train_as_one_that_has_them_all(runs, recorder):
    expected = train_here(runs("one"), recorder)
    two = runs("two", parallel=SHARDED, batch={"perDevice": 2, "accumulate": 1})
    assert train(two, 2) == about(expected)
    files = read_manifest(folder_of(two, 4))["files"]
    assert sum(name.startswith("state/optimizer/") for name in files) == 2


def test_two_ranks_that_share_each_clip_train_as_one_that_has_it_all(runs, recorder):
    # 3 × 3 × 3 patches: the last rank has one token of padding.
    shape = {"frames": 9, "height": 48, "width": 48}
    expected = train_here(runs("one", shape=shape), recorder)
    assert train(runs("two", shape=shape, parallel=SHARED), 2) == about(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {
            "kind": "vae",
            "vae": {"weights": None},
            "objective": {"name": "reconstruction", "adversarialWeight": 0.5},
            "data": {"cropSize": 32, "crop": "random"},
        },
        {"parallel": {"strategy": "hsdp"}},
        {"parallel": {"strategy": "fsdp2"}, "kind": "lora", "lora": {"rank": 4}},
        {"parallel": {"strategy": "fsdp2"}, "memory": {"offload": True, "checkpointing": "selective"}},
        {
            "parallel": {"strategy": "fsdp2"},
            "memory": {"checkpointing": "all"},
            "trainable": ["all", "-blocks[0]"],
            "phases": [{"at": 2, "trainable": ["all"], "rewarmSteps": 0}],
        },
    ],
    ids=["text-to-video", "vae", "within a machine", "adapters", "host memory", "phases"],
)
def test_two_ranks_train_as_one_rank_that_accumulates_twice(runs, sections):
    held_out = {"data": {**sections.get("data", {}), "heldOutClips": 2}, "heldOut": {"everySteps": 2, "draws": 1}}
    two = {**sections, "parallel": {"processes": 2, **sections.get("parallel", {})}, "batch": {"perDevice": 2, "accumulate": 1}}
    one = {**sections, "parallel": {}, "memory": {**sections.get("memory", {}), "offload": False}}
    folders = runs("two", **two | held_out), runs("one", **one | held_out)
    got, expected = train(folders[0], 2), train(folders[1], 1)
    assert list(got) == [1, 2, 3, 4] and got == about(expected)
    measured = [[line["ema"]["loss"] for line in journal(folder) if line["event"] == "heldOut"] for folder in folders]
    assert len(measured[0]) == 3 and measured[0] == [pytest.approx(loss, rel=1e-5) for loss in measured[1]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_poisoned_learning_rate_is_undone_on_both_ranks_and_a_stuck_rank_is_named(runs, defaults, strategy):
    watch = {**defaults["incidents"]["watch"], "stuckSeconds": 0.001}
    folder = runs(
        "two",
        steps=6,
        batch={"perDevice": 2, "accumulate": 1},
        parallel={"processes": 2, "strategy": strategy},
        incidents={"policy": "rollback", "watch": watch},
    )
    poison = {"id": "poison", "name": "set", "path": "learningRate", "value": 1e30}
    (folder / "commands" / "poison.json").write_text(json.dumps(poison))
    train(folder, 2)
    lines = journal(folder)
    incidents = [line for line in lines if line["event"] == "incident"]
    acted = [line for line in incidents if line["kind"] == "non-finite"]
    assert [line["rolledBackTo"] for line in acted] == [0] and acted[0]["undone"] == {"learningRate": [1e30, 1e-3]}
    assert len(acted[0]["clips"]) == 4 and len(set(acted[0]["clips"])) == 4
    assert acted[0]["overflows"]["transformer_blocks.0"] > 0
    assert lines[-1]["event"] == "finished" and lines[-1]["reason"] == "completed"
    stuck = next(line for line in incidents if line["kind"] == "stuck-rank")
    assert [entry["rank"] for entry in stuck["stacks"]] == [0, 1]
    assert (folder / "logs" / "rank-1.stacks.txt").read_text().count("Thread") > 1


@pytest.mark.slow
def test_a_stopped_rank_is_named_by_the_one_that_waits_for_it_and_the_run_goes_on_with_it(runs, defaults):
    folder = runs(
        "two",
        batch={"perDevice": 2, "accumulate": 1},
        parallel={"processes": 2},
        incidents={"watch": {**defaults["incidents"]["watch"], "stuckSeconds": 3}},
    )
    process = subprocess.Popen(**launcher(folder, 2, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(losses(folder)) >= 2)
    other = next(line for line in journal(folder) if line["event"] == "ready")["pids"][1]
    os.kill(other, signal.SIGSTOP)
    try:
        wait_for(lambda: any(line["event"] == "incident" for line in journal(folder)))
    finally:
        os.kill(other, signal.SIGCONT)
    assert process.wait(timeout=120) == 0
    stuck = next(line for line in journal(folder) if line["event"] == "incident")
    assert stuck["kind"] == "stuck-rank" and stuck["action"] == "dumped the stacks of all ranks but 1: no Python runs there"
    assert [stack["rank"] for stack in stuck["stacks"]] == [0, 1] and "loop.py" in (folder / stuck["stacks"][0]["file"]).read_text()
    assert list(losses(folder)) == [1, 2, 3, 4]


def wait_for(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_two_ranks_that_share_clips_and_weights_train_as_one(runs):
    assert train(runs("two", parallel={**SHARED, "strategy": "fsdp2"}), 2) == about(train(runs("one"), 1))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_goes_on_with_another_number_of_ranks_and_the_same_global_batch(runs, strategy):
    sections = {"steps": 6, "parallel": {"processes": 2, "strategy": strategy}, "batch": {"perDevice": 2, "accumulate": 1}}
    expected = train(runs("unbroken", **sections), 2)
    folder = runs("changed", **sections)
    stage = json.loads((folder / "stage.json").read_text())
    for attempt, (ranks, steps) in enumerate(((2, 2), (1, 4), (2, 6)), start=1):
        (folder / "stage.json").write_text(json.dumps({**stage, "steps": steps}))
        train(folder, ranks, attempt)
        assert latest_checkpoint(folder) == folder_of(folder, steps)
    assert losses(folder) == about(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp2")])
def test_a_full_file_system_holds_all_ranks_until_there_is_room(runs, tmp_path, ranks, strategy):
    sections = {
        "steps": 8,
        "batch": {"perDevice": 2, "accumulate": 1},
        "parallel": {"processes": ranks, "strategy": strategy},
        "checkpoint": {"everySteps": 1, "keepLast": 2},
    }
    expected = train(runs("unbroken", **sections), ranks)
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        folder = runs("small", **sections)
        process = subprocess.Popen(**launcher(folder, ranks, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(losses(folder)) >= 2)
        with contextlib.suppress(OSError), open(small / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        wait_for(lambda: any(line["event"] == "diskFull" for line in journal(folder)))
        held = latest_checkpoint(folder)
        assert process.poll() is None and held is not None and len(losses(folder)) < 8
        (small / "ballast").unlink()
        assert process.wait(timeout=120) == 0
        assert losses(folder) == expected and latest_checkpoint(folder) == folder_of(folder, 8)
        assert not list((folder / "checkpoints").glob(".*"))
    finally:
        subprocess.run(["umount", "-l", small], check=True)


GAME = {"name": "reconstruction", "adversarialWeight": 0.5}
AUTOENCODER = {"kind": "vae", "vae": {"weights": None}, "data": {"cropSize": 32, "crop": "random", "flip": 0.5}}
KINDS = {
    "v-prediction": {"objective": {"name": "v-prediction", "zeroTerminalSnr": True, "snrGamma": 5}, "data": {"flip": 0.5}},
    "epsilon": {"objective": {"name": "epsilon"}, "clip": {"mode": "zclip"}},
    "rectified-flow": {"objective": {"name": "rectified-flow", "times": "logit-normal"}, "trainable": ["all", "-blocks[0]"], **PHASED},
    "autoencoder": {**AUTOENCODER, "objective": {"name": "reconstruction"}},
    "adversarial": {**AUTOENCODER, "objective": GAME},
    "inpaint": {"kind": "inpaint", "model": {**MODEL, "class": "OpenSoraInpaint_v1_3"}},
    "adapters": {"kind": "lora", "lora": {"rank": 4}},
    "joint images": {"data": {"imagesPerClip": 2, "imagesFromClips": True}},
    "caches": {"data": {"cache": "latents-and-text"}},
    "fp16": {"memory": {"precision": "fp16"}},
    "mixed shapes": {"shape": {"fixed": False, "maxPixels": 1024, "minPixels": 256}, "data": {"groupByShape": False}},
}
ON_TWO = {
    "ddp": {"parallel": {"processes": 2}},
    "ddp, adversarial": {**AUTOENCODER, "objective": GAME, "parallel": {"processes": 2}},
    "ddp, adapters": {"kind": "lora", "lora": {"rank": 4}, "parallel": {"processes": 2}},
    "fsdp2": {"parallel": SHARDED},
    "fsdp2, adapters": {"kind": "lora", "lora": {"rank": 4}, "parallel": SHARDED},
    "sequence": {"parallel": SHARED},
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranks"), [*((name, 1) for name in KINDS), *((name, 2) for name in ON_TWO)])
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_an_unbroken_one(runs, name, ranks):
    sections = (KINDS if ranks == 1 else ON_TWO)[name]
    common = {"steps": 24, "batch": {"perDevice": 1, "accumulate": 2}, "checkpoint": {"everySteps": 3, "keepLast": 2}}
    data = {"workers": 2, **sections.get("data", {})}
    unbroken, killed = (runs(folder, **common | sections | {"data": data}) for folder in ("unbroken", "killed"))
    expected, draws = train(unbroken, ranks), random.Random(seed := int(os.environ.get("KILL_SEED", time.time_ns())))
    kills = int(os.environ.get("KILLS", 3))
    print(f"KILL_SEED={seed}")
    for attempt in range(1, kills + 1):
        kill_at_random(killed, ranks, attempt, draws)
    got = train(killed, ranks, kills + 1)
    assert got == expected and every_loss(killed) == set(expected.items())
    assert end_state(killed) == end_state(unbroken)


def kill_at_random(folder, ranks, attempt, draws):
    """Kills launcher and ranks some steps on, or while a checkpoint is written; workers follow by themselves."""
    done = max(losses(folder), default=0)
    process = subprocess.Popen(**launcher(folder, ranks, attempt), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, in_checkpoint = min(done + draws.randint(1, 6), 23), draws.random() < 0.5
    wait_for(
        lambda: (
            process.poll() is not None
            or (max(losses(folder), default=0) >= after and (not in_checkpoint or any((folder / "checkpoints").glob(".step-*.tmp"))))
        )
    )
    time.sleep(draws.random() * 0.05)
    pids = [line for line in journal(folder) if line["event"] == "ready" and line["attempt"] == attempt][-1]["pids"]
    for pid in {*pids, process.pid}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def every_loss(folder):
    """Step and loss of every step of every attempt."""
    return {(line["step"], line["loss"]) for line in journal(folder) if line["event"] == "step"}


def end_state(folder):
    """Hashes of everything the last checkpoint holds as tensors. Which rank has written which of the optimiser's is no matter."""
    last = latest_checkpoint(folder)
    assert last is not None
    files = read_manifest(last)["files"]
    hashes = {name: entry["sha256"] for name, entry in files.items() if not name.startswith("state/optimizer/") and name[-5:] != ".json"}
    optimizer = read_state(last / "state", {})
    return hashes | {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in optimizer.items()}
