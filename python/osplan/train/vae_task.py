"""Training a video autoencoder: reconstruction, divergence, wavelet and, where asked, perceptual and adversarial terms.

Shape letters: B batch, C channels (RGB), T frames, H and W height and width; Z latent channels.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osplan.diffusion.vae_loss import VaeLossSettings, discriminator_loss, frozen, generator_loss, is_discriminator_step
from osplan.domain.errors import UserError
from osplan.domain.stage import Stage
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.lpips import load_lpips
from osplan.models.posterior import Posterior
from osplan.models.wfvae import WFVAE, Reconstruction
from osplan.parallel.world import World
from osplan.train.architecture import with_latent_statistics
from osplan.train.autoencoder import Autoencoder, latent_size
from osplan.train.optimizer import optimizer_state, restore_optimizer, set_learning_rate
from osplan.train.pixels import normalised, psnr, write_video
from osplan.train.precision import autocast
from osplan.train.preview import named_clip
from osplan.train.seeds import generator_for, micro_batch_generator
from osplan.train.task import Batch, Measured, MicroBatch, StepLoss

PREVIEWS = 2
"""Held-out clips that are shown where none are named."""


class VaeTask:
    """One VAE stage."""

    def __init__(
        self,
        stage: Stage,
        model: Autoencoder,
        config: Mapping[str, Any],
        held_out: Sequence[Batch],
        training: Sequence[Batch],
        device: torch.device,
        *,
        discriminator: Mapping[str, Tensor] | None = None,
        trains: bool = True,
    ) -> None:
        """`held_out` are whole clips never trained on; `training` whole clips the latent statistics are measured on.

        `discriminator` is what an adversarial stage goes on from; a new one is made where it is None. Where nothing trains, the terms
        of the loss need no networks.
        """
        self.model, self.config, self.held_out, self.training, self.device = model, dict(config), held_out, training, device
        self.discriminator: nn.Module | None = None
        self.discriminator_optimizer: torch.optim.Optimizer | None = None
        self.perceptual = self._perceptual(stage) if trains else None
        if trains and stage.objective.adversarial_weight > 0:
            self._add_discriminator(stage, discriminator)

    def check(self, stage: Stage) -> None:
        """Raises UserError NOT_LIVE for terms whose networks were not built: their weights were 0 when the attempt started."""
        objective = stage.objective
        missing = [
            path
            for path, weight, network in (
                ("objective.perceptualWeight", objective.perceptual_weight, self.perceptual),
                ("objective.adversarialWeight", objective.adversarial_weight, self.discriminator),
            )
            if weight > 0 and network is None
        ]
        if missing:
            raise UserError(
                "NOT_LIVE", f"{missing[0]}: expected 0, as when the attempt started, got a weight", "use `stagewright branch --set`"
            )

    def _perceptual(self, stage: Stage) -> Any:
        if stage.objective.perceptual_weight == 0:
            return None
        if stage.objective.lpips_weights is None:
            raise UserError(
                "LPIPS_MISSING",
                "objective.perceptualWeight: expected `objective.lpipsWeights` beside it, got none",
                "name a local file with the LPIPS weights, or set the weight to 0",
            )
        return load_lpips(Path(stage.objective.lpips_weights)).to(self.device)

    def _add_discriminator(self, stage: Stage, weights: Mapping[str, Tensor] | None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(generator_for(stage.seed or 0, "discriminator").initial_seed())
            self.discriminator = PatchDiscriminator3D().to(self.device)
        if weights is not None:
            self.discriminator.load_state_dict(dict(weights))
        groups = [{"params": [parameter], "names": [name], "ratio": 1.0} for name, parameter in self.discriminator.named_parameters()]
        self.discriminator_optimizer = torch.optim.AdamW(groups, lr=stage.objective.discriminator_learning_rate, weight_decay=0.01)

    def losses(self, stage: Stage, model: nn.Module, batch: Batch, at: MicroBatch) -> StepLoss:
        """Loss of the autoencoder on a micro-batch."""
        step, video = at.step, normalised(batch.pixels_BCTHW, self.device)
        with autocast(stage, self.device):
            recon, posterior, wavelets = parts_of(model(video, self._noise(stage, video, at)))
        if stage.objective.wavelet_weight == 0:
            wavelets = []
        settings = _loss_settings(stage, adversarial=self.discriminator is not None)
        loss = generator_loss(
            video,
            recon.float(),
            posterior.kl(),
            step,
            settings,
            discriminator=self.discriminator or nn.Identity(),
            last_layer=self.model.last_layer,
            perceptual=self.perceptual,
            wavelets=wavelets,
        )
        elements = video[0, :, 0].numel()
        return StepLoss(
            loss.total,
            extra={
                "reconstruction": loss.nll / elements,
                "kl": loss.kl,
                "wavelet": loss.wavelet,
                "adversarial": loss.adversarial,
                "adaptiveWeight": loss.adaptive_weight,
            },
        )

    def trains_model(self, stage: Stage, step: int) -> bool:
        """Whether it is the autoencoder's turn: of the game, the first steps and then the odd ones are the discriminator's."""
        objective = stage.objective
        if self.discriminator is None:
            return True
        first = max(1, objective.discriminator_start)
        warms_up = first <= step < first + objective.discriminator_warmup
        return not warms_up and not is_discriminator_step(step, objective.discriminator_start)

    def after_step(self, stage: Stage, batches: Sequence[Batch], step: int, world: World) -> Mapping[str, float]:
        """Trains the discriminator where it is its turn."""
        if self.discriminator is None or self.discriminator_optimizer is None or self.trains_model(stage, step):
            return {}
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        said = [
            self._discriminated(stage, batch, MicroBatch(step, micro, world.replica, world.replicas)) for micro, batch in enumerate(batches)
        ]
        gradients = [parameter.grad for parameter in self.discriminator.parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.copy_(world.mean(gradient) / len(batches))
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), 1.0)
        set_learning_rate(self.discriminator_optimizer, stage.objective.discriminator_learning_rate)
        self.discriminator_optimizer.step()
        total, real, fake = (sum(values) / len(values) for values in zip(*said, strict=True))
        return {"discriminator": total, "logitsReal": real, "logitsFake": fake}

    def _discriminated(self, stage: Stage, batch: Batch, at: MicroBatch) -> tuple[float, float, float]:
        """Adds a micro-batch's gradients to the discriminator's; its loss and mean logits."""
        assert self.discriminator is not None
        video = normalised(batch.pixels_BCTHW, self.device)
        with torch.no_grad(), autocast(stage, self.device):
            recon, _, _ = parts_of(self.model(video, self._noise(stage, video, at)))
        loss = discriminator_loss(video, recon.float(), at.step, _loss_settings(stage, adversarial=True), self.discriminator)
        loss.total.backward()
        return float(loss.total.detach()), float(loss.logits_real), float(loss.logits_fake)

    def _noise(self, stage: Stage, video: Tensor, at: MicroBatch) -> Tensor:
        """What picks the latents of a micro-batch from their posterior."""
        generator = micro_batch_generator(stage.seed or 0, "posterior", at.step, at.place)
        return torch.randn(latent_size(self.model, video), generator=generator).to(self.device)

    @torch.no_grad()
    def measure(self, stage: Stage) -> Measured:
        """Mean absolute error and PSNR of held-out clips, reconstructed from the posterior's mean."""
        errors: list[Tensor] = []
        ratios: list[Tensor] = []
        with frozen(self.model):
            for batch in self.held_out:
                video = normalised(batch.pixels_BCTHW, self.device)
                with autocast(stage, self.device):
                    recon = self.model.decode(self.model.encode(video).mode())
                errors.append((recon.float() - video).abs().flatten(1).mean(1))
                ratios.append(psnr(recon.float().clamp(-1, 1) - video))
        error = torch.cat(errors)
        spread = float(error.std() / error.numel() ** 0.5) if error.numel() > 1 else None
        return Measured(float(error.mean()), spread, psnr=float(torch.cat(ratios).mean()), per_clip=error.tolist())

    @torch.no_grad()
    def baselines(self, stage: Stage) -> Mapping[str, float]:
        """PSNR of painting each held-out clip in its mean colour."""
        if not self.held_out:
            return {}
        values = []
        for batch in self.held_out:
            video = normalised(batch.pixels_BCTHW, self.device)
            values.append(psnr(video - video.mean((2, 3, 4), keepdim=True)))
        return {"mean_colour_psnr": float(torch.cat(values).mean())}

    @torch.no_grad()
    def sample(self, stage: Stage, folder: Path | None, name: str) -> list[tuple[Path, str]]:
        """Writes the named clips, else two held-out ones, above their reconstructions."""
        if folder is None:
            return []
        clips = [(named_clip(stage, source, "clear"), source) for source in stage.samples.from_]
        clips = clips or [(batch.pixels_BCTHW[0], batch.captions[0]) for batch in self.held_out[:PREVIEWS]]
        written = []
        for number, (pixels_CTHW, caption) in enumerate(clips):
            video = normalised(pixels_CTHW[None], self.device)
            with autocast(stage, self.device):
                recon = self.model.decode(self.model.encode(video).mode()).float()
            path = folder / f"{name}-{number}.mp4"
            write_video(path, torch.cat([video, recon], dim=3)[0], stage.samples.fps)
            written.append((path, caption))
        return written

    @torch.no_grad()
    def finish(self, stage: Stage) -> Mapping[str, Any]:
        """Shift and scale per latent channel over the training clips: latents get mean 0 and deviation 1.

        Nothing for an autoencoder whose latents all share upstream's one factor, nor beside a frozen encoder: its latents stay what
        caches and diffusion stages were built on.
        """
        if not isinstance(self.model, WFVAE) or stage.vae.freeze_encoder:
            return {}
        total = squares = torch.zeros(())
        count = 0
        for batch in self.training:
            posterior = self.model.encode(normalised(batch.pixels_BCTHW, self.device))
            mean_ZN = posterior.mean.double().transpose(0, 1).flatten(1)
            variance_ZN = posterior.std.double().square().transpose(0, 1).flatten(1)
            total = total + mean_ZN.sum(1)
            squares = squares + (mean_ZN.square() + variance_ZN).sum(1)
            count += mean_ZN.shape[1]
        shift = total / count
        scale = 1 / (squares / count - shift.square()).clamp_min(1e-12).sqrt()
        self.config = with_latent_statistics(self.config, shift.tolist(), scale.tolist())
        return {"shift": shift.tolist(), "scale": scale.tolist()}

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """The discriminator and its optimiser."""
        if self.discriminator is None or self.discriminator_optimizer is None:
            return {}
        return {
            "discriminator": dict(self.discriminator.state_dict()),
            "discriminator-optimizer": optimizer_state(self.discriminator_optimizer),
        }

    def restore_extra(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes them back; a parent without a discriminator leaves a new one."""
        if self.discriminator is None or self.discriminator_optimizer is None or "discriminator" not in tensors:
            return
        self.discriminator.load_state_dict(dict(tensors["discriminator"]))
        restore_optimizer(self.discriminator_optimizer, tensors["discriminator-optimizer"])

    def tokens(self, batch: Batch) -> int:
        """Latent cells of the clips of a micro-batch."""
        clips, _, *cells = latent_size(self.model, batch.pixels_BCTHW)
        return clips * math.prod(cells)


def parts_of(out: Any) -> tuple[Tensor, Posterior, list[tuple[Tensor, Tensor]]]:
    """Reconstruction, posterior, and the wavelets of encoder and decoder where an autoencoder has them."""
    if not isinstance(out, Reconstruction):
        video, posterior = out
        return video, posterior, []
    pairs = ((out.encoder_wavelets.level_1, out.decoder_wavelets.level_1), (out.encoder_wavelets.level_2, out.decoder_wavelets.level_2))
    return out.video, out.posterior, [(encoder.float(), decoder.float()) for encoder, decoder in pairs]


def _loss_settings(stage: Stage, *, adversarial: bool) -> VaeLossSettings:
    objective = stage.objective
    return VaeLossSettings(
        pixel=objective.reconstruction,
        perceptual_weight=objective.perceptual_weight,
        kl_weight=objective.kl_weight,
        wavelet_weight=objective.wavelet_weight,
        adversarial="hinge",
        adversarial_weight=objective.adversarial_weight,
        adversarial_factor=1.0 if adversarial else 0.0,
        adversarial_start=objective.discriminator_start if adversarial else 1 << 60,
        logvar=0.0,
    )
