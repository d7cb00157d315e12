import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from osplan.train.stuck import StuckClock, stacks_path

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


def test_a_hang_that_holds_pythons_lock_is_dumped_too(tmp_path):
    program = """
        import ctypes, sys
        from pathlib import Path
        from osplan.train.stuck import StuckClock
        clock = StuckClock(Path(sys.argv[1]), 0, 1, lambda: 0.2, lambda *_: None)
        import time
        time.sleep(0.1)
        clock.beat(1)
        def holds_the_lock():
            ctypes.PyDLL(None).usleep(900_000)
        holds_the_lock()
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(PYTHON)},
        check=True,
        timeout=60,
    )
    assert "holds_the_lock" in stacks_path(tmp_path, 0).read_text()


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
