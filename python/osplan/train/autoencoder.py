"""The autoencoders a stage trains or trains on: what the trainer asks of either class.

Shape letters: B batch, C channels (RGB), T frames, H and W height and width; Z latent channels.
"""

import torch
from torch import Tensor, nn

from osplan.domain.stage import Memory
from osplan.models.causal_vae import CausalVAE
from osplan.models.posterior import Posterior
from osplan.models.wfvae import WFVAE
from osplan.train.pixels import normalised
from osplan.train.precision import autocast_to

Autoencoder = WFVAE | CausalVAE


def is_autoencoder(model: nn.Module) -> bool:
    """Whether a network is a video autoencoder."""
    return isinstance(model, WFVAE | CausalVAE)


def latent_channels(model: Autoencoder) -> int:
    """Channels of its latents."""
    return model.config.latent_channels if isinstance(model, WFVAE) else model.config.embed_dim


def latent_size(model: Autoencoder, video_BCTHW: Tensor) -> tuple[int, int, int, int, int]:
    """Shape of the latents of a video, (B, Z, T, H, W)."""
    time, space = model.stride
    batch, _, frames, height, width = video_BCTHW.shape
    return batch, latent_channels(model), (frames - 1) // time + 1, height // space, width // space


def encoded(model: Autoencoder, video_BCTHW: Tensor, *, in_chunks: bool) -> Posterior:
    """The posterior of a video; in chunks of time where asked and possible."""
    if in_chunks and isinstance(model, WFVAE):
        return model.encode_chunked(video_BCTHW)
    return model.encode(video_BCTHW)


def posterior_of(model: Autoencoder, video_BCTHW: Tensor, memory: Memory, device: torch.device) -> Posterior:
    """The posterior of a video in [-1, 1] in the stage's precision, as float32."""
    with autocast_to(memory.vae_precision, device):
        posterior = encoded(model, video_BCTHW, in_chunks=memory.vae_tiling)
    return Posterior(posterior.moments.float())


@torch.no_grad()
def clip_moments(model: Autoencoder, pixels_BCTHW: Tensor, memory: Memory, device: torch.device) -> Tensor:
    """Moments of uint8 clips, (B, 2Z, T, H, W), each encoded alone: which clips came together changes a convolution's last bits."""
    return torch.cat([posterior_of(model, normalised(one, device), memory, device).moments for one in pixels_BCTHW.split(1)])


def decoded(model: Autoencoder, z_BZTHW: Tensor, *, in_chunks: bool) -> Tensor:
    """The video of a latent; in chunks of time where asked and possible."""
    if in_chunks and isinstance(model, WFVAE):
        return model.decode_chunked(z_BZTHW)
    return model.decode(z_BZTHW)
