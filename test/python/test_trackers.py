import json
import sys
import types

import pytest
from osplan.bridge import Bridge
from osplan.domain.errors import UserError
from osplan.trackers import EventFile, masked_crc, open_trackers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(entry.step, entry.value) for entry in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def step(number, loss):
    return {"step": number, "loss": loss, "learning_rate": 0.5, "gradient_norm": None, "seconds_per_step": 0.25, "extra": {"kl": 2.0}}


def test_checksums_are_those_of_rfc_3720():
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_tensorboard_reads_what_was_written_and_forgets_what_a_continued_run_does_again(tmp_path):
    first = EventFile(tmp_path, 1)
    first.write("started", 1.0, {"step": 0})
    for number in (1, 2, 3):
        first.write("step", 10.0 + number, step(number, number / 4))
    first.write("heldOut", 13.5, {"step": 3, "raw": {"loss": 0.5}, "ema": None})
    first.close()
    again = EventFile(tmp_path, 2)
    again.write("started", 20.0, {"step": 1})
    again.write("step", 21.0, step(2, 9.0))
    again.close()
    found = read(tmp_path)
    assert found["train/loss"] == [(1, 0.25), (2, 9.0)]
    assert found["train/learning_rate"][0] == (1, 0.5)
    assert found["extra/kl"] == [(1, 2.0), (2, 2.0)]
    assert found["held_out/raw"] == []
    assert "train/gradient_norm" not in found


def test_a_loss_that_is_no_number_or_too_large_is_written_as_such(tmp_path):
    file = EventFile(tmp_path, 1)
    for number, loss in enumerate((float("nan"), float("inf"), 1e300), start=1):
        file.write("step", 1.0, {"step": number, "loss": loss})
    file.close()
    values = [value for _, value in read(tmp_path)["train/loss"]]
    assert values[0] != values[0] and values[1:] == [float("inf"), float("inf")]


def test_a_tracker_whose_package_is_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="expected the package wandb"):
        open_trackers(["tensorboard", "wandb"], tmp_path, "id", 1, {})


def test_weights_and_biases_is_told_under_the_id_of_the_run(tmp_path, monkeypatch):
    told, begun = [], {}
    fake = types.SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **given: begun.update(given) or fake))
    (tracker,) = open_trackers(["wandb"], tmp_path, "run-1", 1, {"steps": 3})
    tracker.write("step", 1.0, {"step": 1, "loss": float("nan"), "learning_rate": 0.5})
    tracker.write("checkpoint", 1.0, {"step": 1})
    tracker.close()
    assert told == [(1, {"train/learning_rate": 0.5}), "finished"]
    assert begun["id"] == "run-1" and begun["resume"] == "allow" and begun["config"] == {"steps": 3}


def test_a_tracker_that_fails_is_left_and_the_journal_goes_on(tmp_path, capfd):
    class Failing:
        def write(self, event, ts, fields):
            raise OSError("no space")

        def flush(self): ...

        def close(self): ...

    bridge = Bridge(tmp_path, 1, str(tmp_path / "s"), "id")
    good = EventFile(tmp_path / "tensorboard", 1)
    bridge.track([Failing(), good])
    bridge.emit("step", **step(1, 0.5))
    bridge.emit("step", **step(2, 0.25))
    bridge.close()
    steps = [json.loads(line) for line in (tmp_path / "trainer.jsonl").read_text().splitlines() if '"step"' in line]
    assert [line["step"] for line in steps if line["event"] == "step"] == [1, 2]
    assert read(tmp_path / "tensorboard")["train/loss"] == [(1, 0.5), (2, 0.25)]
    assert "no space" in capfd.readouterr().err
