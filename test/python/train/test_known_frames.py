import torch

from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.train.architecture import transformer_config
from osplan.train.assemble import load_weights
from osplan.train.known_frames import drawn_condition
from osplan.train.seeds import generator_for

CPU = torch.device("cpu")
INPAINT = {
    "kind": "inpaint",
    "model": {"class": "OpenSoraInpaint_v1_3", "layers": 2, "heads": 1, "headDim": 24, "textChannels": 16, "sparse": False},
}


def condition(stage, seed=0, value=200):
    seen = []

    def encode(video, generator):
        seen.append(video)
        return torch.zeros(len(video), 4, 2, 4, 4)

    pixels = torch.full((3, 3, 5, 32, 32), value, dtype=torch.uint8)
    return drawn_condition(stage, pixels, encode, generator_for(seed, "masks"), CPU), seen[0]


def only(kind):
    return {"maskRatios": {kind: 1}}


def test_the_first_frame_is_known_and_the_others_are_black(stage_json):
    stage = decode_stage(stage_json(**INPAINT, objective=only("i2v")))
    found, video = condition(stage)
    assert found.shape == (3, 4 + 4, 2, 4, 4)
    assert (video[:, :, 0] > 0.5).all() and (video[:, :, 1:] == -1).all()
    assert (found[:, 4:, 0] == 0).all() and (found[:, 4:, 1] == 1).all()


def test_nothing_is_known_of_a_clip_made_from_text_alone(stage_json):
    found, video = condition(decode_stage(stage_json(**INPAINT, objective=only("t2iv"))))
    assert (video == -1).all() and (found[:, 4:] == 1).all()


def test_draws_repeat_with_their_seed(stage_json):
    stage = decode_stage(stage_json(**INPAINT))
    assert torch.equal(condition(stage, 3)[0], condition(stage, 3)[0])
    assert any(not torch.equal(condition(stage, 3)[0], condition(stage, seed)[0]) for seed in range(4, 9))


def test_noise_falls_on_known_frames_only(stage_json):
    _, plain = condition(decode_stage(stage_json(**INPAINT, objective=only("i2v"))))
    _, noisy = condition(decode_stage(stage_json(**INPAINT, objective={**only("i2v"), "conditionNoise": True})))
    assert torch.equal(plain[:, :, 1:], noisy[:, :, 1:]) and not torch.equal(plain[:, :, 0], noisy[:, :, 0])


def test_an_inpainting_stage_trains_and_opens_the_path_of_its_mask(loop_of):
    loop, recorder = loop_of(**INPAINT, steps=2, held_out=1, data={"heldOutClips": 2}, heldOut={"draws": 1})
    assert loop.train().reason == "completed"
    assert len(recorder.losses()) == 2 and len(recorder.of("heldOut")) == 2
    assert loop.attempt.task.model.get_parameter("pos_embed_mask.1.weight").abs().sum() > 0


def test_text_to_video_weights_start_an_inpainting_model(stage_json, loop_of, tmp_path):
    source, port = loop_of(steps=1, model={**INPAINT["model"], "class": "OpenSoraT2V_v1_3"})
    source.train()
    target = build_model(transformer_config(decode_stage(stage_json(**INPAINT))))
    load_weights(target, tmp_path / "checkpoints" / "step-00000001" / "model", [], "weights", port)
    x, text = torch.randn(1, 12, 2, 4, 4), torch.randn(1, 1, 3, 16)
    source.attempt.task.model.eval()
    torch.testing.assert_close(target.eval()(x, torch.tensor([3]), text), source.attempt.task.model(x[:, :4], torch.tensor([3]), text))
    assert "pos_embed_mask.0.proj.weight" in port.of("loaded")[0]["missing"]
