"""Attention over the tokens of a clip, whole or in sub-sequences, and over the text.

Shape letters: B batch, N tokens, L text tokens, D channels, H heads, K channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osplan.models.rope import rotated
from osplan.models.skiparse import joined_heads, split_heads, split_mask


class Attention(nn.Module):
    """Queries from the clip, keys and values from the clip or from the text. Parameters carry upstream's names."""

    def __init__(self, width: int, heads: int, *, bias: bool, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        context = context_width or width
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context, width, bias=bias)
        self.to_v = nn.Linear(context, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def over_clip(self, x_BND: Tensor, table: tuple[Tensor, Tensor] | None, keep_BN: Tensor | None, n: int, *, group: bool) -> Tensor:
        """Self-attention in n sub-sequences (1: the whole clip). `keep` is True where a key may be seen."""
        batch, tokens, width = x_BND.shape
        q, k, v = self.to_q(x_BND), self.to_k(x_BND), self.to_v(x_BND)
        if table is not None:
            q, k = (
                rotated(part.view(batch, tokens, self.heads, -1).transpose(1, 2), *table).transpose(1, 2).reshape(batch, tokens, width)
                for part in (q, k)
            )
        padding = -tokens % (n * n) if n > 1 else 0
        if padding:
            q, k, v = (F.pad(part, (0, 0, 0, padding)) for part in (q, k, v))
            whole = keep_BN if keep_BN is not None else x_BND.new_ones((batch, tokens), dtype=torch.bool)
            keep_BN = F.pad(whole, (0, padding), value=False)
        q, k, v = (split_heads(part, self.heads, n, group=group) for part in (q, k, v))
        mask = None if keep_BN is None else _key_mask(split_mask(keep_BN, n, group=group))
        out = joined_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), batch, n, group=group)
        return self.to_out[0](out[:, :tokens] if padding else out)

    def over_text(self, x_BND: Tensor, text_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        """Cross-attention. It is never split: sub-sequences of queries see the same keys."""
        batch = x_BND.shape[0]
        q = split_heads(self.to_q(x_BND), self.heads, 1, group=False)
        k = split_heads(self.to_k(text_BLD), self.heads, 1, group=False)
        v = split_heads(self.to_v(text_BLD), self.heads, 1, group=False)
        mask = None if keep_BL is None else _key_mask(keep_BL)
        return self.to_out[0](joined_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), batch, 1, group=False))


def _key_mask(keep: Tensor) -> Tensor:
    """A boolean mask over keys for every head and query, all True where every key of a row is masked: such a row attends to all alike."""
    keep = keep | ~keep.any(dim=1, keepdim=True)
    return keep[:, None, None, :]
