import faulthandler
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from osplan.train.stuck import SILENT, StuckClock, stacks_path

PYTHON = Path(__file__).parents[3] / "python"


def hang_in_a_disk():
    time.sleep(0.6)


def test_a_step_over_its_limit_has_the_stacks_of_all_ranks_dumped_and_said_once(tmp_path):
    said = []
    clock = StuckClock(tmp_path, 0, 2, lambda: 0.2, lambda *news: said.append(news))
    other = StuckClock(tmp_path, 1, 2, lambda: 0.2, lambda *news: said.append(news))
    for one in (clock, other):
        one.beat(7)
    hang_in_a_disk()
    clock.close()
    other.close()
    ((step, silent, limit, stacks),) = said
    assert (step, limit) == (7, 0.2) and silent > 0.2
    assert [entry["rank"] for entry in stacks] == [0, 1]
    assert all("hang_in_a_disk" in entry["at"] for entry in stacks)
    assert "step 8:" in stacks_path(tmp_path, 1).read_text() and "hang_in_a_disk" in stacks_path(tmp_path, 1).read_text()


def test_steps_within_the_limit_measurements_however_long_and_no_limit_leave_nothing(tmp_path):
    said = []
    for limit in (0.3, None):
        clock = StuckClock(tmp_path, 0, 1, lambda limit=limit: limit, lambda *news: said.append(news))
        for step in range(5):
            clock.beat(step)
            time.sleep(0.1)
        with clock.resting():
            time.sleep(0.5)
        clock.close()
    assert said == [] and not stacks_path(tmp_path, 0).exists()


STUCK = """
    import ctypes, json, os, sys
    from pathlib import Path
    from osplan.train.stuck import StuckClock
    run, rank = Path(sys.argv[1]), int(sys.argv[2])
    def say(step, silent, limit, stacks):
        (run / "said").write_text(json.dumps([step, limit, stacks]))
        os.rename(run / "said", run / "said.json")
    clock = StuckClock(run, rank, 2, lambda: 0.3, say, least_locked=0.6)
    clock.beat(7)
"""
SLEEPS_IN_C = """
    def sleeps_in_c():
        ctypes.CDLL(None).sleep(600)
    sleeps_in_c()
"""
HOLDS_THE_LOCK = """
    import time
    time.sleep(0.2)
    def holds_the_lock():
        ctypes.PyDLL(None).sleep(600)
    holds_the_lock()
"""
COLLECTIVE = """
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method=f"file://{run}/meeting", rank=rank, world_size=2)
    clock.beat(7)
    def waits_for_the_other():
        dist.all_reduce(torch.ones(1))
    def never_comes():
        ctypes.CDLL(None).sleep(600)
    waits_for_the_other() if rank == 0 else never_comes()
"""


@pytest.fixture
def stuck(tmp_path):
    """Starts ranks that never come back; all are ended with the test."""
    started = []

    def start(*programs):
        for rank, program in enumerate(programs):
            code = textwrap.dedent(STUCK) + textwrap.dedent(program)
            command = [sys.executable, "-c", code, str(tmp_path), str(rank)]
            started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PYTHON)}))

    yield start
    for process in started:
        process.kill()
        process.wait()


def come_to_be(path, text=""):
    """The text of a file once it is there and holds some words."""
    deadline = time.monotonic() + 60
    while not path.exists() or text not in path.read_text(errors="replace"):
        assert time.monotonic() < deadline, f"{path} never came to hold {text}"
        time.sleep(0.02)
    return path.read_text(errors="replace")


def test_a_rank_that_sleeps_in_c_for_ever_is_dumped_and_said(stuck, tmp_path):
    stuck(SLEEPS_IN_C, SLEEPS_IN_C)
    step, limit, stacks = json.loads(come_to_be(tmp_path / "said.json"))
    assert (step, limit) == (7, 0.3)
    assert [entry["rank"] for entry in stacks] == [0, 1] and all("sleeps_in_c" in entry["at"] for entry in stacks)


def test_a_rank_that_holds_pythons_lock_for_ever_is_dumped_and_named_by_the_first(stuck, tmp_path):
    stuck(SLEEPS_IN_C, HOLDS_THE_LOCK)
    _, _, stacks = json.loads(come_to_be(tmp_path / "said.json"))
    assert "sleeps_in_c" in stacks[0]["at"] and stacks[1]["at"].startswith(SILENT) and "holds_the_lock" in stacks[1]["at"]
    assert "in holds_the_lock" in come_to_be(stacks_path(tmp_path, 1), "in holds_the_lock")


def test_a_rank_that_writes_nothing_is_named_by_the_first(stuck, tmp_path):
    stuck(SLEEPS_IN_C)
    _, _, stacks = json.loads(come_to_be(tmp_path / "said.json"))
    assert (stacks[1]["rank"], stacks[1]["at"]) == (1, SILENT)


def test_a_collective_that_one_rank_never_joins_names_who_waits_and_who_does_not(stuck, tmp_path):
    stuck(COLLECTIVE, COLLECTIVE)
    come_to_be(stacks_path(tmp_path, 0), "in waits_for_the_other")
    assert "all_reduce" in stacks_path(tmp_path, 0).read_text()
    come_to_be(stacks_path(tmp_path, 1), "in never_comes")


def test_a_program_whose_threads_run_is_not_read_without_the_lock(tmp_path, monkeypatch):
    put_off = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, file: put_off.append(seconds))
    clock = StuckClock(tmp_path, 0, 1, lambda: 0.1, lambda *_: None, least_locked=0.2)
    hang_in_a_disk()
    clock.close()
    assert put_off and set(put_off) == {0.2} and len(put_off) > 3


def test_a_stuck_step_is_an_incident_and_the_run_goes_on(loop_of, defaults):
    loop, recorder = loop_of(steps=3, incidents={"watch": {**defaults["incidents"]["watch"], "stuckSeconds": 0.4}})
    take = loop.attempt.clips.take

    def slow():
        if loop.attempt.clips.at == 1:
            time.sleep(1.0)
        return take()

    loop.attempt.clips.take = slow
    assert loop.train().reason == "completed"
    incidents = [fields for fields in recorder.of("incident") if fields["step"] == 1]
    assert [(fields["kind"], fields["action"]) for fields in incidents] == [("stuck-rank", "dumped the stacks of all ranks")]
    assert "slow" in incidents[0]["stacks"][0]["at"]
