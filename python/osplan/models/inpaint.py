"""What inpainting adds to a text-to-video transformer: two more paths into the tokens, closed by zeros at first.

Shape letters: B batch, C channels, T latent frames, H and W latent height and width, N tokens, D channels of a token.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from osplan.domain.errors import UserError
from osplan.models.embeddings import PatchEmbed

KNOWN = "pos_embed_masked_hidden_states"
"""Patches of the latents of the known frames."""
MASK = "pos_embed_mask"


class ZeroLinear(nn.Linear):
    """A linear layer without bias that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, bias=False)

    def reset_parameters(self) -> None:
        """Zero, so that the path it ends adds nothing at first."""
        nn.init.zeros_(self.weight)


class InpaintEmbed(nn.ModuleList):
    """Patches, then a linear layer that starts at zero."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__([PatchEmbed(channels, width, patch), ZeroLinear(width)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, N, D)."""
        patches, closing = self
        return closing(patches(x_BCTHW))


def extend_to_inpaint(state: Mapping[str, Tensor], time_stride: int, *, always_copy: bool = False) -> dict[str, Tensor]:
    """Weights of an inpainting model that predicts what the given text-to-video model does.

    The patches of the known frames start as those of the noisy ones; the patches of the mask (`time_stride` channels) start at
    random, drawn from torch's generator; both paths are closed by zeros. Weights that are an inpainting model's already come
    back as they are; `always_copy` overwrites their patches of the known frames as well, as v1.3.1 did.
    Raises UserError WEIGHTS_MISSING where the state has no patch embedding.
    """
    if "pos_embed.proj.weight" not in state:
        raise UserError("WEIGHTS_MISSING", "pos_embed.proj.weight: expected a text-to-video transformer's weights, found no such tensor")
    patches = state["pos_embed.proj.weight"]
    copied = {f"{KNOWN}.0.proj.{part}": state[f"pos_embed.proj.{part}"].clone() for part in ("weight", "bias")}
    if f"{KNOWN}.1.weight" in state:
        return {**state, **copied} if always_copy else dict(state)
    width = patches.shape[0]
    mask_path = InpaintEmbed(time_stride, width, patches.shape[-1]).to(patches)
    return {
        **state,
        **copied,
        f"{KNOWN}.1.weight": patches.new_zeros(width, width),
        **{f"{MASK}.{name}": values for name, values in mask_path.state_dict().items()},
    }
