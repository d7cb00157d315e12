import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osplan.data.synthetic import write_data_set

PYTHON = Path(__file__).parents[3] / "python"


def trained(folder: Path, stage: dict, clips: Path, ranks: int, command: dict | None = None) -> list[dict]:
    """The journal of a run of some ranks; a command is there before it starts."""
    for name in ("checkpoints", "logs", "samples", "commands"):
        (folder / name).mkdir(parents=True)
    if command is not None:
        (folder / "commands" / f"{command['id']}.json").write_text(json.dumps(command))
    identity = {
        "formatVersion": 1,
        "id": folder.name,
        "socket": "",
        "inputs": {"data": str(clips), "weights": None, "vae": None, "state": None},
    }
    (folder / "run.json").write_text(json.dumps(identity))
    (folder / "stage.json").write_text(json.dumps(stage))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "osplan"]
    done = subprocess.run(
        [*launcher, "train", str(folder), "--attempt", "1"],
        env={**os.environ, "PYTHONPATH": str(PYTHON), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = [json.loads(line) for line in (folder / "trainer.jsonl").read_text().splitlines()]
    failed = [line["message"] for line in lines if line["event"] == "failed"]
    assert (done.returncode, failed) == (0, []), done.stderr[-2000:]
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"text": {"captionDropout": 0.5}},
        {
            "kind": "vae",
            "vae": {"weights": None},
            "objective": {"name": "reconstruction", "adversarialWeight": 0.5},
            "data": {"cropSize": 32, "crop": "random"},
        },
    ],
    ids=["text-to-video", "vae"],
)
def test_two_ranks_train_as_one_rank_that_accumulates_twice(stage_json, tmp_path, sections):
    write_data_set(tmp_path / "clips", 8, 3)
    data = {"fps": 8, "workers": 1, "heldOutClips": 0, **sections.get("data", {})}
    common = {"steps": 6, "batch": {"perDevice": 2, "accumulate": 1}, **sections, "data": data}
    two = trained(tmp_path / "two", stage_json(**common), tmp_path / "clips", ranks=2)
    one = trained(tmp_path / "one", stage_json(**common | {"batch": {"perDevice": 2, "accumulate": 2}}), tmp_path / "clips", ranks=1)
    losses = [{line["step"]: line["loss"] for line in lines if line["event"] == "step"} for lines in (two, one)]
    assert list(losses[0]) == [1, 2, 3, 4, 5, 6]
    assert next(line for line in two if line["event"] == "ready")["worldSize"] == 2
    assert losses[0] == {step: pytest.approx(loss, rel=1e-5) for step, loss in losses[1].items()}


@pytest.mark.slow
def test_a_poisoned_learning_rate_is_undone_on_both_ranks_and_a_stuck_rank_is_named(stage_json, defaults, tmp_path):
    write_data_set(tmp_path / "clips", 8, 3)
    watch = {**defaults["incidents"]["watch"], "stuckSeconds": 0.001}
    stage = stage_json(
        steps=6, batch={"perDevice": 2, "accumulate": 1}, data={"fps": 8, "workers": 1, "heldOutClips": 0},
        incidents={"policy": "rollback", "watch": watch},
    )  # fmt: skip
    poison = {"id": "poison", "name": "set", "path": "learningRate", "value": 1e30}
    lines = trained(tmp_path / "two", stage, tmp_path / "clips", ranks=2, command=poison)
    incidents = [line for line in lines if line["event"] == "incident"]
    acted = [line for line in incidents if line["kind"] == "non-finite"]
    assert [line["rolledBackTo"] for line in acted] == [0] and acted[0]["undone"] == {"learningRate": [1e30, 1e-3]}
    assert len(acted[0]["clips"]) == 4
    assert lines[-1]["event"] == "finished" and lines[-1]["reason"] == "completed"
    stuck = next(line for line in incidents if line["kind"] == "stuck-rank")
    assert [entry["rank"] for entry in stuck["stacks"]] == [0, 1]
    assert (tmp_path / "two" / "logs" / "rank-1.stacks.txt").read_text().count("Thread") > 1
