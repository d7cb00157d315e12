import csv
import json
import os

import numpy as np
import pytest

from osplan.data import columns as columns_module
from osplan.data.annotations import open_index, read_entries
from osplan.data.check import check, write_list_of
from osplan.domain.errors import UserError

ROW = {"path": "a.mp4", "cap": "a cat", "num_frames": 40, "fps": 24, "resolution": {"height": 64, "width": 96}}


def refused(path):
    with pytest.raises(UserError) as caught:
        read_entries(path)
    return caught.value


def test_an_entry_has_what_its_annotation_says(annotated, tmp_path):
    row = {**ROW, "path": "in/a.mp4", "cap": ["one", "zwei ü"], "aes": 5.9, "cut": [7, 47], "crop": [2, 90, 4, 60]}
    entry = read_entries(annotated([ROW, row]))[1]
    assert entry.path == str(tmp_path / "in/a.mp4")
    assert entry.captions == ("one", "zwei ü")
    assert entry.has_caption_list
    assert (entry.height, entry.width, entry.frames, entry.fps) == (64, 96, 40, 24)
    assert (entry.aesthetic, entry.first_frame, entry.crop) == (5.9, 7, (2, 90, 4, 60))


def test_an_image_is_a_clip_of_one_frame_and_a_missing_rate_is_24(annotated):
    index = read_entries(annotated([{"path": "a.jpg", "cap": "x", "num_frames": 9}, {"path": "b.mp4", "num_frames": 9}]))
    assert (index[0].frames, index[1].fps, index[1].captions) == (1, 24, ())


def test_json_lines_and_tables_say_the_same_as_json(annotated, tmp_path):
    expected = list(read_entries(annotated([ROW, ROW])))
    assert list(read_entries(annotated("\n".join(json.dumps(ROW) for _ in range(2)), "rows.jsonl"))) == expected
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "cap", "num_frames", "fps", "height", "width"])
        writer.writerows([["a.mp4", "a cat", 40, 24, 64, 96]] * 2)
    assert list(read_entries(tmp_path / "rows.csv")) == expected


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"num_frames": "40"}, "num_frames", 'a whole number of at least 0, got "40"'),
        ({"num_frames": 4.5}, "num_frames", "a whole number of at least 0, got 4.5"),
        ({"num_frames": -1}, "num_frames", "a whole number of at least 0, got -1"),
        ({"num_frames": True}, "num_frames", "a whole number of at least 0, got true"),
        ({"fps": "fast"}, "fps", 'a number, got "fast"'),
        ({"resolution": [64, 96]}, "resolution", "{height, width}, got [64, 96]"),
        ({"resolution": {"height": None, "width": "w"}}, "resolution.width", 'at least 0, got "w"'),
        ({"cap": 7}, "cap", "a caption or a list of captions, got 7"),
        ({"cap": ["a", 7]}, "cap", 'a list of captions, got ["a", 7]'),
        ({"cut": [9, 3]}, "cut", "[start, end] with start < end, got [9, 3]"),
        ({"crop": [0, 1]}, "crop", "got [0, 1]"),
        ({"path": ""}, "path", 'a file name, got ""'),
        ({"path": "a.txt"}, "path", "a video"),
    ],
)
def test_a_wrong_field_is_refused_with_file_line_field_and_value(annotated, change, field, expected):
    path = annotated(json.dumps([ROW, {**ROW, **change}], indent=1))
    problem = refused(path)
    lines = len(json.dumps([ROW], indent=1).splitlines())
    assert problem.code == "DATA_INVALID"
    assert f"{path}:{lines} entry 2, {field}: expected " in problem.message
    assert expected in problem.message


@pytest.mark.parametrize("path", ["../a.mp4", "in/../../a.mp4", "/elsewhere/a.mp4"])
def test_a_path_may_not_leave_its_root(annotated, path):
    problem = refused(annotated([{**ROW, "path": path}]))
    assert problem.code == "DATA_PATH"
    assert path in problem.message


def test_a_path_that_stays_inside_is_taken_as_it_is_meant(annotated, tmp_path):
    rows = [{**ROW, "path": path} for path in ("in/../a.mp4", str(tmp_path / "b.mp4"), "a..b.mp4")]
    assert [os.path.relpath(entry.path, tmp_path) for entry in read_entries(annotated(rows))] == ["a.mp4", "b.mp4", "a..b.mp4"]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2", '[{"path": "a.mp4"}, {"path" "b.mp4"}]', '[{"path": "a.mp4", "fps": NaN}]', "[] x"])
def test_what_is_not_a_list_of_entries_is_refused_by_file_and_line(annotated, text):
    path = annotated(text)
    problem = refused(path)
    assert problem.code == "DATA_INVALID"
    assert problem.message.startswith(f"{path}:1")


def test_a_broken_line_is_named(annotated):
    path = annotated(json.dumps(ROW) + "\n\n{broken\n", "rows.jsonl")
    assert refused(path).message.startswith(f"{path}:3: expected a JSON object")


def test_captions_that_look_like_json_do_not_break_reading_in_pieces(annotated, monkeypatch):
    monkeypatch.setattr(columns_module, "CHUNK_BYTES", 8)
    rows = [{**ROW, "cap": f'}}, {{"path": {number}}}, {{ \\" ]'} for number in range(50)]
    assert [entry.captions[0] for entry in read_entries(annotated(rows))] == [row["cap"] for row in rows]


def test_the_index_on_disk_is_the_one_in_memory_and_is_built_once(annotated, tmp_path, monkeypatch):
    path = annotated([ROW, {**ROW, "path": "b.mp4", "cap": None}])
    built = open_index(path, tmp_path / "derived")
    monkeypatch.setattr("osplan.data.annotations._build", lambda *_: pytest.fail("built again"))
    opened = open_index(path, tmp_path / "derived")
    assert list(built) == list(opened) == list(read_entries(path))
    assert isinstance(opened.columns["frames"], np.memmap)


def test_a_changed_annotation_gets_a_new_index(annotated, tmp_path):
    open_index(annotated([ROW]), tmp_path / "derived")
    assert len(open_index(annotated([ROW, ROW]), tmp_path / "derived")) == 2


def test_a_failed_build_leaves_nothing_behind(annotated, tmp_path):
    with pytest.raises(UserError):
        open_index(annotated([{**ROW, "fps": "x"}]), tmp_path / "derived")
    assert [path.name for path in (tmp_path / "derived").iterdir()] == ["index.lock"]


def test_a_list_file_names_its_wrong_line(annotated):
    path = annotated("a,annotation.json\nno comma\n", "list.txt")
    (path.parent / "annotation.json").write_text("[]")
    assert refused(path).message.startswith(f"{path}:2: expected `root,annotation.json`, got `no comma`")
    path.write_text("a,missing.json\n")
    assert refused(path).code == "DATA_MISSING"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"path,cap\na.mp4,\xff\n", "a.csv:2: expected a table, got bytes that are not UTF-8 text"),
        ("a.csv", b'path,cap\na.mp4,x\nb.mp4,"open\n', "a.csv:3: expected a table, got unexpected end of data"),
        ("a.csv", b"path,cap\na.mp4," + b"x" * 200_000, "a.csv:2: expected a table, got field larger than field limit (131072)"),
        ("a.json", b"[" * 100_000, "a.json:1: expected JSON, got brackets nested hundreds deep"),
        ("a.json", b'{"path": 1}', 'a.json:1: expected a list of entries, got {"path": 1}'),
        ("a.json", b"\0\xff", "a.json:1: expected a list of entries, got ·\ufffd"),
        ("a.jsonl", b'{"path": "a.mp4"}\n{"path": "\xff"}\n', "a.jsonl:2: expected a JSON object, got str is not valid UTF-8"),
        ("list.txt", b"a,b.json\n\xfc\n", "list.txt:2: expected `root,annotation.json` lines, got bytes that are not UTF-8 text"),
    ],
)
def test_a_damaged_annotation_is_refused_where_it_is_damaged(tmp_path, name, content, expected):
    if name == "list.txt":
        (tmp_path / "b.json").write_text("[]")
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name)
    assert error.code == "DATA_INVALID"
    assert error.message.startswith(f"{tmp_path}/{expected}")


def test_a_pickle_is_refused(annotated):
    annotated("", "evil.pkl")
    assert "could run code" in refused(annotated(".,evil.pkl", "list.txt")).message


def test_a_folder_is_measured_and_init_writes_the_same(clips, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for source in sorted((clips / "clips").glob("*.mp4"))[:2]:
        (folder / source.name).write_bytes(source.read_bytes())
        (folder / source.with_suffix(".txt").name).write_text("ein Bild \n")
    (folder / "broken.mp4").write_bytes(b"no video")
    measured = [entry for entry in read_entries(folder) if entry.frames]
    assert [(entry.frames, entry.fps, entry.height, entry.width, entry.captions) for entry in measured] == [
        (33, 16, 128, 128, ("ein Bild",))
    ] * 2
    report = write_list_of(str(folder))
    assert (report["entries"], report["unreadable"]) == (2, ["broken.mp4"])
    assert list(read_entries(folder)) == measured


def test_a_file_of_a_plain_folder_that_is_no_video_is_counted_and_named(clips, tmp_path, stage_with):
    first = sorted((clips / "clips").glob("*.mp4"))[0]
    (tmp_path / "good.mp4").write_bytes(first.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name in ("good.txt", "broken.txt"):
        (tmp_path / name).write_text("a clip")
    report = check(str(tmp_path), stage_with(data={"fps": 8}, shape={"frames": 5}), world=1)
    assert (report["entries"], report["kept"]) == (2, 1)
    assert [(dropped["rule"], dropped["examples"]) for dropped in report["dropped"]] == [("no-resolution", [str(tmp_path / "broken.mp4")])]


def test_captions_of_a_folder_are_text_without_a_mark_and_an_empty_one_is_none(clips, tmp_path):
    first = sorted((clips / "clips").glob("*.mp4"))[0]
    for name, caption in {"a": b"\xef\xbb\xbfa word\r\n", "b": b" \n", "c": b"latin \xe9"}.items():
        (tmp_path / f"{name}.mp4").write_bytes(first.read_bytes())
        (tmp_path / f"{name}.txt").write_bytes(caption)
    assert refused(tmp_path).message == f"{tmp_path}/c.txt: expected a caption in UTF-8, got byte 0xe9 at 6"
    (tmp_path / "c.mp4").unlink()
    assert [entry.captions for entry in read_entries(tmp_path)] == [("a word",), ()]


def test_a_folder_without_clips_is_refused(tmp_path):
    assert refused(tmp_path).code == "DATA_EMPTY"
    assert refused(tmp_path / "nowhere").code == "DATA_MISSING"
