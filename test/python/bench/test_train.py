from pathlib import Path

from bench.groups.train import STEPS, Monitor, bare_tasks, stage_of_recipe, trainer_tasks


def test_both_loops_make_the_same_steps_and_the_monitor_hears_of_each(tmp_path):
    stage = stage_of_recipe()
    stage["batch"]["perDevice"] = 1
    control = str(tmp_path / "control.sock")
    run = tmp_path / "run"
    run.mkdir()
    ours, bare = trainer_tasks(stage, run, control), bare_tasks(stage, run)
    monitor = Monitor(control)
    ours["steps"]()
    bare["steps"]()
    while monitor.steps < STEPS:
        monitor.heard.clear()
        assert monitor.heard.wait(10) or monitor.steps == STEPS
    assert Path(run / "trainer.jsonl").read_text().count('"event":"step"') == STEPS
