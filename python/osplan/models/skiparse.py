"""Skiparse attention: a sequence falls apart into n sub-sequences that attend on their own.

Single skip: token g·n + s belongs to sub-sequence s. Group skip: token (r·n + m)·n + s belongs to sub-sequence m.
For a single skip nothing is copied: sub-sequences are strides, folded into the heads. For a group skip the tokens are
permuted once, before they are projected, after which sub-sequences lie one behind the other and fold into the batch.
Source: Open-Sora-Plan report v1.3, "Skiparse attention".
Shape letters: B batch, N tokens, M tokens rounded up to a multiple of n², L text tokens, H heads, K channels per head, D channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Skip:
    """How a block divides its sequence: into n sub-sequences (1: whole), by single or by group skip."""

    n: int = 1
    group: bool = False

    @property
    def permutes(self) -> bool:
        """Whether tokens stand in another order while this block attends."""
        return self.group and self.n > 1

    def padding(self, tokens: int) -> int:
        """Tokens to add so that the sequence divides evenly."""
        return -tokens % (self.n * self.n)

    def arranged(self, x_BND: Tensor) -> Tensor:
        """Tokens padded with zeros and in the order of attention: (B, N, D) to (B, M, D)."""
        padding = self.padding(x_BND.shape[1])
        x_BMD = functional.pad(x_BND, (0, 0, 0, padding)) if padding else x_BND
        if not self.permutes:
            return x_BMD
        batch, tokens, width = x_BMD.shape
        return x_BMD.view(batch, -1, self.n, self.n, width).transpose(1, 2).reshape(batch, tokens, width)

    def restored(self, x_BMD: Tensor, tokens: int) -> Tensor:
        """The inverse of `arranged`: (B, M, D) to (B, N, D)."""
        if self.permutes:
            batch, padded, width = x_BMD.shape
            x_BMD = x_BMD.view(batch, self.n, -1, self.n, width).transpose(1, 2).reshape(batch, padded, width)
        return x_BMD[:, :tokens] if self.padding(tokens) else x_BMD

    def folded(self, x_BMHK: Tensor) -> Tensor:
        """Arranged heads by sub-sequence, as a view: (B·n, H, M/n, K) for a group skip, (B, n·H, M/n, K) for a single skip."""
        if self.n == 1:
            return x_BMHK.transpose(1, 2)
        batch, tokens, heads, channels = x_BMHK.shape
        if self.group:
            return x_BMHK.view(batch * self.n, tokens // self.n, heads, channels).transpose(1, 2)
        return x_BMHK.view(batch, tokens // self.n, self.n, heads, channels).permute(0, 2, 3, 1, 4).flatten(1, 2)

    def unfolded(self, x: Tensor, batch: int) -> Tensor:
        """The inverse of `folded`, heads side by side: (B, M, D)."""
        return x.transpose(1, 2).reshape(batch, -1, x.shape[3] * (x.shape[1] if self.group or self.n == 1 else x.shape[1] // self.n))

    def folded_text(self, x_BLHK: Tensor) -> Tensor:
        """Heads of the text, the same for every sub-sequence, as a view where memory allows."""
        x_BHLK = x_BLHK.transpose(1, 2)
        if self.n == 1:
            return x_BHLK
        return x_BHLK[:, None].expand(-1, self.n, -1, -1, -1).flatten(*((0, 1) if self.group else (1, 2)))

    def mean_text(self, x: Tensor, batch: int) -> Tensor:
        """Text outputs averaged over the sub-sequences: to (B, L, D)."""
        x_BnHLK = x.view(batch, self.n, -1, *x.shape[2:])
        return x_BnHLK.mean(1).transpose(1, 2).flatten(2)

    def key_mask(self, keep_BN: Tensor, heads: int, text_BL: Tensor | None = None) -> Tensor:
        """A boolean mask over the keys of each sub-sequence, then of the text where given; it broadcasts over queries.

        A sub-sequence whose keys are all hidden comes back all True: its tokens attend to all alike, and no result is undefined.
        """
        batch, tokens = keep_BN.shape
        keep = functional.pad(keep_BN, (0, self.padding(tokens)), value=False)
        if self.n == 1:
            keep = keep[:, None, None]
        elif self.group:
            keep = keep.view(batch, -1, self.n, self.n).transpose(1, 2).reshape(batch * self.n, 1, 1, -1)
        else:
            keep = keep.view(batch, -1, self.n).transpose(1, 2)[:, :, None].expand(-1, -1, heads, -1).reshape(batch, self.n * heads, 1, -1)
        if text_BL is not None:
            text = text_BL.repeat_interleave(self.n, 0) if self.permutes else text_BL
            keep = torch.cat([keep, text[:, None, None].expand(-1, keep.shape[1], -1, -1)], dim=-1)
        return keep | ~keep.any(dim=-1, keepdim=True)


def key_masks(
    skips: Iterable[Skip],
    keep_BN: Tensor | None,
    shape: tuple[int, int, int],
    device: torch.device,
    text_BL: Tensor | None = None,
    text_tokens: int = 0,
) -> dict[Skip, Tensor | None]:
    """The key mask of every way a model divides its sequence; None where all keys may be seen. Shape is batch, tokens, heads.

    `text_tokens` says how many keys of the text stand in the same attention, `text_BL` which of them may be seen (None: all).
    """
    batch, tokens, heads = shape
    masks: dict[Skip, Tensor | None] = {}
    for skip in set(skips):
        if keep_BN is None and text_BL is None and not skip.padding(tokens):
            masks[skip] = None
            continue
        keep = torch.ones(batch, tokens, dtype=torch.bool, device=device) if keep_BN is None else keep_BN
        text = torch.ones(batch, text_tokens, dtype=torch.bool, device=device) if text_BL is None else text_BL
        masks[skip] = skip.key_mask(keep, heads, text if text_tokens else None)
    return masks


def patch_mask(mask_BTHW: Tensor | None, patch: int) -> Tensor | None:
    """Which tokens hold at least one kept latent cell: (B, N), True to keep."""
    if mask_BTHW is None:
        return None
    return functional.max_pool3d(mask_BTHW[:, None].float(), (1, patch, patch), (1, patch, patch)).flatten(1) > 0
