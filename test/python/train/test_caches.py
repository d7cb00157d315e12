import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from osplan.data import tensor_store
from osplan.data.annotations import read_entries
from osplan.data.latents import latent_coverage
from osplan.data.selection import choose
from osplan.data.synthetic import write_data_set
from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.parallel.world import World
from osplan.train import text
from osplan.train.assemble import build_task
from osplan.train.cache_build import build_caches
from osplan.train.caches import Caches, cache_state, derived_folder, open_latents, open_texts
from osplan.train.clips import open_clips, split
from osplan.train.task import MicroBatch

PYTHON = Path(__file__).parents[3] / "python"
CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU, 1)


@pytest.fixture(scope="session")
def some_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_data_set(folder, 6, 3)
    return folder


@pytest.fixture
def clips(some_clips, tmp_path):
    shutil.copytree(some_clips, tmp_path / "clips")
    return tmp_path / "clips"


@pytest.fixture
def whole_clips(stage_json):
    """A stage whose clips are as long as the files: with and without a cache it sees the same frames."""

    def build(**data):
        return decode_stage(stage_json(shape={"frames": 33, "height": 32, "width": 32}, data={"fps": 16, "workers": 0, **data}))

    return build


def inputs_of(clips, cache=None):
    return {"data": str(clips), "cache": cache, "vae": None, "weights": None, "state": None}


def trained(stage, inputs, recorder, steps=6, problems=None):
    """Losses of some micro-batches, the encodings made for them, and the cache that was left."""
    met = [] if problems is None else problems
    caches = Caches(open_latents(stage, inputs, met.append), open_texts(stage, inputs, CPU, met.append))
    clips = open_clips(stage, inputs, ALONE, recorder, caches)
    task = build_task(stage, inputs, clips, CPU, recorder)
    made = []
    encode = task.encoders.vae.encode
    task.encoders.vae.encode = lambda video: made.append(len(video)) or encode(video)
    losses = [task.losses(stage, task.model, clips.take(), MicroBatch(step, 0, 0, 1)).loss.item() for step in range(1, steps + 1)]
    caches.close()
    assert met == [] or problems is not None
    return losses, sum(made), caches.latents


class Port:
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def emit(self, event, **fields):
        self.said.append((event, fields))


def test_losses_with_an_empty_a_filling_and_a_full_cache_are_those_without(clips, whole_clips):
    inputs, settings = inputs_of(clips), {"cacheVariants": 1}
    without, encoded, _ = trained(whole_clips(cache="off"), inputs, Port())
    first, made, cache = trained(whole_clips(cache="latents", **settings), inputs, Port())
    assert first == without
    assert encoded == 12
    assert made == 6
    again, made, _ = trained(whole_clips(cache="latents", **settings), inputs, Port())
    assert again == without
    assert made == 0
    assert cache.store.folder.parent == clips / ".stagewright"
    assert len(list(cache.store.folder.glob("*.safetensors"))) == 1


def test_what_is_kept_are_moments_so_that_every_step_draws_its_own_sample(clips, whole_clips):
    stage = whole_clips(cache="latents")
    _, _, cache = trained(stage, inputs_of(clips), Port())
    (name, *_) = cache.store.names()
    assert cache.find(name).shape == (2 * stage.vae.latent_channels, 9, 4, 4)


def test_a_full_cache_needs_no_pixels_and_a_half_full_one_only_those_it_lacks(clips, whole_clips):
    stage = whole_clips(cache="latents")
    trained(stage, inputs_of(clips), Port(), steps=1)
    mixed, made, _ = trained(stage, inputs_of(clips), Port(), steps=3)
    assert made == 4
    latents = open_latents(stage, inputs_of(clips), print)
    loader = open_clips(stage, inputs_of(clips), ALONE, Port(), Caches(latents))
    assert all(loader.take().pixels_BCTHW.is_meta for _ in range(3))
    without, _, _ = trained(whole_clips(cache="off"), inputs_of(clips), Port(), steps=3)
    assert mixed == without


def test_views_are_kept_apart(clips, whole_clips):
    stage = whole_clips(cache="latents", cacheVariants=3, crop="random", flip=0.5)
    first, made, cache = trained(stage, inputs_of(clips), Port(), steps=12)
    again, remade, _ = trained(stage, inputs_of(clips), Port(), steps=12)
    assert first == again
    assert 6 < made <= 18
    assert remade == 0
    assert len(cache.store) == made


@pytest.mark.parametrize("change", ["content", "weights", "size", "precision", "frames"])
def test_what_changes_the_result_is_never_taken_from_the_cache(clips, whole_clips, stage_json, change):
    stage, inputs = whole_clips(cache="latents"), inputs_of(clips)
    trained(stage, inputs, Port())
    changed = decode_stage(
        stage_json(
            shape={"frames": 17 if change == "frames" else 33, "height": 48 if change == "size" else 32, "width": 32},
            data={"fps": 16, "workers": 0, "cache": "latents"},
            seed=stage.seed + 1 if change == "weights" else stage.seed,
            memory={"vaePrecision": "bf16" if change == "precision" else "fp32"},
        )
    )
    if change == "content":
        one, other = sorted((clips / "clips").glob("*.mp4"))[:2]
        shutil.copyfile(other, one)
    _, made, _ = trained(changed, inputs, Port())
    assert made == (0 if change == "content" else 6)
    assert trained(changed, inputs, Port())[1] == 0


def test_a_clip_that_changed_is_named_as_stale_and_encoded_anew(clips, whole_clips):
    stage, inputs = whole_clips(cache="latents"), inputs_of(clips)
    trained(stage, inputs, Port())
    clip = sorted((clips / "clips").glob("*.mp4"))[0]
    other = clips / "other"
    write_data_set(other, 1, 77)
    facts = clip.stat()
    clip.write_bytes(next((other / "clips").glob("*.mp4")).read_bytes())
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    port = Port()
    _, made, _ = trained(stage, inputs, port)
    (said,) = [fields for event, fields in port.said if event == "cache"]
    assert said["stale"] == [str(clip)]
    assert (said["wanted"], said["found"]) == (6, 5)
    assert made == 1
    port = Port()
    trained(stage, inputs, port, steps=1)
    (said,) = [fields for event, fields in port.said if event == "cache"]
    assert (said["found"], said["stale"]) == (6, [])


def test_a_larger_data_set_is_looked_at_in_even_steps(clips, whole_clips):
    stage = whole_clips(cache="latents")
    _, _, cache = trained(stage, inputs_of(clips), Port())
    training = open_clips(stage, inputs_of(clips), ALONE, Port(), Caches(cache)).loader.reader.clips
    coverage = latent_coverage(cache, training, limit=3)
    assert (coverage.wanted, coverage.looked_at, coverage.found) == (6, 3, 3)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_trains(clips, whole_clips, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder for the cache") as refused:
        open_latents(whole_clips(cache="latents"), inputs_of(clips, str(tmp_path / "file" / "cache")), print)
    assert refused.value.code == "CACHE_FOLDER"


def test_the_cache_lies_beside_the_clips_or_where_it_is_put(clips, tmp_path):
    assert derived_folder(str(clips), None) == clips / ".stagewright"
    assert derived_folder(str(clips / "merge_data.txt"), None) == clips / ".stagewright"
    assert derived_folder(str(clips), str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def built(stage, inputs, kind="latents", **options):
    said = []
    return build_caches(stage, inputs, lambda event, **fields: said.append((event, fields)), **options)[kind], said


def test_a_cache_that_was_built_before_is_all_that_training_needs(clips, whole_clips):
    stage, inputs = whole_clips(cache="latents", cacheVariants=2, crop="random"), inputs_of(clips)
    done, said = built(stage, inputs)
    assert (done["wanted"], done["found"], done["made"], done["damaged"]) == (12, 0, 12, [])
    assert done["bytes"] > 0
    assert said[0][0] == "filling"
    again, _ = built(stage, inputs)
    assert (again["found"], again["made"]) == (12, 0)
    losses, made, _ = trained(stage, inputs, Port())
    assert made == 0
    shutil.rmtree(done["folder"])
    assert trained(stage, inputs, Port())[0] == losses


def test_a_build_that_finds_changed_bytes_makes_those_entries_anew(clips, whole_clips):
    stage, inputs = whole_clips(cache="latents"), inputs_of(clips)
    done, _ = built(stage, inputs)
    (shard,) = Path(done["folder"]).glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 255
    shard.write_bytes(content)
    checked, said = built(stage, inputs, verify=True)
    assert (checked["found"], checked["made"], len(checked["refused"])) == (5, 1, 1)
    assert ("verified", {"kind": "latents", "read": 6, "right": 5}) in said
    assert built(stage, inputs, verify=True)[0]["refused"] == []


def test_damaged_clips_are_named_and_refused_above_their_share(clips, whole_clips):
    broken = sorted((clips / "clips").glob("*.mp4"))[0]
    broken.write_bytes(broken.read_bytes()[:800])
    with pytest.raises(UserError, match="1 of 6 clips could not be decoded, limit 5%"):
        built(whole_clips(cache="latents"), inputs_of(clips))
    done, _ = built(whole_clips(cache="latents", maxSkippedShare=0.5), inputs_of(clips))
    assert [clip["path"] for clip in done["damaged"]] == [str(broken)]
    assert (done["found"], done["made"]) == (5, 0)


def test_two_builds_at_once_and_a_stage_without_cache_are_refused(clips, whole_clips):
    (clips / ".stagewright").mkdir()
    with open(clips / ".stagewright" / "cache.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError) as busy:
            built(whole_clips(cache="latents"), inputs_of(clips))
    assert busy.value.code == "CACHE_BUSY"
    with pytest.raises(UserError) as off:
        built(whole_clips(cache="off"), inputs_of(clips))
    assert off.value.code == "CACHE_OFF"


def test_a_full_disk_ends_a_build_with_what_to_do(clips, whole_clips, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_store, "_write_shard", no_room)
    with pytest.raises(UserError, match="No space left") as full:
        built(whole_clips(cache="latents"), inputs_of(clips))
    assert full.value.code == "CACHE_WRITE"


def test_training_goes_on_with_a_full_disk_and_says_so_once(clips, whole_clips, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    without, _, _ = trained(whole_clips(cache="off"), inputs_of(clips), Port(), steps=3)
    monkeypatch.setattr(tensor_store, "_write_shard", no_room)
    monkeypatch.setattr(tensor_store, "SHARD_BYTES", 1)
    problems = []
    losses, _, _ = trained(whole_clips(cache="latents"), inputs_of(clips), Port(), steps=3, problems=problems)
    assert losses == without
    assert len(problems) == 1


def test_a_build_killed_at_any_moment_goes_on_and_ends_with_the_same_entries(clips, whole_clips, stage_json):
    request = {
        "stage": stage_json(
            shape={"frames": 33, "height": 32, "width": 32},
            data={"fps": 16, "workers": 0, "cache": "latents", "cacheVariants": 20, "crop": "random"},
        ),
        "inputs": inputs_of(clips),
        "verify": False,
    }
    slow = "from osplan.data import tensor_store; tensor_store.SHARD_BYTES = 1; from osplan.__main__ import main; main(['cache'])"
    environment = {**os.environ, "PYTHONPATH": str(PYTHON), "OMP_NUM_THREADS": "1"}
    counts = []
    for lines in (2, 3):
        process = subprocess.Popen([sys.executable, "-c", slow], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        counts.append(len(list((clips / ".stagewright").glob("latents-*/[!.]*.safetensors"))))
    stage = decode_stage(request["stage"])
    done, _ = built(stage, inputs_of(clips), verify=True)
    assert 0 < counts[0] <= counts[1] < 120
    assert (done["found"], done["made"], done["refused"]) == (counts[1], 120 - counts[1], [])


def test_the_state_of_a_cache_says_what_is_kept_what_is_stale_and_what_others_differ_in(clips, whole_clips, stage_json):
    stage, inputs = whole_clips(cache="latents"), inputs_of(clips)
    training = open_clips(stage, inputs_of(clips), ALONE, Port()).loader.reader.clips
    empty = cache_state(stage, inputs, training)
    assert (empty["latents"]["wanted"], empty["latents"]["found"], empty["others"]) == (6, 0, [])
    built(stage, inputs)
    full = cache_state(stage, inputs, training)
    assert (full["latents"]["found"], full["latents"]["entries"], full["latents"]["stale"]) == (6, 6, [])
    assert full["latents"]["bytes"] > 0
    other = decode_stage(stage_json(shape={"frames": 33}, data={"cache": "latents", "fps": 16, "workers": 0}, seed=stage.seed + 1))
    seen = cache_state(other, inputs, training)
    assert seen["latents"]["found"] == 0
    ((differs, entries),) = [(cache["differs"], cache["entries"]) for cache in seen["others"]]
    assert (differs, entries) == (["encoder"], 6)


def test_the_state_without_an_autoencoder_says_why_it_cannot_be_told(clips, whole_clips, stage_json):
    stage = decode_stage(stage_json(shape={"frames": 33}, data={"cache": "latents", "fps": 16, "workers": 0}, vae={"weights": None}))
    training = open_clips(whole_clips(), inputs_of(clips), ALONE, Port()).loader.reader.clips
    state = cache_state(stage, inputs_of(clips), training)
    assert state["latents"] is None
    assert "vae.weights" in state["why"]


def test_kept_captions_give_the_losses_of_encoded_ones_without_loading_an_encoder(clips, whole_clips, monkeypatch):
    inputs = inputs_of(clips)
    without, _, _ = trained(whole_clips(cache="off"), inputs, Port())
    stage = whole_clips(cache="latents-and-text")
    assert trained(stage, inputs, Port())[0] == without
    port = Port()
    monkeypatch.setattr(text, "load_text_encoder", None)
    assert trained(stage, inputs, port)[0] == without
    said = {fields["kind"]: fields for event, fields in port.said if event == "cache"}
    assert said["latents"]["found"] == 6
    assert 0 < said["text"]["found"] <= said["text"]["wanted"]


def test_a_built_text_cache_has_every_text_training_may_read(clips, whole_clips, monkeypatch):
    stage, inputs = whole_clips(cache="latents-and-text"), inputs_of(clips)
    done, _ = built(stage, inputs, "text")
    assert (done["found"], done["made"]) == (0, done["wanted"])
    again, _ = built(stage, inputs, "text", verify=True)
    assert (again["found"], again["made"]) == (done["wanted"], 0)
    monkeypatch.setattr(text, "load_text_encoder", None)
    trained(stage, inputs, Port(), steps=9)
    training = open_clips(stage, inputs_of(clips), ALONE, Port()).loader.reader.clips
    state = cache_state(stage, inputs, training)["text"]
    assert state["found"] == state["wanted"] == done["wanted"]


@pytest.mark.parametrize("change", [{"maxLength": 9}, {"clean": False}, {"encoder": "files"}])
def test_texts_read_otherwise_are_kept_elsewhere(clips, stage_json, change, tmp_path):
    def folder(**settings):
        stage = decode_stage(stage_json(data={"cache": "latents-and-text"}, text=settings))
        return open_texts(stage, inputs_of(clips), CPU, print).store.folder

    if "encoder" in change:
        change = {"encoder": str(tmp_path / "t5")}
        (tmp_path / "t5").mkdir()
        (tmp_path / "t5" / "model.safetensors").write_bytes(b"one")
        before = folder(**change)
        (tmp_path / "t5" / "model.safetensors").write_bytes(b"two")
        assert folder(**change) != before
    assert folder(**change) != folder()


def test_an_encoder_that_was_never_downloaded_is_refused_before_anything_trains(clips, stage_json):
    stage = decode_stage(stage_json(data={"cache": "latents-and-text"}, text={"encoder": "nobody/has-this"}))
    with pytest.raises(UserError, match="nobody/has-this") as refused:
        open_texts(stage, inputs_of(clips), CPU, print)
    assert refused.value.code == "TEXT_ENCODER"


def test_captions_of_pooled_models_are_kept_with_their_vector(clips, stage_json):
    suv = {"class": "SparseUMMDiT", "headDim": 32, "stageLayers": [2, 2, 2], "stageSparseN": [1, 2, 1]}
    stage = decode_stage(stage_json(data={"cache": "latents-and-text"}, model=suv))
    wanted = text.Texts(stage, CPU)(["a red square", ""])
    kept = open_texts(stage, inputs_of(clips), CPU, print)
    text.Texts(stage, CPU, kept)(["a red square", ""])
    kept.store.close()
    found = text.Texts(stage, CPU, open_texts(stage, inputs_of(clips), CPU, print))(["a red square", ""])
    assert all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in ("states_B1LD", "mask_B1L", "pooled_B1P"))


def test_the_index_is_built_once_and_gives_the_clips_of_one_in_memory(clips, whole_clips):
    stage, inputs = whole_clips(), inputs_of(clips)
    training, held_out, _ = split(stage, inputs)
    (folder,) = (clips / ".stagewright").glob("index-*")
    built_at = folder.stat().st_mtime_ns
    again, _, _ = split(stage, inputs)
    assert folder.stat().st_mtime_ns == built_at
    assert isinstance(again.entries.columns["frames"], np.memmap)
    plain = choose(read_entries(clips), stage).chosen
    assert list(training) == list(again) == list(plain)


def test_clips_that_come_or_change_are_in_the_index_at_once(clips, whole_clips):
    stage, inputs = whole_clips(), inputs_of(clips)
    assert len(split(stage, inputs)[0]) == 6
    annotation = clips / "clips" / "annotation.json"
    annotation.write_text(json.dumps(json.loads(annotation.read_text())[:5]))
    assert len(split(stage, inputs)[0]) == 5


def test_without_a_folder_to_write_in_the_index_is_in_memory(clips, whole_clips, tmp_path):
    (tmp_path / "file").write_text("")
    training, _, _ = split(whole_clips(), inputs_of(clips, str(tmp_path / "file" / "cache")))
    assert len(training) == 6
    assert not isinstance(training.entries.columns["frames"], np.memmap)


def run_folder(folder, stage, clips):
    for name in ("checkpoints", "logs", "samples", "commands"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    inputs = {"data": str(clips), "weights": None, "vae": None, "state": None, "cache": None}
    (folder / "run.json").write_text(json.dumps({"formatVersion": 1, "id": folder.name, "socket": "", "inputs": inputs}))
    (folder / "stage.json").write_text(json.dumps(stage))
    return folder


TRAINING = """
import sys
from osplan.data import tensor_store
from osplan.__main__ import main
tensor_store.SHARD_BYTES = 1
sys.exit(main(sys.argv[1:]))
"""


def attempt(folder, number, kill_after_step=None):
    """Trains an attempt in a process of its own, killed when its journal has a step; losses by step over all attempts."""
    environment = {**os.environ, "PYTHONPATH": str(PYTHON), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, "train", str(folder), "--attempt", str(number)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / "trainer.jsonl"
    while kill_after_step is not None and process.poll() is None:
        if journal.exists() and f'"event":"step","step":{kill_after_step},' in journal.read_text():
            process.kill()
        time.sleep(0.01)
    process.wait(timeout=120)
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return process.returncode, {line["step"]: line["loss"] for line in lines if line["event"] == "step"}


@pytest.mark.slow
def test_training_killed_while_it_fills_a_cache_continues_with_the_losses_of_an_unbroken_run_without_one(clips, stage_json, tmp_path):
    settings = {"shape": {"frames": 33, "height": 32, "width": 32}, "steps": 6, "checkpoint": {"everySteps": 2}, "logEvery": 1}
    stage = stage_json(**settings, data={"fps": 16, "workers": 0})
    code, expected = attempt(run_folder(tmp_path / "plain", stage, clips), 1)
    assert (code, len(expected)) == (0, 6)
    kept = stage_json(**settings, data={"fps": 16, "workers": 0, "cache": "latents-and-text"})
    folder = run_folder(tmp_path / "kept", kept, clips)
    assert attempt(folder, 1, kill_after_step=3)[0] == -9
    code, losses = attempt(folder, 2)
    assert code == 0
    assert losses == expected
    done, _ = built(decode_stage(kept), inputs_of(clips), verify=True)
    assert (done["found"], done["refused"]) == (6, [])
