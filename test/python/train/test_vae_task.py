from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train.architecture import vae_config
from osplan.train.attempt import Attempt
from osplan.train.assemble import build_task
from osplan.train.checkpoint import WEIGHTS, latest_checkpoint
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.pickles import as_safetensors, load_discriminator
from osplan.train.vae_task import VaeTask

CPU = torch.device("cpu")


@pytest.fixture
def vae_loop(stage_json, loop_of, tmp_path):
    """A loop over a tiny autoencoder of either class."""

    def build(vae_class="WFVAEModel", *, freeze_encoder=False, **objective):
        _, recorder = loop_of()
        vae = {"class": vae_class, "weights": None, "latentChannels": 4, "baseChannels": 8, "residualBlocks": 1, "attention": False}
        vae |= {"encoderFlowChannels": 4, "decoderFlowChannels": 4, "connectLayers": 1, "freezeEncoder": freeze_encoder}
        live = LiveStage(stage_json(kind="vae", steps=4, vae=vae, objective={"name": "reconstruction", **objective}))
        torch.manual_seed(7)
        config = vae_config(live.stage)
        clips = loop_of()[0].attempt.clips
        task = VaeTask(live.stage, build_model(config), config, [], [clips.take()], CPU)  # type: ignore[arg-type]
        return Loop(Attempt(live, "hash", task, clips, World(0, 1, 0, CPU, 1), recorder, tmp_path, 1)), recorder

    return build


def weights_after(loop, recorder, steps):
    """The decoder's last weights after each step, and the discriminator's."""
    seen = []
    emit = recorder.emit

    def watched(event, **fields):
        emit(event, **fields)
        if event == "step":
            first = next(loop.attempt.task.discriminator.parameters())
            seen.append((loop.attempt.task.model.last_layer.detach().clone(), first.detach().clone()))

    recorder.emit = watched
    loop.train()
    return seen


def test_odd_steps_are_the_discriminators_and_even_ones_the_autoencoders(vae_loop):
    loop, recorder = vae_loop(adversarialWeight=0.5)
    (model_1, game_1), (model_2, game_2), (model_3, game_3), _ = weights_after(loop, recorder, 4)
    assert not torch.equal(model_1, model_2) and torch.equal(game_1, game_2)
    assert torch.equal(model_2, model_3) and not torch.equal(game_2, game_3)
    said = [fields["extra"] for fields in recorder.of("step")]
    assert ["discriminator" in extra for extra in said] == [True, False, True, False]


def test_before_the_game_starts_every_step_is_the_autoencoders(vae_loop):
    loop, recorder = vae_loop(adversarialWeight=0.5, discriminatorStart=100)
    seen = weights_after(loop, recorder, 4)
    assert all(not torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) for one, other in zip(seen, seen[1:], strict=False))


def test_an_older_autoencoder_trains_without_wavelets_and_keeps_its_one_scale(vae_loop):
    loop, recorder = vae_loop("CausalVAEModel")
    assert loop.train().reason == "completed"
    assert all(fields["extra"]["wavelet"] == 0 for fields in recorder.of("step"))
    assert recorder.of("latents") == []


def test_the_latents_of_a_trained_autoencoder_are_measured_per_channel(vae_loop):
    loop, recorder = vae_loop()
    loop.train()
    (latents,) = recorder.of("latents")
    assert len(latents["shift"]) == len(latents["scale"]) == 4
    assert loop.attempt.task.config["scale"] == latents["scale"]


@pytest.mark.parametrize("path", ["objective.adversarialWeight", "objective.perceptualWeight"])
def test_a_term_whose_network_was_not_built_cannot_be_turned_on(vae_loop, path):
    loop, recorder = vae_loop()
    recorder.due[1] = [{"id": "a", "name": "set", "path": path, "value": 0.5}]
    loop.train()
    assert recorder.acknowledged[0][2] == "refused"


def test_a_perceptual_term_needs_its_weights(stage_json):
    stage = decode_stage(stage_json(kind="vae", objective={"name": "reconstruction", "perceptualWeight": 1}))
    with pytest.raises(UserError, match="LPIPS_MISSING"):
        VaeTask(stage, build_model(vae_config(stage)), {}, [], [], CPU)  # type: ignore[arg-type]


def test_a_new_discriminator_warms_up_alone(vae_loop):
    loop, recorder = vae_loop(adversarialWeight=0.5, discriminatorWarmup=2)
    start = loop.attempt.task.model.last_layer.detach().clone()
    seen = weights_after(loop, recorder, 4)
    assert torch.equal(start, seen[0][0]) and torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][1], seen[1][1])
    said = ["discriminator" in fields["extra"] for fields in recorder.of("step")]
    assert said == [True, True, True, False]


def test_beside_a_frozen_encoder_latents_keep_their_scale(vae_loop, stage_json):
    loop, recorder = vae_loop(freeze_encoder=True)
    scale = loop.attempt.task.config["scale"]
    loop.train()
    assert recorder.of("latents") == [] and loop.attempt.task.config["scale"] == scale
    assert recorder.of("phaseProof")[-1]["frozen_changed"] == []


def test_a_released_pickle_starts_a_stage_without_its_discriminator_and_a_run_with_it(vae_loop, stage_json, tmp_path):
    loop, recorder = vae_loop(adversarialWeight=0.5)
    loop.train()
    checkpoint = latest_checkpoint(loop.attempt.run)
    weights = load_file(checkpoint / "model_ema" / WEIGHTS)
    torch.save({"ema_state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, tmp_path / "released.ckpt")
    (tmp_path / "config.json").write_text((checkpoint / "model" / "config.json").read_text())
    folder = as_safetensors(tmp_path / "released.ckpt", tmp_path / "derived")
    assert all(torch.equal(value, weights[name]) for name, value in load_file(folder / WEIGHTS).items())
    clips = SimpleNamespace(held_out=[], whole_clips=[])
    stage = decode_stage(stage_json(kind="vae", objective={"name": "reconstruction", "adversarialWeight": 0.5}))
    for source, exact in ((folder, False), (checkpoint / "model_ema", True)):
        task = build_task(stage, {"weights": str(source), "vae": None}, clips, CPU, recorder)
        said = recorder.of("loaded")[-1]
        assert said["what"] == "discriminator" and bool(said["exact"]) is exact and bool(said["missing"]) is not exact
    trained = loop.attempt.task.discriminator.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in task.discriminator.state_dict().items())


def test_upstreams_discriminator_is_found_among_the_other_networks_of_its_loss(tmp_path):
    network = PatchDiscriminator3D()
    tensors = {f"discriminator.{name}": value for name, value in network.state_dict().items()}
    save_file({**tensors, "perceptual_loss.lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "a.safetensors")
    found = load_discriminator(tmp_path / "a.safetensors")
    assert found is not None and all(torch.equal(value, found[name]) for name, value in network.state_dict().items())
    save_file({"perceptual_loss.lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "b.safetensors")
    assert load_discriminator(tmp_path / "b.safetensors") is None
