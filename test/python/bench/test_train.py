from pathlib import Path

import pytest

from bench.groups.train import STAGES, Monitor, cached_tasks, stage_of_recipe, step_tasks
from bench.predicted import STARTING, pairs_of


def test_both_loops_make_a_step_and_the_monitor_hears_of_the_trainers(tmp_path):
    stage = stage_of_recipe(*STAGES["uncached"], "batch.perDevice=1")
    control = str(tmp_path / "control.sock")
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    tasks = step_tasks(stage, run, control)
    monitor = Monitor(control)
    for name in ("trainer", "bare", "trainer", "close"):
        tasks[name]()
    while monitor.steps < 2:
        monitor.heard.clear()
        assert monitor.heard.wait(10) or monitor.steps == 2
    assert Path(run / "trainer.jsonl").read_text().count('"event":"step"') == 2


def test_a_step_with_and_without_a_cache_is_made_on_the_same_clips(tmp_path):
    stages = {name: stage_of_recipe(*settings, "batch.perDevice=2") for name, settings in STAGES.items()}
    tasks = cached_tasks(stages, tmp_path / "clips", tmp_path)
    for task in tasks.values():
        task()
    assert list(tasks) == ["uncached", "cached"]
    assert [folder.name.split("-")[0] for folder in sorted((tmp_path / "clips" / ".stagewright").glob("[lt]*-*"))] == ["latents", "text"]


def test_a_prediction_is_set_against_steps_after_the_first_and_memory_with_a_checkpoint_in_it():
    probe = {"seconds": {"perStep": 0.9}, "memory": {"process": 2**20, "measured": 2**20, "checkpoint": 2**20}}
    steps = [{"secondsPerStep": 9.0 if number < STARTING or number == 6 else 1.0, "memoryBytes": (number + 1) << 18} for number in range(8)]
    found = pairs_of(probe, steps)
    assert found["time"].ratio == pytest.approx(0.9)
    assert (found["memory"].said, found["memory"].seen) == (3.0, 2.0)
