"""Twenty steps of every kind of stage against loops written here: the same networks, clips and draws, and nothing of the trainer."""

from functools import partial

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import relu

from osplan.data.inpaint_masks import draw_frames, draw_kind, frame_mask
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.registry import build_model
from osplan.parallel.world import World
from osplan.train import vae_task
from osplan.train.architecture import vae_config
from osplan.train.attempt import Attempt
from osplan.train.live import LiveStage
from osplan.train.loop import Loop
from osplan.train.seeds import micro_batch_generator
from osplan.train.task import Batch
from osplan.train.vae_task import VaeTask

CPU = torch.device("cpu")
STEPS, MICRO = 20, 2
# The keys' biases have no gradient but rounding; a larger epsilon keeps the optimiser from blowing that up.
COMMON = {"steps": STEPS, "batch": {"perDevice": 2, "accumulate": MICRO}, "optimizer": {"epsilon": 1e-4}}
FLOW = {"name": "rectified-flow", "times": "logit-normal"}
ONE_BY_ONE = {"steps": STEPS, "batch": {"perDevice": 1, "accumulate": MICRO}, "optimizer": {"epsilon": 1e-3}, "learningRate": 3e-4}
HALF = ["all", "-blocks[0]"]
SMALL = {"layers": 2, "heads": 1, "headDim": 24, "textChannels": 16, "sparseN": 2, "sparseBlocks": [1]}


def in_range(pixels):
    return pixels.float() / 127.5 - 1


def drawn(stage, name, step, micro):
    return micro_batch_generator(stage.seed, name, step, micro)


def latents(vae, pixels, generator):
    mean, logvar = vae.encode(in_range(pixels)).moments.chunk(2, dim=1)
    return vae.scaled(mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * torch.randn(mean.shape, generator=generator)).detach()


def flow_loss(task, stage, x0, step, micro, predict):
    """Rectified flow by hand: the model says noise − x0 between the two."""
    generator = drawn(stage, "noise", step, micro)
    noise = torch.randn(x0.shape, generator=generator)
    t = task.objective.draw_times(len(x0), generator, micro, MICRO, frame_tokens=4)
    t_B1111 = t.view(-1, 1, 1, 1, 1)
    return (predict((1 - t_B1111) * x0 + t_B1111 * noise, 1000 * t) - (noise - x0)).square().mean()


def train_plainly(stage, clips, parameters, loss_of):
    """AdamW over parameters on the mean of the micro-batches' losses."""
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.learning_rate, betas=(0.9, 0.999), eps=1e-4, weight_decay=stage.optimizer.weight_decay
    )
    losses = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        parts = [loss_of(clips.take(), step, micro) for micro in range(MICRO)]
        (sum(parts) / MICRO).backward()
        torch.nn.utils.clip_grad_norm_(parameters, stage.clip.norm)
        optimizer.step()
        losses.append(sum(part.item() for part in parts) / MICRO)
    return losses


def compared(loop, recorder, expected, tensors):
    """The trainer's losses and named tensors are those of the plain loop."""
    got = recorder.losses()
    assert list(got) == list(range(1, STEPS + 1))
    torch.testing.assert_close(torch.tensor(list(got.values())), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    trained = dict(loop.attempt.task.model.named_parameters())
    for name, value in tensors.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5, msg=name)


def frozen_bits(loop):
    """All that must not change, copied: what the stage freezes, and the networks before the model."""
    task = loop.attempt.task
    kept = {f"model.{name}": value for name, value in task.model.named_parameters() if not value.requires_grad}
    kept |= {f"vae.{name}": value for name, value in task.encoders.vae.state_dict().items()} if hasattr(task, "encoders") else {}
    return {name: (value, value.detach().clone()) for name, value in kept.items()}


def unchanged(bits):
    return len(bits) > 0 and all(torch.equal(value, before) for value, before in bits.values())


def moved(loop, plain):
    """Every tensor that trains is another than at the start; `plain` has not trained."""
    start = dict(plain.attempt.task.model.named_parameters())
    return all(not torch.equal(value, start[name]) for name, value in loop.attempt.task.model.named_parameters() if value.requires_grad)


@pytest.mark.parametrize(
    "ratios",
    [pytest.param({"i2v": 1}, marks=pytest.mark.slow), {"t2iv": 1, "i2v": 1, "transition": 1, "random_temporal": 2}],
    ids=["image-to-video", "inpaint"],
)
def test_twenty_steps_from_known_frames_equal_those_of_a_plain_loop(loop_of, ratios):
    model = {**SMALL, "class": "OpenSoraInpaint_v1_3"}
    settings = {**COMMON, "kind": "inpaint", "model": model, "objective": {**FLOW, "maskRatios": ratios}, "trainable": HALF}
    loop, recorder = loop_of(**settings)
    bits = frozen_bits(loop)
    assert loop.train().reason == "completed" and unchanged(bits)

    plain, _ = loop_of(**settings)
    assert moved(loop, plain)
    stage, task = plain.attempt.stage, plain.attempt.task
    vae = task.encoders.vae

    def loss_of(batch, step, micro):
        x0 = latents(vae, batch.pixels_BCTHW, drawn(stage, "posterior", step, micro))
        generator = drawn(stage, "masks", step, micro)
        shares = (stage.objective.min_clear, stage.objective.max_clear)
        masks = []
        for _ in batch.captions:
            kind = draw_kind(ratios, generator)
            masks.append(frame_mask(kind, 5, draw_frames(kind, 5, shares, generator)))
        hidden = torch.stack(masks).bool()
        black = batch.pixels_BCTHW.clone()
        black.transpose(1, 2)[hidden] = 0
        known = latents(vae, black, generator)
        # The first frame stands four times, as the autoencoder sees it: two latent frames of four frames each.
        told = torch.cat([hidden[:, :1].repeat(1, 3), hidden], dim=1).float().view(len(masks), 2, 4).transpose(1, 2)
        condition = torch.cat([known, told[..., None, None].expand(-1, -1, -1, 4, 4)], dim=1)
        text = task.encoders.text(batch.captions)

        def predict(x, time):
            return task.model(torch.cat([x, condition], dim=1), time, text.states_B1LD, None, text.mask_B1L)

        return flow_loss(task, stage, x0, step, micro, predict)

    trainable = {name: value for name, value in task.model.named_parameters() if value.requires_grad}
    expected = train_plainly(stage, plain.attempt.clips, list(trainable.values()), loss_of)
    compared(loop, recorder, expected, trainable)


def with_pictures(clips):
    """Gives every two clips of noise four pictures of noise."""
    take, taken = clips.take, []

    def both():
        clip = take()
        taken.append(clip)
        pixels = torch.randint(0, 256, (4, 3, 1, 32, 32), generator=torch.Generator().manual_seed(9000 + len(taken)), dtype=torch.uint8)
        captions = [f"picture {len(taken)} {row}" for row in range(4)]
        return Batch(clip.pixels_BCTHW, clip.captions, clip.ids, clip.paths, images=Batch(pixels, captions, [0] * 4, ["p.png"] * 4))

    clips.take = both
    return clips


def test_twenty_steps_of_clips_and_pictures_together_equal_those_of_a_plain_loop(loop_of):
    settings = {**COMMON, "objective": FLOW, "data": {"heldOutClips": 0, "imagesPerClip": 2}, "model": SMALL, "trainable": HALF}
    loop, recorder = loop_of(**settings)
    with_pictures(loop.attempt.clips)
    bits = frozen_bits(loop)
    assert loop.train().reason == "completed" and unchanged(bits)

    plain, _ = loop_of(**settings)
    assert moved(loop, plain)
    stage, task = plain.attempt.stage, plain.attempt.task

    def loss_of(batch, step, micro):
        clip = latents(task.encoders.vae, batch.pixels_BCTHW, drawn(stage, "posterior", step, micro))
        pictures = latents(task.encoders.vae, batch.images.pixels_BCTHW, drawn(stage, "pictures", step, micro))
        x0 = torch.cat([clip, torch.cat([pictures[:2].transpose(0, 2), pictures[2:].transpose(0, 2)])], dim=2)

        def predict(x, time):
            """Each clip and each picture alone, as if they had never met."""
            rows = []
            for row in range(2):
                said = task.encoders.text([batch.captions[row], *batch.images.captions[2 * row : 2 * row + 2]])
                parts = [x[row : row + 1, :, :2], x[row : row + 1, :, 2:3], x[row : row + 1, :, 3:4]]
                rows.append(
                    torch.cat(
                        [
                            task.model(part, time[row : row + 1], said.states_B1LD[one : one + 1], None, said.mask_B1L[one : one + 1])
                            for one, part in enumerate(parts)
                        ],
                        dim=2,
                    )
                )
            return torch.cat(rows)

        return flow_loss(task, stage, x0, step, micro, predict)

    trainable = {name: value for name, value in task.model.named_parameters() if value.requires_grad}
    expected = train_plainly(stage, with_pictures(plain.attempt.clips), list(trainable.values()), loss_of)
    compared(loop, recorder, expected, trainable)


def test_twenty_steps_of_adapters_equal_those_of_a_plain_loop_that_adds_their_product(loop_of):
    rank, alpha = 4, 8
    settings = {**COMMON, "objective": FLOW, "model": SMALL}
    loop, recorder = loop_of(**settings, kind="lora", lora={"rank": rank, "alpha": alpha})
    adapters = {name: value.detach().clone() for name, value in loop.attempt.task.model.named_parameters() if value.requires_grad}
    bits = frozen_bits(loop)
    assert loop.train().reason == "completed" and unchanged(bits)
    assert all(not torch.equal(value, adapters[name]) for name, value in loop.attempt.task.model.named_parameters() if value.requires_grad)

    plain, _ = loop_of(**settings)
    stage, task = plain.attempt.stage, plain.attempt.task
    base = {name: value.detach() for name, value in task.model.named_parameters()}
    layers = sorted({name.split(".lora_")[0] for name in adapters})
    assert len(adapters) == 2 * len(layers) > 0
    trainable = {name: value.requires_grad_() for name, value in adapters.items()}

    def loss_of(batch, step, micro):
        x0 = latents(task.encoders.vae, batch.pixels_BCTHW, drawn(stage, "posterior", step, micro))
        text = task.encoders.text(batch.captions)
        merged = {
            f"{layer}.weight": base[f"{layer}.weight"]
            + alpha / rank * trainable[f"{layer}.lora_B.default.weight"] @ trainable[f"{layer}.lora_A.default.weight"]
            for layer in layers
        }

        def predict(x, time):
            return functional_call(task.model, {**base, **merged}, (x, time, text.states_B1LD, None, text.mask_B1L))

        return flow_loss(task, stage, x0, step, micro, predict)

    expected = train_plainly(stage, plain.attempt.clips, list(trainable.values()), loss_of)
    compared(loop, recorder, expected, trainable)


@pytest.fixture
def autoencoder_loop(stage_json, loop_of, tmp_path, monkeypatch):
    """A loop over a tiny autoencoder of either class, against a tiny discriminator."""
    monkeypatch.setattr(vae_task, "PatchDiscriminator3D", partial(PatchDiscriminator3D, base_channels=8))

    def build(vae_class, objective, *, freeze_encoder):
        other, recorder = loop_of(batch=ONE_BY_ONE["batch"])
        vae = {"class": vae_class, "weights": None, "latentChannels": 4, "baseChannels": 4, "residualBlocks": 1, "attention": False}
        vae |= {"encoderFlowChannels": 4, "decoderFlowChannels": 4, "connectLayers": 1, "freezeEncoder": freeze_encoder}
        live = LiveStage(stage_json(kind="vae", vae=vae, objective={"name": "reconstruction", **objective}, **ONE_BY_ONE))
        torch.manual_seed(7)
        config = vae_config(live.stage)
        task = VaeTask(live.stage, build_model(config), config, [], [], CPU)  # type: ignore[arg-type]
        # Latents are not measured at the end: there are no clips to measure them on.
        task.finish = lambda stage: {}
        return Loop(Attempt(live, "hash", task, other.attempt.clips, World(0, 1, 0, CPU, 1), recorder, tmp_path, 1)), recorder

    return build


@pytest.mark.parametrize(
    ("vae_class", "freezes", "game"),
    [
        pytest.param("WFVAEModel", True, 0.0, marks=pytest.mark.slow),
        pytest.param("CausalVAEModel", False, 0.0, marks=pytest.mark.slow),
        ("WFVAEModel", True, 0.05),
        pytest.param("CausalVAEModel", False, 0.05, marks=pytest.mark.slow),
    ],
    ids=["wavelet flow, encoder frozen", "causal", "against a discriminator", "causal against a discriminator"],
)
def test_twenty_steps_of_an_autoencoder_equal_those_of_a_plain_loop(autoencoder_loop, vae_class, freezes, game):
    objective = {"reconstruction": "l2", "klWeight": 1e-3, "waveletWeight": 0.1, "adversarialWeight": game, "discriminatorStart": 3}
    loop, recorder = autoencoder_loop(vae_class, objective, freeze_encoder=freezes)
    bits = frozen_bits(loop)
    assert loop.train().reason == "completed"
    assert unchanged(bits) if freezes else not bits

    plain, _ = autoencoder_loop(vae_class, objective, freeze_encoder=freezes)
    assert moved(loop, plain)
    stage, task = plain.attempt.stage, plain.attempt.task
    model, discriminator = task.model, task.discriminator
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=stage.learning_rate, eps=1e-3, weight_decay=stage.optimizer.weight_decay)
    other = None
    if discriminator is not None:
        other = torch.optim.AdamW(discriminator.parameters(), lr=stage.objective.discriminator_learning_rate, weight_decay=0.01)
    losses = []

    def reconstructed(batch, step, micro):
        video = in_range(batch.pixels_BCTHW)
        noise = torch.randn(1, 4, 2, 4, 4, generator=drawn(stage, "posterior", step, micro))
        out = model(video, noise)
        recon, posterior = (out.video, out.posterior) if vae_class == "WFVAEModel" else out
        mean, logvar = posterior.moments.chunk(2, dim=1)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()
        wavelet = 0.0
        if vae_class == "WFVAEModel":
            ours, theirs = out.encoder_wavelets, out.decoder_wavelets
            wavelet = (ours.level_1 - theirs.level_1).abs().sum() + (ours.level_2 - theirs.level_2).abs().sum()
        return video, recon, 1e-3 * kl + 0.1 * wavelet

    def generator_loss(video, recon, rest, step):
        nll = (video - recon).square().sum() / 5
        if discriminator is None or step < 3:
            return nll + rest
        adversarial = -discriminator(recon).mean()
        one, two = (torch.autograd.grad(part, model.last_layer, retain_graph=True)[0].norm() for part in (nll, adversarial))
        return nll + game * (one / (two + 1e-4)).clamp(0, 1e4).detach() * adversarial + rest

    for step in range(1, STEPS + 1):
        batches = [reconstructed(plain.attempt.clips.take(), step, micro) for micro in range(MICRO)]
        parts = [generator_loss(video, recon, rest, step) for video, recon, rest in batches]
        losses.append(sum(part.item() for part in parts) / MICRO)
        if other is not None and step >= 3 and step % 2 == 1:
            other.zero_grad()
            for video, recon, _ in batches:
                real, fake = discriminator(video), discriminator(recon.detach())
                (0.5 * (relu(1 - real).mean() + relu(1 + fake).mean()) / MICRO).backward()
            torch.nn.utils.clip_grad_norm_(discriminator.parameters(), 1.0)
            other.step()
        else:
            optimizer.zero_grad()
            (sum(parts) / MICRO).backward()
            torch.nn.utils.clip_grad_norm_(trainable.values(), stage.clip.norm)
            optimizer.step()
    if other is None:
        return compared(loop, recorder, losses, trainable)
    # In the discriminator's steps the trainer says no adversarial loss: it has no gradient to weigh it by.
    got = recorder.losses()
    for step, loss in enumerate(losses, start=1):
        if step < 3 or step % 2 == 0:
            assert got[step] == pytest.approx(loss, rel=1e-4)
    for name, value in loop.attempt.task.model.named_parameters():
        if name in trainable:
            torch.testing.assert_close(value, trainable[name], rtol=1e-3, atol=1e-5, msg=name)
    # Adam makes steps of equal length of gradients next to nothing, whose sign is a matter of rounding.
    for name, value in loop.attempt.task.discriminator.named_parameters():
        expected = discriminator.get_parameter(name)
        assert (value - expected).norm() <= 1e-2 * expected.norm(), name
