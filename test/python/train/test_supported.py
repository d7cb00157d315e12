import pytest

from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.train.assemble import random_vae
from osplan.train.supported import refuse_unsupported


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("lora.rank", {"kind": "vae", "objective": {"name": "reconstruction"}, "lora": {"rank": 8}}),
        ("adapters need a rank", {"kind": "lora"}),
        ("parallel.strategy", {"kind": "vae", "objective": {"name": "reconstruction"}, "parallel": {"strategy": "fsdp2"}}),
        ("optimizer.name", {"parallel": {"strategy": "fsdp2"}, "optimizer": {"name": "prodigy"}}),
        ("share a clip over ranks", {"model": {"class": "LatteT2V"}, "parallel": {"sequence": 2}}),
        ("its 3 heads evenly", {"model": {"heads": 3}, "parallel": {"sequence": 2}}),
        ("parallel.tensor", {"parallel": {"tensor": 2}}),
        ("memory.offload", {"memory": {"offload": True}}),
        (
            "memory.precision",
            {"kind": "vae", "objective": {"name": "reconstruction", "adversarialWeight": 0.5}, "memory": {"precision": "fp16"}},
        ),
        ("data.imagesPerClip", {"kind": "vae", "data": {"imagesPerClip": 4}}),
        ("data.groupByShape", {"data": {"groupByShape": False}, "shape": {"fixed": False}}),
        ("text.secondEncoder", {"text": {"secondEncoder": "bytes"}}),
        ("scaleLearningRate", {"scaleLearningRate": True}),
        ("samples.sampler", {"samples": {"sampler": "flow-euler"}}),
        ("samples.from", {"samples": {"from": ["clip.mp4"]}}),
        ("samples.task", {"samples": {"task": "i2v"}}),
        ("objective.weighting", {"objective": {"name": "rectified-flow", "times": "mode", "weighting": "cosmap"}}),
    ],
)
def test_a_setting_that_is_not_carried_out_is_refused_by_its_name(stage_json, path, sections):
    with pytest.raises(UserError) as caught:
        refuse_unsupported(decode_stage(stage_json(**sections)))
    assert caught.value.code == "SETTING_UNSUPPORTED" and path in caught.value.message


def test_all_of_them_are_named_at_once(stage_json):
    with pytest.raises(UserError) as caught:
        refuse_unsupported(decode_stage(stage_json(scaleLearningRate=True, memory={"offload": True})))
    assert "scaleLearningRate" in caught.value.message and "memory.offload" in caught.value.message


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("kind", {"kind": "class-to-video"}),
        ("vae.class", {"vae": {"class": "image"}}),
        ("model.class", {"model": {"class": "UDiT"}}),
        ("model.class", {"kind": "inpaint"}),
        ("model.class", {"model": {"class": "OpenSoraInpaint_v1_3"}}),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_built(stage_json, path, sections):
    with pytest.raises(UserError) as caught:
        refuse_unsupported(decode_stage(stage_json(**sections)))
    assert caught.value.code == "KIND_UNTRAINABLE" and caught.value.message.startswith(path)


def test_a_stage_of_defaults_is_carried_out_whole(stage_json):
    refuse_unsupported(decode_stage(stage_json()))


def test_a_random_autoencoder_is_for_trials_only(stage_json, loop_of):
    _, port = loop_of()
    with pytest.raises(UserError, match="VAE_RANDOM"):
        random_vae(decode_stage(stage_json(steps=101)), "cpu", port)
