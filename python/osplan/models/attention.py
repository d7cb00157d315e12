"""Attention over the tokens of a clip, whole or in sub-sequences, and over the text.

Shape letters: B batch, N tokens, M tokens as a skip arranges them, L text tokens, D channels, H heads, K channels per head.
"""

from torch import Tensor, nn
from torch.nn import functional

from osplan.models.rope import RotaryTable, rotated
from osplan.models.skiparse import Skip
from osplan.parallel.sequence import SequenceGroup


class Attention(nn.Module):
    """Queries from the clip, keys and values from the clip or from the text. Parameters carry upstream's names."""

    def __init__(self, width: int, heads: int, *, bias: bool, context_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        context = width if context_width is None else context_width
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context, width, bias=bias)
        self.to_v = nn.Linear(context, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(dropout)])

    def over_clip(self, x_BND: Tensor, table: RotaryTable | None, mask: Tensor | None, skip: Skip) -> Tensor:
        """Self-attention in the sub-sequences of a skip. Table and mask are those of the skip."""
        batch, tokens, _ = x_BND.shape
        x_BMD = skip.arranged(x_BND)
        q, k, v = (self._heads(project(x_BMD)) for project in (self.to_q, self.to_k, self.to_v))
        if table is not None:
            q, k = rotated(q, table), rotated(k, table)
        out = functional.scaled_dot_product_attention(skip.folded(q), skip.folded(k), skip.folded(v), attn_mask=mask)
        return skip.restored(self._out(skip.unfolded(out, batch)), tokens)

    def over_shared_clip(
        self, x_BnD: Tensor, table: RotaryTable | None, mask: Tensor | None, skip: Skip, shared: SequenceGroup, tokens: int
    ) -> Tensor:
        """Self-attention where this rank holds a run of the clip's `tokens`: it attends with all tokens and its share of the heads."""
        batch = len(x_BnD)
        q, k, v = (
            skip.arranged(shared.heads_split(self._heads(project(x_BnD)), tokens).flatten(2)).unflatten(2, (self.heads // shared.size, -1))
            for project in (self.to_q, self.to_k, self.to_v)
        )
        if table is not None:
            q, k = rotated(q, table), rotated(k, table)
        out = functional.scaled_dot_product_attention(skip.folded(q), skip.folded(k), skip.folded(v), attn_mask=mask)
        return self._out(shared.heads_joined(skip.restored(skip.unfolded(out, batch), tokens)))

    def over_text(self, x_BND: Tensor, text_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """Cross-attention. It is never split: sub-sequences of queries see the same keys."""
        q, k, v = (self._heads(part).transpose(1, 2) for part in (self.to_q(x_BND), self.to_k(text_BLD), self.to_v(text_BLD)))
        return self._out(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1))

    def _out(self, x_BND: Tensor) -> Tensor:
        return self.to_out[1](self.to_out[0](x_BND))


def text_mask(mask_BL: Tensor | None) -> Tensor | None:
    """A boolean key mask of the text (1 keeps) that broadcasts over heads and queries; a text that is all hidden is seen whole."""
    if mask_BL is None:
        return None
    keep = mask_BL > 0
    return (keep | ~keep.any(dim=-1, keepdim=True))[:, None, None]
