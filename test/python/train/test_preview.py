import av
import numpy as np
import pytest
import torch

from osplan.bridge import Silent
from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.train.checkpoint import latest_checkpoint
from osplan.train.pixels import write_video
from osplan.train.preview import known_places, named_clip, preview_mask, preview_sampler
from osplan.train.samples import sample

INPAINT = {
    "kind": "inpaint",
    "model": {"class": "OpenSoraInpaint_v1_3", "layers": 2, "heads": 1, "headDim": 24, "textChannels": 16, "sparse": False},
}
FLOW = {"name": "rectified-flow"}


def grey(level, frames, height=40, width=60):
    return torch.full((3, frames, height, width), level / 127.5 - 1)


@pytest.fixture
def clip(tmp_path):
    """Eight frames a second, each brighter than the one before: frame n has level 20 n."""
    path = tmp_path / "clip.mp4"
    write_video(path, torch.cat([grey(20 * n, 1) for n in range(12)], dim=1), 8)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 60, 40, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((40, 60, 3), 90, np.uint8), format="rgb24")))
    return path


def levels(stage, source, kind):
    return named_clip(stage, str(source), kind).float().mean((0, 2, 3))


def test_each_task_takes_its_frames_and_leaves_the_others_black(stage_json, clip):
    stage = decode_stage(stage_json(**INPAINT, data={"fps": 8}))
    near = {"rtol": 0, "atol": 3}
    torch.testing.assert_close(levels(stage, clip, "t2iv"), torch.tensor([0.0, 0, 0, 0, 0]), **near)
    torch.testing.assert_close(levels(stage, clip, "i2v"), torch.tensor([0.0, 0, 0, 0, 0]), **near)
    torch.testing.assert_close(levels(stage, clip, "transition"), torch.tensor([0.0, 0, 0, 0, 220]), **near)
    torch.testing.assert_close(levels(stage, clip, "clear"), torch.tensor([0.0, 20, 40, 60, 80]), **near)
    half = decode_stage(stage_json(**INPAINT, data={"fps": 4}, shape={"frames": 5}))
    torch.testing.assert_close(levels(half, clip, "clear"), torch.tensor([0.0, 40, 80, 120, 160]), **near)


def test_an_image_is_a_first_frame_and_two_are_a_transition(stage_json, clip, image):
    stage = decode_stage(stage_json(**INPAINT))
    assert levels(stage, image, "i2v").tolist() == [90, 0, 0, 0, 0]
    assert levels(stage, f"{image},{image}", "transition").tolist() == [90, 0, 0, 0, 90]
    found = levels(stage, f"{image},{clip}", "transition")
    assert found[0] == 90 and abs(found[-1] - 220) < 3


@pytest.mark.parametrize(
    ("kind", "name"),
    [("i2v", "nowhere.mp4"), ("i2v", "{image},{image}"), ("clear", "{image}"), ("i2v", "{text}"), ("transition", "{text}")],
)
def test_what_cannot_be_gone_on_from_is_refused(stage_json, clip, image, tmp_path, kind, name):
    stage = decode_stage(stage_json(**INPAINT))
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    with pytest.raises(UserError) as caught:
        named_clip(stage, name.format(image=image, text=text), kind)
    assert caught.value.code == "SAMPLE_FROM"


def test_a_continuation_knows_the_first_quarter():
    assert known_places("continuation", 93) == list(range(23))
    assert known_places("continuation", 1) == [0]


def test_the_mask_is_the_one_asked_for_or_the_one_trained_most(stage_json):
    ratios = {"maskRatios": {"transition": 3, "i2v": 2}}
    assert preview_mask(decode_stage(stage_json(**INPAINT, objective=ratios))) == "transition"
    assert preview_mask(decode_stage(stage_json(**INPAINT, objective=ratios, samples={"task": "i2v"}))) == "i2v"
    assert preview_mask(decode_stage(stage_json(**INPAINT, objective=ratios, samples={"task": "t2v"}))) == "t2iv"


def test_rectified_flow_takes_upstreams_levels_and_v15_its_shift_and_rescale(stage_json):
    v13 = preview_sampler(decode_stage(stage_json(objective=FLOW, samples={"steps": 4})))
    assert (v13.flow_grid, v13.flow_shift, v13.guidance_rescale) == ("levels", 1.0, 0.0)
    assert v13.sigmas == pytest.approx([1, 0.667, 0.334, 0.001, 0])
    v15 = preview_sampler(decode_stage(stage_json(objective=FLOW, model={"class": "SparseUMMDiT"}, samples={"steps": 4})))
    assert (v15.flow_grid, v15.flow_shift, v15.guidance_rescale) == ("continuous", 7.0, 0.7)
    assert v15.sigmas == pytest.approx([1, 21 / 22, 7 / 8, 7 / 10, 0])


def test_what_a_stage_says_of_sampling_outranks_upstream(stage_json):
    stage = stage_json(objective=FLOW, samples={"flowShift": 3, "guidanceRescale": 0.5})
    sampler = preview_sampler(decode_stage(stage))
    assert (sampler.flow_shift, sampler.guidance_rescale) == (3, 0.5)


def test_raw_and_averaged_weights_are_sampled_in_turn(loop_of):
    loop, recorder = loop_of(steps=2, samples={"prompts": ["a red square"], "steps": 2, "weights": "both"})
    loop.train()
    said = recorder.of("sample")
    assert [entry["weights"] for entry in said] == ["raw", "ema"]
    assert all((loop.attempt.run / entry["path"]).is_file() for entry in said)
    assert len({entry["path"] for entry in said}) == 2


def test_a_checkpoint_is_sampled_again_without_training(loop_of, stage_json, image, tmp_path):
    loop, _ = loop_of(**INPAINT, steps=1)
    loop.train()
    asked = {"prompts": ["a", "b"], "steps": 2, "from": [str(image)], "task": "i2v"}
    request = {
        "stage": stage_json(**INPAINT, steps=1, samples=asked),
        "weights": str(latest_checkpoint(loop.attempt.run) / "model_ema"),
        "vae": None,
        "out": str(tmp_path / "out"),
        "name": "again",
    }
    written = sample(request, Silent())
    assert [entry["prompt"] for entry in written] == ["a", "b"]
    with av.open(written[0]["path"]) as container:
        assert len(list(container.decode(video=0))) == 5
    first = (tmp_path / "out" / "again-0.mp4").read_bytes()
    sample(request, Silent())
    assert (tmp_path / "out" / "again-0.mp4").read_bytes() == first


def test_a_sample_without_a_prompt_is_refused(stage_json, tmp_path):
    with pytest.raises(UserError) as caught:
        sample({"stage": stage_json(), "weights": str(tmp_path), "vae": None, "out": "", "name": ""}, Silent())
    assert caught.value.code == "SAMPLE_PROMPTS"
