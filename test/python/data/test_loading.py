import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from osplan.data import decoders as decoders_module
from osplan.data.annotations import read_entries
from osplan.data.decode_check import decode_report
from osplan.data.decoders import Decoders
from osplan.data.decoding import CENTRE, ClipError, Wanted, pixels_of
from osplan.data.loading import ClipReader, TrainingLoader
from osplan.data.order import ClipOrder
from osplan.data.selection import choose
from osplan.domain.errors import UserError


def loader_of(folder, stage, rank=0, ranks=1, reports=None):
    chosen = choose(read_entries(folder), stage).chosen
    global_batch = stage.batch.per_device * stage.batch.accumulate * ranks
    order = ClipOrder(chosen.buckets, global_batch, stage.data.seed)
    return TrainingLoader(
        ClipReader(chosen, stage), order, stage, rank, ranks, lambda *skip: (reports if reports is not None else []).append(skip)
    )


def same(one, other):
    return all(
        a.caption == b.caption and a.path == b.path and torch.equal(a.pixels_CTHW, b.pixels_CTHW) for a, b in zip(one, other, strict=True)
    )


def test_batches_do_not_depend_on_the_number_of_workers(clips, stage_with):
    taken = {}
    for workers in (0, 2):
        loader = loader_of(clips, stage_with(data={"workers": workers, "flip": 0.5, "crop": "random"}, batch={"perDevice": 2}))
        taken[workers] = [loader.take() for _ in range(7)]
    assert all(same(one, other) for one, other in zip(taken[0], taken[2], strict=True))
    assert taken[0][0][0].pixels_CTHW.shape == (3, 17, 64, 64)
    assert taken[0][0][0].pixels_CTHW.dtype == torch.uint8


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_going_on_from_a_position_gives_the_batches_of_never_having_stopped(clips, stage_with, steps):
    stage = stage_with(batch={"perDevice": 1, "accumulate": 2}, data={"flip": 0.5})
    loader = loader_of(clips, stage)
    for _ in range(2 * steps):
        loader.take()
    state = loader.state()
    expected = [loader.take() for _ in range(6)]
    restored = loader_of(clips, stage)
    restored.restore(state)
    assert all(same(restored.take(), batch) for batch in expected)


def test_two_ranks_see_together_what_one_sees(clips, stage_with):
    alone = loader_of(clips, stage_with(batch={"perDevice": 1, "accumulate": 4}))
    pair = [loader_of(clips, stage_with(batch={"perDevice": 2, "accumulate": 1}), rank, 2) for rank in range(2)]
    for _ in range(3):
        one = [sample for _ in range(4) for sample in alone.take()]
        two = [sample for loader in pair for sample in loader.take()]
        assert same(one, two)


def test_another_global_batch_is_refused(clips, stage_with):
    state = loader_of(clips, stage_with()).state()
    with pytest.raises(UserError, match="global batch of 1"):
        loader_of(clips, stage_with(batch={"perDevice": 2})).restore(state)


def test_the_epochs_of_a_stage_end(clips, stage_with):
    loader = loader_of(clips, stage_with(epochs=2, batch={"perDevice": 3}))
    for _ in range(6):
        loader.take()
    with pytest.raises(StopIteration):
        loader.take()


@pytest.fixture
def damaged(clips, tmp_path):
    """Nine clips, of which two are cut off."""
    folder = tmp_path / "damaged"
    shutil.copytree(clips, folder)
    broken = sorted((folder / "clips").glob("*.mp4"))[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder, [str(path) for path in broken]


def test_damaged_clips_are_replaced_counted_and_named_once(damaged, stage_with):
    folder, broken = damaged
    reports = []
    loader = loader_of(folder, stage_with(data={"maxSkippedShare": 0.5}), reports=reports)
    taken = [sample.path for _ in range(18) for sample in loader.take()]
    assert len(taken) == 18
    assert not set(taken) & set(broken)
    assert sorted(path for path, _, _ in reports) == broken
    assert sorted(loader.state()["skipped"]) == broken
    assert loader.state()["read"] == 18


def test_skips_do_not_change_what_follows_a_restart(damaged, stage_with):
    folder, _ = damaged
    stage = stage_with(data={"maxSkippedShare": 0.5})
    loader = loader_of(folder, stage)
    for _ in range(11):
        loader.take()
    restored = loader_of(folder, stage)
    restored.restore(loader.state())
    assert all(same(restored.take(), loader.take()) for _ in range(9))
    assert restored.state() == loader.state()


def test_too_many_damaged_clips_stop_the_run(damaged, stage_with):
    loader = loader_of(damaged[0], stage_with())
    with pytest.raises(UserError, match="clips could not be decoded, limit 5%; last: ") as caught:
        for _ in range(200):
            loader.take()
    assert caught.value.code == "CLIPS_DAMAGED"
    assert loader.reader.skips.read + loader.reader.skips.failures == 100


def test_the_decode_check_names_every_damaged_clip(damaged, stage_with):
    said = []
    report = decode_report(str(damaged[0]), stage_with(), lambda event, **fields: said.append((event, fields["clips"])))
    assert sorted(clip["path"] for clip in report["damaged"]) == damaged[1]
    assert report["read"] == 9
    assert said[0] == ("decoding", 9)


def test_the_decode_check_gives_a_hanging_clip_its_time_and_goes_on(clips, stage_with, tmp_path):
    folder = tmp_path / "hanging"
    shutil.copytree(clips, folder)
    hanging = sorted((folder / "clips").glob("*.mp4"))[0]
    hanging.unlink()
    os.mkfifo(hanging)
    report = decode_report(str(folder), stage_with(data={"decodeTimeoutSeconds": 1.0}))
    assert str(hanging) in [clip["path"] for clip in report["damaged"] if "hangs" in clip["problem"]]


def wanted_from(path, places=(0, 1)):
    return Wanted(str(path), places, None, 32, 32, None, CENTRE)


def test_a_decoder_that_hangs_is_killed_in_time_and_the_next_clip_is_read(clips, tmp_path):
    pipe = tmp_path / "never.mp4"
    os.mkfifo(pipe)
    decoders = Decoders(1, 5.0)
    good = wanted_from(next((clips / "clips").glob("*.mp4")))
    decoders.decode(good)
    decoders.deadline_seconds = 0.5
    before = time.monotonic()
    with pytest.raises(ClipError, match="hangs"):
        decoders.decode(wanted_from(pipe))
    assert time.monotonic() - before < 3
    decoders.deadline_seconds = 5.0
    assert torch.equal(decoders.decode(good), pixels_of(good, 5.0))
    decoders.close()


def test_a_decoder_that_dies_costs_one_clip(clips, monkeypatch):
    decoders = Decoders(1, 5.0)
    good = wanted_from(next((clips / "clips").glob("*.mp4")))
    started = []
    original = decoders_module.Decoder
    monkeypatch.setattr(decoders_module, "Decoder", lambda: started.append(original()) or started[-1])
    decoders.decode(good)
    os.kill(started[0].process_id, signal.SIGKILL)
    with pytest.raises(ClipError, match="crashed"):
        decoders.decode(good)
    assert decoders.decode(good).shape == (3, 2, 32, 32)
    decoders.close()


def test_decoding_processes_end_with_their_parent(clips):
    script = (
        "import os, sys\nfrom osplan.data.decoders import Decoders\nfrom osplan.data.decoding import Wanted\n"
        "d = Decoders(1, 9.0)\nd.decode(Wanted(sys.argv[1], (0,), None, 32, 32, None, (0.5, 0.5)))\n"
        "print(next(iter(d._running)).process_id, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    path = str(next((clips / "clips").glob("*.mp4")))
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=os.path.dirname(decoders_module.__file__) + "/../..",
    )
    child = int(done.stdout)
    for _ in range(100):
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the decoding process is still there")


def scored(clips, tmp_path):
    """The clips with a high aesthetic score."""
    folder = tmp_path / "scored"
    shutil.copytree(clips, folder)
    for file in folder.rglob("annotation.json"):
        file.write_text(json.dumps([{**row, "aesthetic": 6.5} for row in json.loads(file.read_text())]))
    return folder


def test_sentences_on_quality_are_drawn_anew_each_epoch_and_the_same_after_a_restart(clips, stage_with, tmp_path):
    folder, stage = scored(clips, tmp_path), stage_with(text={"aestheticPhrases": True})
    loader = loader_of(folder, stage)
    first = [loader.take()[0] for _ in range(9)]
    state = loader.state()
    second = [loader.take()[0] for _ in range(9)]
    restored = loader_of(folder, stage)
    restored.restore(state)
    assert [restored.take()[0].caption for _ in range(9)] == [sample.caption for sample in second]
    plain = {sample.path: sample.caption for sample in (loader_of(clips, stage).take()[0] for _ in range(1))}
    assert not any(caption in {sample.caption for sample in first} for caption in plain.values())
    captions = {sample.path: sample.caption for sample in first}
    assert any(captions[sample.path] != sample.caption for sample in second)
    without = loader_of(folder, stage_with(text={"aestheticPhrases": False}))
    assert all("moves" in without.take()[0].caption and "video" not in without.take()[0].caption for _ in range(4))


def test_threads_that_read_clips_spread_no_tensor_operation_over_cores(clips, stage_with):
    def beside_python() -> int:
        return len(os.listdir("/proc/self/task")) - threading.active_count()

    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 20).clone()
        before = beside_python()
        # Clips of more numbers than one thread copies alone.
        loader = loader_of(clips, stage_with(data={"workers": 1}, shape={"height": 128, "width": 128}))
        loader.take()
        loader.finish_ahead()
        assert beside_python() == before
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(cores)


def test_a_thread_that_waits_for_others_gives_its_core_away_soon():
    program = "from osplan.__main__ import main; main(['check']); import torch"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("GOMP_SPINCOUNT", None)
    shown = subprocess.run([sys.executable, "-c", program], input='{"stages": []}', capture_output=True, text=True, env=environment)
    assert "GOMP_SPINCOUNT = '5000'" in shown.stderr
