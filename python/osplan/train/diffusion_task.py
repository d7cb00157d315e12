"""Training a diffusion transformer on latents: text-to-video, and inpainting where some frames are known.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width; L text tokens, D text channels,
P pooled channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osplan.data.latents import LatentCache
from osplan.diffusion.loss_bins import LossBins
from osplan.diffusion.objective import Objective
from osplan.diffusion.settings import TRAIN_STEPS
from osplan.domain.stage import Stage
from osplan.models.posterior import Posterior
from osplan.parallel.world import World
from osplan.train.autoencoder import Autoencoder, clip_moments, decoded, latent_channels, latent_size, posterior_of
from osplan.train.known_frames import Encode, drawn_condition, preview_condition
from osplan.train.pixels import normalised, write_video
from osplan.train.precision import autocast, autocast_to
from osplan.train.preview import named_clip, preview_mask, preview_sampler
from osplan.train.seeds import generator_for, micro_batch_generator
from osplan.train.task import Batch, Measured, MicroBatch, StepLoss
from osplan.train.text import TextStates

BINS = 10
"""Time bins of a loss, from data to noise."""
MEASURE_SEED = 20_240_229
"""Held-out noises and times are the same for every run, so that runs can be compared."""


@dataclass(frozen=True)
class Encoders:
    """The frozen networks before the transformer."""

    vae: Autoencoder
    text: Callable[[Sequence[str]], TextStates]
    latents: LatentCache | None = None
    """Where encodings of training clips are kept."""


class DiffusionTask:
    """One text-to-video or inpainting stage."""

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        config: Mapping[str, Any],
        encoders: Encoders,
        objective: Objective,
        held_out: Sequence[Batch],
        device: torch.device,
    ) -> None:
        self.model, self.config, self.encoders, self.objective = model, dict(config), encoders, objective
        self.held_out, self.device = held_out, device
        self.is_inpainting, self.images_per_clip = stage.kind == "inpaint", stage.data.images_per_clip
        self._measured_on: list[Example] | None = None

    def check(self, stage: Stage) -> None:
        """Everything a stage may change while it trains is read anew in each step."""

    def losses(self, stage: Stage, model: nn.Module, batch: Batch, at: MicroBatch) -> StepLoss:
        """Loss of the transformer on a micro-batch."""
        draws = partial(micro_batch_generator, stage.seed or 0, step=at.step, place=at.place)
        with at.timed("vae"):
            x0 = self._latents(stage, batch, draws("posterior"))
            if batch.images is not None:
                x0 = with_pictures(x0, self._latents(stage, batch.images, draws("pictures")))
            condition = self._condition(stage, batch, draws("masks")) if self.is_inpainting else None
        generator = draws("noise")
        noise = self.objective.draw_noise(x0, generator)
        rank, ranks = strata_of(stage, at)
        cells = x0.shape[-2] * x0.shape[-1]
        t_B = self.objective.draw_times(len(x0), generator, rank, ranks, frame_tokens=cells // 4).to(self.device)
        with at.timed("text"):
            text = self._text(stage, batch, draws)
        noised, time_B = self.objective.noised(x0, noise, t_B), self.objective.model_time(t_B)
        with autocast(stage, self.device):
            prediction = predicted(model, noised, time_B, text, condition, images=stage.data.images_per_clip)
        loss, per_sample = self.objective.loss(prediction.float(), x0, noise, t_B)
        return StepLoss(loss, _bins(per_sample, self.objective.noise_share(t_B)).means_on_device())

    def _text(self, stage: Stage, batch: Batch, draws: Callable[[str], torch.Generator]) -> TextStates:
        """What the captions say; behind each clip's its pictures', where pictures go along."""
        captions = _with_dropout(stage, batch, draws("captions"))
        if batch.images is None:
            return self.encoders.text(captions)
        count = len(batch.images.captions) // len(captions)
        if stage.data.images_from_clips:
            # A picture out of a clip is read with what the clip is read with, an emptied caption too.
            return self.encoders.text([caption for caption in captions for _ in range(1 + count)]).joined(1 + count)
        others = _with_dropout(stage, batch.images, draws("picture captions"))
        rows = [[caption, *others[row * count : (row + 1) * count]] for row, caption in enumerate(captions)]
        return self.encoders.text([caption for row in rows for caption in row]).joined(1 + count)

    @torch.no_grad()
    def _latents(self, stage: Stage, batch: Batch, generator: torch.Generator) -> Tensor:
        posterior = self._encode(stage, batch.pixels_BCTHW) if batch.latent_names is None else self._kept(stage, batch, batch.latent_names)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        return self.encoders.vae.scaled(posterior.at(noise)).float()

    @torch.no_grad()
    def _condition(self, stage: Stage, batch: Batch, generator: torch.Generator) -> Tensor:
        return drawn_condition(stage, batch.pixels_BCTHW, self._sampled_latents(stage), generator, self.device)

    def _sampled_latents(self, stage: Stage) -> Encode:
        def encode(video_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
            posterior = self._posterior(stage, video_BCTHW)
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            return self.encoders.vae.scaled(posterior.at(noise)).float()

        return encode

    def _encode(self, stage: Stage, pixels_BCTHW: Tensor) -> Posterior:
        """Clips together on a GPU, where that is faster."""
        if self.device.type == "cpu":
            return Posterior(clip_moments(self.encoders.vae, pixels_BCTHW, stage.memory, self.device))
        return self._posterior(stage, normalised(pixels_BCTHW, self.device))

    def _posterior(self, stage: Stage, video_BCTHW: Tensor) -> Posterior:
        return posterior_of(self.encoders.vae, video_BCTHW, stage.memory, self.device)

    def _kept(self, stage: Stage, batch: Batch, names: Sequence[str]) -> Posterior:
        """Moments that are kept; those that are not yet are made from the pixels, and kept from then on."""
        latents = self.encoders.latents
        found = list(batch.moments)
        for row, name in enumerate(names):
            if found[row] is None and latents is not None:
                # Clips are read ahead: meanwhile an earlier step may have made it.
                found[row] = latents.find(name)
            if found[row] is None:
                found[row] = moments = clip_moments(self.encoders.vae, batch.pixels_BCTHW[row : row + 1], stage.memory, self.device)[0]
                if latents is not None:
                    latents.keep(name, moments)
        return Posterior(torch.stack([one.to(self.device) for one in found if one is not None]))

    @torch.no_grad()
    def measure(self, stage: Stage) -> Measured:
        """Mean squared error on held-out clips, unweighted, with its standard error over clips."""
        per_clip, by_bin = self._measured(stage, shift_captions=0)
        spread = float(per_clip.std() / len(per_clip) ** 0.5) if len(per_clip) > 1 else None
        return Measured(float(per_clip.mean()), spread, by_bin, per_clip=per_clip.tolist())

    @torch.no_grad()
    def baselines(self, stage: Stage) -> Mapping[str, float]:
        """Loss of predicting zero, and of the weights the model now has with every caption given to another clip."""
        if not self.held_out:
            return {}
        zeros = [self._targets(example.x0, row).square().flatten(1).mean(1) for row, example in enumerate(self._examples(stage))]
        swapped, _ = self._measured(stage, shift_captions=1)
        return {"zero": float(torch.cat(zeros).mean()), "swapped_captions": float(swapped.mean())}

    def _examples(self, stage: Stage) -> list["Example"]:
        if self._measured_on is None:
            self._measured_on = [self._example(stage, batch, row) for row, batch in enumerate(self.held_out)]
        return self._measured_on

    def _example(self, stage: Stage, batch: Batch, row: int) -> "Example":
        x0 = self.encoders.vae.scaled(self._encode(stage, batch.pixels_BCTHW).mode()).float()
        masks = generator_for(MEASURE_SEED, "masks", row)
        return Example(x0, self._condition(stage, batch, masks) if self.is_inpainting else None)

    def _fixed(self, x0: Tensor, row: int, draw: int, draws: int) -> tuple[Tensor, Tensor]:
        """Noise and times of one draw: times spread evenly over their range, each clip at its own places."""
        noise = torch.randn(x0.shape, generator=generator_for(MEASURE_SEED, "noise", row, draw)).to(self.device)
        clips = len(x0)
        shares = (draw + (torch.arange(clips) * 0.6180339887 + row * 0.37 + 0.5) % 1) / draws
        return noise, _times_at(self.objective, shares).to(self.device)

    def _targets(self, x0: Tensor, row: int) -> Tensor:
        noise, t_B = self._fixed(x0, row, 0, 1)
        return self.objective.target(x0, noise, t_B)

    def _measured(self, stage: Stage, shift_captions: int) -> tuple[Tensor, list[float | None]]:
        captions = [caption for batch in self.held_out for caption in batch.captions]
        if shift_captions:
            captions = _given_to_others(captions)
        draws = stage.held_out.draws
        errors: list[Tensor] = []
        shares: list[Tensor] = []
        at = 0
        with evaluated(self.model):
            for row, example in enumerate(self._examples(stage)):
                text = self.encoders.text(captions[at : at + len(example.x0)])
                at += len(example.x0)
                clip_errors = []
                for draw in range(draws):
                    noise, t_B = self._fixed(example.x0, row, draw, draws)
                    clip_errors.append(self._error(stage, example, noise, t_B, text))
                    shares.append(self.objective.noise_share(t_B))
                errors.append(torch.stack(clip_errors, 1))
        per_draw = torch.cat([error.T.flatten() for error in errors])
        return torch.cat([error.mean(1) for error in errors]), _bins(per_draw, torch.cat(shares)).means()

    def _error(self, stage: Stage, example: "Example", noise: Tensor, t_B: Tensor, text: TextStates) -> Tensor:
        """Mean squared error of each clip; a learned variance is no part of it."""
        noised = self.objective.noised(example.x0, noise, t_B)
        with autocast(stage, self.device):
            prediction = predicted(self.model, noised, self.objective.model_time(t_B), text, example.condition)
        mean = prediction[:, : example.x0.shape[1]].float()
        return (mean - self.objective.target(example.x0, noise, t_B)).square().flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, stage: Stage, folder: Path | None, name: str) -> list[tuple[Path, str]]:
        """Writes one video per prompt, from the same noise at every step; inpainting goes on from frames of held-out clips."""
        prompts = list(stage.samples.prompts)
        if not prompts:
            return []
        latents = self._sampled(stage, prompts)
        if folder is None:
            return []
        with autocast_to(stage.memory.vae_precision, self.device):
            videos = decoded(self.encoders.vae, self.encoders.vae.unscaled(latents), in_chunks=stage.memory.vae_tiling).float()
        written = []
        for number, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
            path = folder / f"{name}-{number}.mp4"
            write_video(path, video, stage.samples.fps)
            written.append((path, prompt))
        return written

    def _sampled(self, stage: Stage, prompts: Sequence[str]) -> Tensor:
        pixels = self._preview_pixels(stage, len(prompts))
        generator = generator_for(stage.seed or 0, "samples")
        text = self.encoders.text([*[""] * len(prompts), *prompts])
        condition = None
        if self.is_inpainting:
            masks = generator_for(stage.seed or 0, "preview")
            one = preview_condition(stage, pixels, self._sampled_latents(stage), masks, self.device)
            condition = torch.cat([one, one])
        channels = latent_channels(self.encoders.vae)

        def predict(x_BCTHW: Tensor, time_B: Tensor) -> Tensor:
            with autocast(stage, self.device):
                return predicted(self.model, x_BCTHW, time_B, text, condition)[:, :channels].float()

        with evaluated(self.model):
            return preview_sampler(stage)(predict, latent_size(self.encoders.vae, pixels), generator, self.device)

    def _preview_pixels(self, stage: Stage, count: int) -> Tensor:
        """Named clips, else held-out ones of the stage's shape, in turn; grey where there are none. Text-to-video takes their shape."""
        if self.is_inpainting and stage.samples.from_:
            named = [named_clip(stage, source, preview_mask(stage)) for source in stage.samples.from_]
            return torch.stack([named[number % len(named)] for number in range(count)])
        shape = stage.shape
        wanted = (3, shape.frames, shape.height, shape.width)
        clips = [clip for batch in self.held_out for clip in batch.pixels_BCTHW if tuple(clip.shape) == wanted]
        grey = torch.full(wanted, 128, dtype=torch.uint8)
        return torch.stack([clips[number % len(clips)] if clips else grey for number in range(count)])

    def trains_model(self, stage: Stage, step: int) -> bool:
        """Always: a transformer trains alone."""
        return True

    def after_step(self, stage: Stage, batches: Sequence[Batch], step: int, world: World) -> Mapping[str, float]:
        """Nothing: a transformer trains alone."""
        return {}

    def finish(self, stage: Stage) -> Mapping[str, Any]:
        """Nothing: a transformer's config holds no measurements."""
        return {}

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Nothing beyond the model."""
        return {}

    def restore_extra(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Nothing to take back."""

    def tokens(self, batch: Batch) -> int:
        """Tokens of the clips of a micro-batch, those of pictures that go along included."""
        patch = self.config["patch_size"]
        clips, _, frames, height, width = latent_size(self.encoders.vae, batch.pixels_BCTHW)
        return clips * (frames + self.images_per_clip) * (height // patch) * (width // patch)


@dataclass(frozen=True)
class Example:
    """A held-out batch as it is measured."""

    x0: Tensor
    condition: Tensor | None
    """What an inpainting transformer knows of it."""


def with_pictures(x0_BCTHW: Tensor, pictures_NC1HW: Tensor) -> Tensor:
    """Latents of clips with those of their pictures behind them as further frames; N is as many for each clip."""
    frames = pictures_NC1HW.squeeze(2).unflatten(0, (len(x0_BCTHW), -1)).transpose(1, 2)
    return torch.cat([x0_BCTHW, frames], dim=2)


def predicted(model: nn.Module, x_BCTHW: Tensor, time_B: Tensor, text: TextStates, condition: Tensor | None, *, images: int = 0) -> Tensor:
    """The transformer's answer; a condition joins the noisy latents as further channels. The last `images` frames are pictures."""
    joined = x_BCTHW if condition is None else torch.cat([x_BCTHW, condition], dim=1)
    pooled = {} if text.pooled_B1P is None else {"pooled_B1C": text.pooled_B1P}
    joint = {"images": images} if images else {}
    return model(joined, time_B, text.states_B1LD, None, text.mask_B1L, **pooled, **joint)


def strata_of(stage: Stage, at: MicroBatch) -> tuple[int, int]:
    """Which part of the times a micro-batch draws from, and of how many: parts of the global batch, or of the ranks as upstream."""
    if stage.compat.times == "upstream":
        # Of ranks that share a clip the first one draws, from its own stratum of all ranks.
        shared = stage.parallel.sequence
        return at.rank * shared, at.ranks * shared
    return at.place, at.ranks * stage.batch.accumulate


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Within, a model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _with_dropout(stage: Stage, batch: Batch, generator: torch.Generator) -> list[str]:
    """The captions, some of them emptied or, for a share of those, replaced by a sentence that says nothing."""
    dropped = torch.rand(len(batch.captions), generator=generator) < stage.text.caption_dropout
    replaced = torch.rand(len(batch.captions), generator=generator) < stage.text.default_caption_share
    kind = "image" if batch.pixels_BCTHW.shape[2] == 1 else "video"
    sentence = f"The {kind} showcases a scene with coherent and clear visuals."
    return [
        (sentence if replace else "") if drop else caption
        for caption, drop, replace in zip(batch.captions, dropped.tolist(), replaced.tolist(), strict=True)
    ]


def _bins(losses: Tensor, shares: Tensor) -> LossBins:
    bins = LossBins(BINS, losses.device)
    bins.add(losses, shares)
    return bins


def _times_at(objective: Objective, shares: Tensor) -> Tensor:
    """Times at shares of their range, in the form the objective draws them: levels of DDPM or times of a flow."""
    drawn = objective.draw_times(1, generator_for(MEASURE_SEED, "form"), 0, 1)
    return shares if drawn.is_floating_point() else (shares * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)


def _given_to_others(captions: Sequence[str]) -> list[str]:
    """Each caption at a clip that has another one, where there is one."""
    distinct = list(dict.fromkeys(captions))
    following = {caption: distinct[(place + max(1, len(distinct) // 2)) % len(distinct)] for place, caption in enumerate(distinct)}
    return [following[caption] for caption in captions]
