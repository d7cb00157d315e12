import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from osplan.domain.errors import UserError
from osplan.domain.stage import Checkpoint as Retention
from osplan.train import checkpoint as module
from osplan.train.checkpoint import (
    OPTIMIZER,
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    folder_of,
    latest_checkpoint,
    prune,
    read_checkpoint,
    read_manifest,
)
from osplan.train.spread_state import read_state, start_writing

OPTIMIZED = {"exp_avg/a": torch.ones(2, 3), "step/a": torch.tensor(3.0)}


def write_checkpoint(run, content):
    temporary = begin_checkpoint(run, content.step, 1000)
    return complete_checkpoint(run, temporary, content, start_writing(OPTIMIZED, temporary / "state" / OPTIMIZER, None), 1000)


def keep(last, best=0, every=None, ends=False):
    return Retention(every_steps=1, every_minutes=None, keep_last=last, keep_best=best, keep_every_steps=every, keep_ends=ends)


def checkpoint(step, loss=None):
    weights = {"a": torch.full((2, 3), float(step)), "b": torch.arange(4.0) + step}
    return Checkpoint(
        step=step, attempt=1, config={"_class_name": "X"}, model=weights, ema={name: value / 2 for name, value in weights.items()},
        extra={"discriminator": {"w": torch.zeros(1)}},
        ranks=({"torch": torch.arange(8, dtype=torch.uint8)}, {"torch": torch.zeros(8, dtype=torch.uint8)}),
        state={"bestLoss": float("inf"), "clips": {"at": step}},
        held_out=None if loss is None else {"raw": {"loss": 9.0}, "ema": {"loss": loss}},
        stage_hash="h",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def test_what_is_written_is_read_back(run):
    written = write_checkpoint(run, checkpoint(5, 0.5))
    found = read_checkpoint(written.path, 1)
    assert found.step == 5 and found.state["clips"] == {"at": 5} and found.state["bestLoss"] == {"$f": "inf"}
    assert torch.equal(found.model["b"], torch.arange(4.0) + 5)
    assert found.ema is not None and torch.equal(found.ema["a"], torch.full((2, 3), 2.5))
    optimized = read_state(found.state_folder, {"a": torch.zeros(2, 3)})
    assert optimized.keys() == OPTIMIZED.keys() and all(torch.equal(optimized[name], value) for name, value in OPTIMIZED.items())
    assert optimized["step/a"].dim() == 0 and list(found.extra) == ["discriminator"]
    assert found.rank is not None and torch.equal(found.rank["torch"], torch.zeros(8, dtype=torch.uint8))
    assert read_checkpoint(written.path, 7).rank is None


def test_an_older_checkpoint_with_its_optimiser_in_one_file_is_read(run):
    written = write_checkpoint(run, checkpoint(5))
    state = written.path / "state"
    save_file({"exp_avg/a": torch.full((2, 3), 7.0), "step/a": torch.tensor(2.0)}, state / "optimizer.safetensors")
    optimized = read_state(state, {})
    assert optimized["exp_avg/a"][0, 0] == 7 and optimized["step/a"] == 2


COPIES = """
import resource, sys
from pathlib import Path
import torch
from osplan.train.spread_state import start_writing
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start_writing({"exp_avg/small": torch.ones(4)}, Path(sys.argv[1]) / "first", None).result()
state = {f"exp_avg/{number}": torch.ones(4, 1 << 20) for number in range(8)}
before = peak()
start_writing(state, Path(sys.argv[1]) / "second", None).result()
print((peak() - before) / sum(value.nbytes for value in state.values()))
"""


def test_an_optimiser_is_held_once_more_while_it_is_written_and_no_oftener(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "python")}
    done = subprocess.run(
        [sys.executable, "-c", COPIES, tmp_path], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) < 1.5


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_anything_is_written(run):
    write_checkpoint(run, checkpoint(1))
    with pytest.raises(UserError, match="expected room for"):
        begin_checkpoint(run, 2, 1 << 60)
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-00000001"]


def test_the_manifest_holds_the_hash_that_is_handed_on(run):
    written = write_checkpoint(run, checkpoint(5))
    manifest = read_manifest(written.path)
    assert manifest is not None
    assert written.sha256 == manifest["files"]["model_ema/diffusion_pytorch_model.safetensors"]["sha256"]
    assert written.bytes == sum(entry["bytes"] for entry in manifest["files"].values())


def test_a_changed_byte_is_found(run):
    path = write_checkpoint(run, checkpoint(5)).path / "model" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="CHECKPOINT_DAMAGED"):
        read_checkpoint(folder_of(run, 5), 0)


def test_a_shortened_or_unfinished_checkpoint_is_passed_over(run):
    for step in (1, 2, 3):
        write_checkpoint(run, checkpoint(step))
    (folder_of(run, 3) / "manifest.json").unlink()
    weights = folder_of(run, 2) / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert latest_checkpoint(run) == folder_of(run, 1)
    with pytest.raises(UserError, match="CHECKPOINT_DAMAGED"):
        read_checkpoint(folder_of(run, 2), 0)


def test_another_format_is_refused(run):
    path = write_checkpoint(run, checkpoint(1)).path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "formatVersion": 2}))
    with pytest.raises(UserError, match="FORMAT_VERSION"):
        latest_checkpoint(run)


def test_the_newest_and_the_best_are_kept(run):
    for step, loss in ((1, 0.4), (2, 0.1), (3, 0.1), (4, None), (5, float("nan")), (6, 0.9)):
        write_checkpoint(run, checkpoint(step, loss))
    gone = prune(run, keep(last=2, best=1))
    assert [folder.name[-1] for folder in gone] == ["1", "3", "4"]
    assert sorted(folder.name[-1] for folder in (run / "checkpoints").iterdir()) == ["2", "5", "6"]
    assert prune(run, keep(last=None)) == []


def test_ends_and_every_so_many_steps_are_kept_for_good(run):
    for step in range(1, 9):
        write_checkpoint(run, replace(checkpoint(step), is_end=step in (2, 5)))
    prune(run, keep(last=1, every=3))
    assert sorted(folder.name[-1] for folder in (run / "checkpoints").iterdir()) == ["3", "6", "8"]
    for step in (2, 5, 7):
        write_checkpoint(run, replace(checkpoint(step), is_end=step in (2, 5)))
    prune(run, keep(last=1, ends=True))
    assert sorted(folder.name[-1] for folder in (run / "checkpoints").iterdir()) == ["2", "5", "8"]


def test_a_full_disk_leaves_the_old_ones_and_no_remains(run, monkeypatch):
    write_checkpoint(run, checkpoint(1))
    save, calls = module._save, []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, tensors)

    monkeypatch.setattr(module, "_save", full)
    with pytest.raises(UserError, match="DISK_FULL"):
        write_checkpoint(run, checkpoint(2))
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-00000001"]
    assert read_checkpoint(folder_of(run, 1), 0).step == 1


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_one_replaces_another_of_the_same_step_loses_neither_for_good(run, monkeypatch, at):
    write_checkpoint(run, checkpoint(1))
    rename, calls = module.os.rename, []

    def killed(*names):
        calls.append(names)
        if len(calls) == at:
            raise KeyboardInterrupt
        rename(*names)

    monkeypatch.setattr(module.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(run, replace(checkpoint(1), attempt=2))
    monkeypatch.undo()
    assert latest_checkpoint(run) == folder_of(run, 1)
    assert read_checkpoint(folder_of(run, 1), 0).step == 1
    write_checkpoint(run, checkpoint(1))
    write_checkpoint(run, checkpoint(2))
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
