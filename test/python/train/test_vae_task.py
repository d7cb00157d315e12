import pytest
import torch

from osplan.domain.errors import UserError
from osplan.domain.stage import decode_stage
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train.architecture import vae_config
from osplan.train.attempt import Attempt
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.vae_task import VaeTask

CPU = torch.device("cpu")


@pytest.fixture
def vae_loop(stage_json, loop_of, tmp_path):
    """A loop over a tiny autoencoder of either class."""

    def build(vae_class="WFVAEModel", **objective):
        _, recorder = loop_of()
        vae = {"class": vae_class, "weights": None, "latentChannels": 4, "baseChannels": 8, "residualBlocks": 1, "attention": False}
        vae |= {"encoderFlowChannels": 4, "decoderFlowChannels": 4, "connectLayers": 1}
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
