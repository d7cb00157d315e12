import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from osplan.data.annotations import read_entries
from osplan.data.check import check
from osplan.data.selection import Rules, choose, held_out_places, judge, select
from osplan.domain.errors import UserError

ROW = {"path": "a.mp4", "cap": "a cat", "num_frames": 40, "fps": 16, "resolution": {"height": 64, "width": 64}}


@pytest.fixture
def index_of(annotated):
    return lambda rows: read_entries(annotated([{**ROW, "path": f"{place}.mp4", **row} for place, row in enumerate(rows)]))


def test_each_rule_drops_its_own_clip(index_of, stage_with):
    rows = [
        {},
        {"cap": None},
        {"resolution": None},
        {"resolution": {"height": 64, "width": 300}},
        {"num_frames": 0},
        {"fps": 0},
        {"num_frames": 200},
        {"num_frames": 9},
    ]
    selection = choose(index_of(rows), stage_with())
    assert [chosen.entry.path[-5:] for chosen in selection.chosen] == ["0.mp4"]
    assert dict(selection.dropped) == dict.fromkeys(
        ("no-caption", "no-resolution", "aspect", "no-frame-count", "no-frame-rate", "too-long", "too-short"), 1
    )
    assert selection.examples["too-long"][0].endswith("6.mp4")


def test_an_autoencoder_needs_no_captions(index_of, stage_with):
    assert len(choose(index_of([{"cap": None}]), stage_with(kind="vae")).chosen) == 1


def test_an_emptied_data_set_names_the_rule_and_the_change(index_of, stage_with):
    with pytest.raises(UserError) as caught:
        choose(index_of([{}, {}]), stage_with(data={"minBucketBatches": 4}))
    assert caught.value.code == "DATA_EMPTY"
    assert "small-bucket 2" in caught.value.message
    assert "data.minBucketBatches" in caught.value.hint


def test_short_clips_are_dropped_by_a_chance_that_is_each_clips_own(index_of, stage_with):
    rules = Rules.of(stage_with(data={"dropShort": 0.5}))
    few, many = index_of([{"num_frames": 9}] * 100), index_of([{"num_frames": 9}] * 200)
    kept = judge(few.columns, rules).rule == 0
    assert 25 < np.count_nonzero(kept) < 75
    assert np.array_equal(judge(many.columns, rules).rule[:100] == 0, kept)


def test_faster_playback_takes_frames_further_apart(index_of, stage_with):
    chosen = choose(index_of([{"num_frames": 66, "fps": 32}]), stage_with(data={"speed": 1.5, "dropShort": 0})).chosen[0]
    assert chosen.every == 3
    assert chosen.resampled == 22


@pytest.mark.parametrize(
    ("row", "data", "shape", "setting", "value"),
    [
        ({"num_frames": 170}, {}, {}, "data.maxDurationRatio", 10.0),
        ({"num_frames": 9}, {"dropShort": 0, "minFrames": 17}, {}, "data.minFrames", 9),
        ({"num_frames": 9}, {}, {}, "data.dropShort", 0.0),
        ({}, {"minBucketBatches": 4}, {}, "data.minBucketBatches", 1),
        ({"resolution": {"height": 40, "width": 40}}, {}, {"fixed": False, "minPixels": 4096}, "shape.minPixels", 1024),
        ({"resolution": {"height": 20, "width": 40}}, {}, {"fixed": False, "minPixels": 1}, "shape.multipleOf", 16),
        ({"resolution": {"height": 64, "width": 200}}, {}, {}, "shape.height", 32),
    ],
)
def test_the_smallest_change_that_keeps_a_dropped_clip_is_named_and_does_keep_it(annotated, stage_with, row, data, shape, setting, value):
    path = annotated([{**ROW, **row}])
    stage = stage_with(data=data, shape=shape)
    dropped = check(str(path), stage, 1)["dropped"][0]
    assert (dropped["change"]["setting"], dropped["change"]["to"], dropped["change"]["keeps"]) == (setting, value, 1)
    section, name = setting.split(".")
    changes = {"data": dict(data), "shape": dict(shape)}
    changes[section][name] = dropped["change"]["to"]
    assert check(str(path), stage_with(**changes), 1)["kept"] == 1


def test_the_report_says_where_the_stage_ends_and_why(annotated, stage_with):
    path = annotated([{**ROW, "path": f"{place}.mp4"} for place in range(10)])
    report = check(str(path), stage_with(epochs=3, data={"heldOutClips": 3}, batch={"perDevice": 2}), 2)
    assert (report["training"], report["heldOut"], report["globalBatch"], report["stepsPerEpoch"], report["endsAt"]) == (7, 3, 4, 2, 6)
    assert report["endsBecause"] == "3 epochs of 2 steps are over before 1000 steps"
    assert report["buckets"] == [{"frames": 17, "height": 64, "width": 64, "clips": 7, "batches": 2, "repeated": 1}]


def test_held_out_clips_stay_when_clips_are_added(index_of, stage_with):
    rules = replace(Rules.of(stage_with()), seed=1)
    few, many = (select(index_of([{}] * count), rules).chosen for count in (40, 44))
    before = [few[place].entry.path for place in held_out_places(few, 6, 1)]
    after = [many[place].entry.path for place in held_out_places(many, 6, 1)]
    assert len(set(before) & set(after)) >= 4
    assert held_out_places(few, 6, 1) != held_out_places(few, 6, 2)


def test_a_check_of_metadata_imports_no_torch():
    asked = "import sys, osplan.data.check, osplan.domain.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], cwd=Path(__file__).parents[3] / "python", check=False).returncode == 0
