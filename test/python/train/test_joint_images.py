"""Pictures trained jointly with clips, from the files to the loss."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from osplan.data.check import check
from osplan.data.synthetic import write_data_set
from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.parallel.world import World
from osplan.train.assemble import build_task
from osplan.train.caches import Caches, open_latents, open_texts
from osplan.train.clips import open_clips, split
from osplan.train.supported import refuse_unsupported
from osplan.train.task import MicroBatch

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU, 1)
IMAGES = 5


class Port:
    def emit(self, event, **fields):
        pass


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Four clips and five pictures, one annotation each."""
    folder = tmp_path_factory.mktemp("mixed")
    write_data_set(folder, 4, 3)
    (folder / "pictures").mkdir()
    rows = []
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
        rows.append({"path": f"{number}.png", "cap": [f"picture {number}"], "resolution": {"height": 96, "width": 128}})
    (folder / "pictures" / "annotation.json").write_text(json.dumps(rows))
    lines = (folder / "merge_data.txt").read_text()
    (folder / "merge_data.txt").write_text(f"{lines.rstrip()}\npictures,annotation.json\n")
    return folder


@pytest.fixture
def joint(stage_json):
    def build(images=2, per_device=2, **data):
        shape = {"frames": 9, "height": 32, "width": 32}
        settings = {"fps": 16, "workers": 0, "imagesPerClip": images, **data}
        return decode_stage(
            stage_json(shape=shape, data=settings, text={"maxLength": 8, "captionDropout": 0.3}, batch={"perDevice": per_device})
        )

    return build


def inputs_of(folder):
    return {"data": str(folder), "cache": None, "vae": None, "weights": None, "state": None}


def opened(stage, folder, rank=0, ranks=1, **caches):
    return open_clips(stage, inputs_of(folder), World(rank, ranks, rank, CPU, 1), Port(), Caches(**caches))


def test_every_clip_comes_with_its_pictures_and_an_epoch_goes_through_all_of_them(mixed, joint):
    clips = opened(joint(images=2), mixed)
    seen = set()
    for _ in range(3):
        batch = clips.take()
        assert batch.pixels_BCTHW.shape == (2, 3, 9, 32, 32)
        assert batch.images.pixels_BCTHW.shape == (4, 3, 1, 32, 32)
        assert all(caption == f"picture {path[-5]}" for caption, path in zip(batch.images.captions, batch.images.paths, strict=True))
        assert not any("picture" in caption for caption in batch.captions)
        seen |= set(batch.images.captions)
    assert len(seen) == IMAGES
    assert clips.report["clips"] == 4
    assert clips.report["joint_images"] == IMAGES


def test_pictures_are_the_same_after_a_restart_and_over_two_ranks(mixed, joint):
    stage = joint(images=3)
    clips = opened(stage, mixed)
    clips.take()
    state, following = clips.state(), clips.take()
    restored = opened(stage, mixed)
    restored.restore(state)
    assert torch.equal(restored.take().images.pixels_BCTHW, following.images.pixels_BCTHW)
    ranks = [opened(joint(images=3, per_device=1), mixed, rank, 2) for rank in range(2)]
    both = torch.cat([rank.take().images.pixels_BCTHW for rank in ranks])
    assert torch.equal(both, opened(stage, mixed).take().images.pixels_BCTHW)


def test_latents_texts_and_losses_are_those_of_clip_and_pictures_joined_by_hand(mixed, joint):
    stage = joint(images=2)
    clips = opened(stage, mixed)
    task = build_task(stage, inputs_of(mixed), clips, CPU, Port())
    batch = clips.take()
    asked = {}
    forward = task.model.forward

    def record(hidden, time, text, mask, text_mask, **options):
        asked.update(hidden=hidden, text=text, text_mask=text_mask, **options)
        return forward(hidden, time, text, mask, text_mask, **options)

    task.model.forward = record
    loss = task.losses(stage, task.model, batch, MicroBatch(1, 0, 0, 1)).loss
    assert torch.isfinite(loss)
    assert asked["images"] == 2
    assert asked["hidden"].shape == (2, 4, 3 + 2, 4, 4)
    assert asked["text"].shape == (2, 3, 8, 16)
    assert asked["text_mask"].shape == (2, 3, 8)
    pictures = task._latents(stage, batch.images, torch.Generator().manual_seed(1))
    assert pictures.shape == (4, 4, 1, 4, 4)
    assert task.tokens(batch) == 2 * (3 + 2) * 2 * 2
    kept = {caption: task.encoders.text([caption]).states_B1LD[0, 0] for caption in ["", *batch.captions, *batch.images.captions]}
    for row in range(2):
        for place, caption in enumerate([batch.captions[row], *batch.images.captions[2 * row : 2 * row + 2]]):
            assert any(torch.equal(asked["text"][row, place], kept[text]) for text in ("", caption))


def test_a_clip_does_not_see_its_pictures(mixed, joint):
    stage = joint(images=2)
    task = build_task(stage, inputs_of(mixed), opened(stage, mixed), CPU, Port())
    x, text = torch.randn(1, 4, 5, 4, 4), torch.randn(1, 3, 8, 16)
    with torch.no_grad():
        before = task.model(x, torch.tensor([5]), text, None, torch.ones(1, 3, 8), images=2)
        changed = torch.cat([x[:, :, :3], torch.randn(1, 4, 2, 4, 4)], dim=2)
        after = task.model(changed, torch.tensor([5]), text, None, torch.ones(1, 3, 8), images=2)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.equal(before[:, :, 3:], after[:, :, 3:])


def test_pictures_can_be_frames_of_the_clip_itself_with_its_caption(mixed, joint):
    stage = joint(images=3, imagesFromClips=True)
    batch = opened(stage, mixed / "clips" / "annotation.json").take()
    assert torch.equal(batch.images.pixels_BCTHW[:3, :, 0], batch.pixels_BCTHW[0, :, [0, 4, 8]].transpose(0, 1))
    assert batch.images.captions[:3] == [batch.captions[0]] * 3


def test_pictures_are_kept_in_the_cache_of_latents_too(mixed, joint, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(mixed, folder)
    losses = {}
    for cache in ("off", "latents", "latents"):
        stage = joint(images=1, cache=cache, frameStride=1)
        latents = open_latents(stage, inputs_of(folder), print)
        clips = opened(stage, folder, latents=latents)
        task = build_task(stage, inputs_of(folder), clips, CPU, Port())
        encode, made = task.encoders.vae.encode, []
        task.encoders.vae.encode = lambda video, encode=encode, made=made: made.append(1) or encode(video)
        losses[cache] = [task.losses(stage, task.model, clips.take(), MicroBatch(step, 0, 0, 1)).loss.item() for step in range(1, 8)]
        if latents is not None:
            latents.store.close()
    assert made == []
    assert len(latents.store) == 4 + IMAGES


@pytest.mark.parametrize("kind", ["joint", "inpaint"])
def test_losses_from_kept_encodings_of_latents_and_texts_are_those_without(mixed, stage_json, tmp_path, kind):
    folder = tmp_path / "mixed"
    shutil.copytree(mixed, folder)
    inputs = inputs_of(folder if kind == "joint" else folder / "clips" / "annotation.json")
    # As many frames as the files have: with and without a cache the same are seen.
    sections = {"shape": {"frames": 33, "height": 32, "width": 32}, "batch": {"perDevice": 2}, "text": {"captionDropout": 0.3}}
    if kind == "inpaint":
        sections |= {
            "kind": "inpaint",
            "model": {"class": "OpenSoraInpaint_v1_3", "layers": 2, "heads": 1, "headDim": 24, "textChannels": 16},
        }
    losses, made = {}, {}
    for turn, cache in enumerate(("off", "latents-and-text", "latents-and-text")):
        data = {"fps": 16, "workers": 0, "imagesPerClip": 1 if kind == "joint" else 0, "cache": cache}
        stage = decode_stage(stage_json(**sections, data=data))
        caches = Caches(open_latents(stage, inputs, print), open_texts(stage, inputs, CPU, print))
        clips = open_clips(stage, inputs, ALONE, Port(), caches)
        task = build_task(stage, inputs, clips, CPU, Port())
        read, made[turn] = task.encoders.text._encoded, []
        task.encoders.text._encoded = lambda caption, read=read, made=made[turn]: made.append(caption) or read(caption)
        losses[turn] = [task.losses(stage, task.model, clips.take(), MicroBatch(step, 0, 0, 1)).loss.item() for step in range(1, 7)]
        caches.close()
    assert losses[0] == losses[1] == losses[2]
    assert made[0] and made[1] and not made[2]


def test_pictures_are_no_clips_of_their_own_and_small_buckets_do_not_drop_them(mixed, joint):
    stage = joint(images=2, minBucketBatches=1)
    training, _, selection = split(stage, inputs_of(mixed))
    assert (len(training), len(selection.images)) == (4, IMAGES)
    report = check(str(mixed), stage, 1)
    assert (report["training"], report["jointImages"], report["empty"]) == (4, IMAGES, False)
    alone = check(str(mixed), joint(images=0), 1)
    assert (alone["training"], alone["jointImages"]) == (4 + IMAGES, 0)


def test_without_pictures_or_without_clips_the_stage_is_refused(mixed, joint, tmp_path):
    write_data_set(tmp_path / "clips", 3, 1)
    with pytest.raises(UserError, match="expected images beside the clips, got none"):
        split(joint(), inputs_of(tmp_path / "clips"))
    assert check(str(tmp_path / "clips"), joint(), 1)["empty"]
    with pytest.raises(UserError, match="expected clips beside the images, got none"):
        split(joint(), inputs_of(mixed / "pictures" / "annotation.json"))


def test_a_damaged_picture_is_replaced_and_named(mixed, joint, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(mixed, folder)
    (folder / "pictures" / "2.png").write_bytes(b"no picture")
    stage = joint(images=2, maxSkippedShare=0.9)
    clips = opened(stage, folder)
    captions = {caption for _ in range(6) for caption in clips.take().images.captions}
    assert "picture 2" not in captions
    assert len(captions) == IMAGES - 1
    assert clips.state()["skipped"] == [str(folder / "pictures" / "2.png")]


@pytest.mark.parametrize(("change", "named"), [({"imagesFromClips": True, "cache": "latents"}, "imagesFromClips"), ({}, None)])
def test_what_does_not_go_together_is_refused(joint, change, named):
    stage = joint(**change)
    if named is None:
        refuse_unsupported(stage)
        return
    with pytest.raises(UserError, match=named):
        refuse_unsupported(stage)
