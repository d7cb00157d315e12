"""Sequence parallelism: neighbouring ranks share the tokens of a clip, and within attention its heads instead (Ulysses).

Every rank of a group computes on the same clips with the same draws. Between patch embedding and output it holds a run of the
tokens; for attention the group exchanges them so that each rank has all tokens of some heads. The output is put together again
on every rank, which therefore sees the whole loss.

Gradients: a rank's parameters get the part that went through its own tokens. `joined` makes that part `size` times as large, so
that the mean over all ranks, which DDP and FSDP2 take, is the sum over the group and the mean over the groups.
Source: Jacobs et al. 2023, "DeepSpeed Ulysses" (arXiv:2309.14509).
Shape letters: B batch, N tokens, n tokens of a rank, H heads, h heads of a rank, K channels per head, D channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share each clip, this one among them."""

    rank: int
    """Number within the group."""
    size: int
    group: Any
    """The process group."""

    def share(self, tokens: int) -> int:
        """Tokens each rank holds; the last are padding where the number does not divide."""
        return -(-tokens // self.size)

    def split(self, x_BND: Tensor) -> Tensor:
        """This rank's run of the tokens, padded with zeros: (B, N, D) to (B, n, D)."""
        share = self.share(x_BND.shape[1])
        padded = functional.pad(x_BND, (0, 0, 0, share * self.size - x_BND.shape[1]))
        return padded[:, self.rank * share : (self.rank + 1) * share]

    def joined(self, x_BnD: Tensor, tokens: int) -> Tensor:
        """All tokens on every rank: (B, n, D) to (B, N, D)."""
        return _Joined.apply(x_BnD, self)[:, :tokens]  # type: ignore[no-any-return]

    def heads_split(self, x_BnHK: Tensor, tokens: int) -> Tensor:
        """From some tokens of all heads to all tokens of some heads: (B, n, H, K) to (B, N, h, K)."""
        batch, share, heads, channels = x_BnHK.shape
        sent = x_BnHK.view(batch, share, self.size, heads // self.size, channels).permute(2, 0, 1, 3, 4).contiguous()
        got = self._exchanged(sent)
        return got.transpose(0, 1).reshape(batch, self.size * share, heads // self.size, channels)[:, :tokens]

    def heads_joined(self, x_BND: Tensor) -> Tensor:
        """The inverse, heads side by side: (B, N, h·K) to (B, n, H·K)."""
        batch, tokens, width = x_BND.shape
        share = self.share(tokens)
        padded = functional.pad(x_BND, (0, 0, 0, share * self.size - tokens))
        got = self._exchanged(padded.view(batch, self.size, share, width).transpose(0, 1).contiguous())
        return got.permute(1, 2, 0, 3).reshape(batch, share, self.size * width)

    def _exchanged(self, sent: Tensor) -> Tensor:
        """Row r goes to rank r, and row r came from rank r. Its own gradient is the same exchange."""
        return _Exchanged.apply(sent, self.group)  # type: ignore[no-any-return]


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: Any) -> Tensor:  # type: ignore[override]
        ctx.group = group
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        back = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        dist.all_to_all_single(back, gradient.contiguous(), group=ctx.group)
        return back, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BnD: Tensor, group: SequenceGroup) -> Tensor:  # type: ignore[override]
        ctx.group, ctx.share = group, x_BnD.shape[1]
        parts = [torch.empty_like(x_BnD) for _ in range(group.size)]
        dist.all_gather(parts, x_BnD.contiguous(), group=group.group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient_BND: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        first = ctx.group.rank * ctx.share
        return gradient_BND[:, first : first + ctx.share] * ctx.group.size, None


def join_sequence(rank: int, size: int, sequence: int) -> SequenceGroup:
    """Groups of neighbouring ranks; all ranks call it, each gets its own."""
    mine, group = dist.new_subgroups(sequence) if size > sequence else (dist.group.WORLD, None)
    return SequenceGroup(rank % sequence, sequence, mine)
