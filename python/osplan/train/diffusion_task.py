"""Training a diffusion transformer on latents: text-to-video, and inpainting where some frames are known.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width; L text tokens, D text channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osplan.diffusion.loss_bins import LossBins
from osplan.diffusion.objective import Objective
from osplan.diffusion.sampling import Sampler
from osplan.diffusion.settings import TRAIN_STEPS
from osplan.domain.stage import Stage
from osplan.models.posterior import Posterior
from osplan.train.pixels import normalised, write_video
from osplan.train.precision import autocast, autocast_to
from osplan.train.seeds import generator_for
from osplan.train.task import Batch, Measured, StepLoss

BINS = 10
"""Time bins of a loss, from data to noise."""
MEASURE_SEED = 20_240_229
"""Held-out noises and times are the same for every run, so that runs can be compared."""
LATENTS_TOGETHER = 16


@dataclass(frozen=True)
class Encoders:
    """The frozen networks before the transformer."""

    vae: Any
    """An autoencoder with encode, decode, scaled and unscaled."""
    text: Callable[[Sequence[str]], tuple[Tensor, Tensor]]
    """Captions to states (B, 1, L, D) and mask (B, 1, L)."""


class DiffusionTask:
    """One text-to-video stage."""

    def __init__(
        self,
        stage: Stage,
        model: nn.Module,
        config: Mapping[str, Any],
        encoders: Encoders,
        objective: Objective,
        sampler: Sampler,
        held_out: Sequence[Batch],
        device: torch.device,
    ) -> None:
        self.model, self.config, self.encoders, self.objective, self.sampler = model, dict(config), encoders, objective, sampler
        self.held_out, self.device = held_out, device
        self._moments: dict[int, Tensor] = {}
        self._text: dict[str, tuple[Tensor, Tensor]] = {}
        self._held_out_latents: list[Tensor] | None = None

    def losses(self, stage: Stage, model: nn.Module, batch: Batch, step: int, micro: int, rank: int, world: int) -> StepLoss:
        """Loss of the transformer on a micro-batch."""
        seed = stage.seed or 0
        x0 = self._latents(stage, batch, generator_for(seed, "posterior", step, micro, rank))
        draws = generator_for(seed, "noise", step, micro, rank)
        noise = self.objective.draw_noise(x0.cpu(), draws).to(self.device)
        t_B = self.objective.draw_times(len(x0), draws, rank, world, frame_tokens=x0.shape[-2] * x0.shape[-1] // 4).to(self.device)
        states, mask = self._states(self._with_dropout(stage, batch.captions, generator_for(seed, "captions", step, micro, rank)))
        with autocast(stage, self.device):
            prediction = model(self.objective.noised(x0, noise, t_B), self.objective.model_time(t_B), states, None, mask)
        loss, per_sample = self.objective.loss(prediction.float(), x0, noise, t_B)
        return StepLoss(loss, _binned(per_sample.detach(), self.objective.noise_share(t_B)))

    def _with_dropout(self, stage: Stage, captions: Sequence[str], generator: torch.Generator) -> list[str]:
        dropped = torch.rand(len(captions), generator=generator) < stage.text.caption_dropout
        return ["" if drop else caption for caption, drop in zip(captions, dropped.tolist(), strict=True)]

    def _states(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._text]
        if new:
            states, mask = self.encoders.text(new)
            for row, caption in enumerate(new):
                self._text[caption] = (states[row].cpu(), mask[row].cpu())
        found = [self._text[caption] for caption in captions]
        stacked = torch.stack([states for states, _ in found]).to(self.device), torch.stack([mask for _, mask in found]).to(self.device)
        if len(self._text) > 100_000:
            self._text.clear()
        return stacked

    @torch.no_grad()
    def _latents(self, stage: Stage, batch: Batch, generator: torch.Generator) -> Tensor:
        posterior = self._encode(stage, batch.pixels_BCTHW) if stage.data.cache == "off" else self._remembered(stage, batch)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        return self.encoders.vae.scaled(posterior.at(noise)).float()

    def _encode(self, stage: Stage, pixels_BCTHW: Tensor) -> Posterior:
        with autocast_to(stage.memory.vae_precision, self.device):
            video = normalised(pixels_BCTHW, self.device)
            encode = self.encoders.vae.encode_chunked if stage.memory.vae_tiling else self.encoders.vae.encode
            posterior = encode(video)
        return Posterior(posterior.moments.float())

    def _remembered(self, stage: Stage, batch: Batch) -> Posterior:
        """Moments of clips seen before come from memory: the data pipeline gives them the same pixels each time."""
        missing = [row for row, place in enumerate(batch.ids) if place not in self._moments]
        if missing:
            moments = self._encode(stage, batch.pixels_BCTHW[missing]).moments
            for row, place in enumerate(missing):
                self._moments[batch.ids[place]] = moments[row].cpu()
        stacked = torch.stack([self._moments[place] for place in batch.ids]).to(self.device)
        return Posterior(stacked)

    @torch.no_grad()
    def measure(self, stage: Stage) -> Measured:
        """Mean squared error on held-out clips, unweighted, with its standard error over clips."""
        per_clip, by_bin = self._measured(stage, shift_captions=0)
        return Measured(float(per_clip.mean()), float(per_clip.std() / len(per_clip) ** 0.5) if len(per_clip) > 1 else None, by_bin)

    @torch.no_grad()
    def baselines(self, stage: Stage) -> Mapping[str, float]:
        """Loss of predicting zero, and of the weights the model now has with every caption given to another clip."""
        zeros = torch.cat([self._targets(x0, row).square().flatten(1).mean(1) for row, x0 in enumerate(self._held_out_x0(stage))])
        swapped, _ = self._measured(stage, shift_captions=1)
        return {"zero": float(zeros.mean()), "swapped_captions": float(swapped.mean())}

    def _held_out_x0(self, stage: Stage) -> list[Tensor]:
        if self._held_out_latents is None:
            self._held_out_latents = [
                self.encoders.vae.scaled(self._encode(stage, batch.pixels_BCTHW).mode()).float() for batch in self.held_out
            ]
        return self._held_out_latents

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
        was_training = self.model.training
        self.model.eval()
        for row, x0 in enumerate(self._held_out_x0(stage)):
            states, mask = self._states(captions[at : at + len(x0)])
            at += len(x0)
            clip_errors = []
            for draw in range(draws):
                noise, t_B = self._fixed(x0, row, draw, draws)
                with autocast(stage, self.device):
                    prediction = self.model(self.objective.noised(x0, noise, t_B), self.objective.model_time(t_B), states, None, mask)
                clip_errors.append((prediction.float() - self.objective.target(x0, noise, t_B)).square().flatten(1).mean(1))
                shares.append(self.objective.noise_share(t_B))
            errors.append(torch.stack(clip_errors, 1))
        self.model.train(was_training)
        per_draw = torch.cat([error.T.flatten() for error in errors])
        return torch.cat([error.mean(1) for error in errors]), _binned(per_draw, torch.cat(shares))

    @torch.no_grad()
    def sample(self, stage: Stage, folder: Path, step: int) -> list[tuple[Path, str]]:
        """Writes one video per prompt, from the same noise at every step."""
        prompts = list(stage.samples.prompts)
        if not prompts:
            return []
        latents = self._sampled(stage, prompts)
        with autocast_to(stage.memory.vae_precision, self.device):
            decode = self.encoders.vae.decode_chunked if stage.memory.vae_tiling else self.encoders.vae.decode
            videos = decode(self.encoders.vae.unscaled(latents)).float()
        written = []
        for number, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
            path = folder / f"step-{step:08d}-{number}.mp4"
            write_video(path, video, stage.samples.fps)
            written.append((path, prompt))
        return written

    def _sampled(self, stage: Stage, prompts: Sequence[str]) -> Tensor:
        time, space = stage.vae.stride
        shape = (
            len(prompts),
            stage.vae.latent_channels,
            (stage.shape.frames - 1) // time + 1,
            stage.shape.height // space,
            stage.shape.width // space,
        )
        states, mask = self._states([*[""] * len(prompts), *prompts])

        def predict(x_BCTHW: Tensor, time_B: Tensor) -> Tensor:
            with autocast(stage, self.device):
                return self.model(x_BCTHW, time_B, states, None, mask).float()

        was_training = self.model.training
        self.model.eval()
        latents = self.sampler(predict, shape, generator_for(stage.seed or 0, "samples"), self.device)
        self.model.train(was_training)
        return latents

    def after_step(self, stage: Stage, model: nn.Module, batch: Batch, step: int, rank: int, world: int) -> Mapping[str, float]:
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

    def tokens_per_clip(self) -> int:
        """Tokens of the first held-out clip's shape, patches of (1, 2, 2)."""
        patch = self.config.get("patch_size", 2)
        if not self.held_out:
            return 0
        time, space = self.encoders.vae.stride
        frames, height, width = self.held_out[0].pixels_BCTHW.shape[2:]
        return ((frames - 1) // time + 1) * (height // space // patch) * (width // space // patch)


def _binned(losses: Tensor, shares: Tensor) -> list[float | None]:
    bins = LossBins(BINS, losses.device)
    bins.add(losses, shares)
    return bins.means()


def _times_at(objective: Objective, shares: Tensor) -> Tensor:
    """Times at shares of their range, in the form the objective draws them: levels of DDPM or times of a flow."""
    drawn = objective.draw_times(1, generator_for(MEASURE_SEED, "form"), 0, 1)
    return shares if drawn.is_floating_point() else (shares * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)


def _given_to_others(captions: Sequence[str]) -> list[str]:
    """Each caption at a clip that has another one, where there is one."""
    distinct = list(dict.fromkeys(captions))
    following = {caption: distinct[(place + max(1, len(distinct) // 2)) % len(distinct)] for place, caption in enumerate(distinct)}
    return [following[caption] for caption in captions]
