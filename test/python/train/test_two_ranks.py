import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osplan.data.synthetic import write_data_set
from osplan.train.assemble import train_attempt
from osplan.train.checkpoint import folder_of, latest_checkpoint, read_manifest

PYTHON = Path(__file__).parents[3] / "python"
MODEL = {"layers": 2, "heads": 2, "headDim": 12, "textChannels": 16, "sparseN": 2, "sparseBlocks": [1]}
SHARDED = {"processes": 2, "strategy": "fsdp2"}
SHARED = {"processes": 2, "sequence": 2}


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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "osplan"]
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
        {"parallel": {"strategy": "fsdp2"}, "memory": {"offload": True, "checkpointing": "selective"}},
        {
            "parallel": {"strategy": "fsdp2"},
            "memory": {"checkpointing": "all"},
            "trainable": ["all", "-blocks[0]"],
            "phases": [{"at": 2, "trainable": ["all"], "rewarmSteps": 0}],
        },
    ],
    ids=["text-to-video", "vae", "within a machine", "host memory", "phases"],
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
@pytest.mark.parametrize("at", ["mid-epoch", "checkpoint"])
def test_two_ranks_killed_at_once_go_on_bit_for_bit(runs, at):
    sections = {
        "steps": 12,
        "parallel": SHARDED,
        "batch": {"perDevice": 1, "accumulate": 1},
        "data": {"workers": 2},
        "checkpoint": {"everySteps": 1 if at == "checkpoint" else 4, "keepLast": 2},
    }
    expected = train(runs("unbroken", **sections), 2)
    folder = runs("killed", **sections)
    process = subprocess.Popen(**launcher(folder, 2, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not is_time(folder, at) and time.monotonic() < deadline:
        time.sleep(0.002)
    pids = next(line for line in journal(folder) if line["event"] == "ready")["pids"]
    for pid in (*pids, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    before = losses(folder)
    assert 0 < len(before) < 12
    after = train(folder, 2, 2)
    assert after == expected and before == {step: loss for step, loss in expected.items() if step in before}


def is_time(folder, at):
    """Six steps are done, or the third checkpoint is being written."""
    if not (folder / "trainer.jsonl").is_file():
        return False
    if at == "mid-epoch":
        return len(losses(folder)) >= 6
    return len(losses(folder)) >= 3 and any((folder / "checkpoints").glob(".step-*.tmp"))
