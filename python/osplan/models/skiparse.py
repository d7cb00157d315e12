"""Skiparse attention: a sequence falls apart into n sub-sequences that attend on their own.

Single skip: token g·n + s belongs to sub-sequence s. Group skip: token (r·n + m)·n + s belongs to sub-sequence m.
Source: Open-Sora-Plan report v1.3, "Skiparse attention".
Shape letters: B batch, N tokens (a multiple of n²), H heads, K channels per head, D channels.
"""

from torch import Tensor


def padded_length(tokens: int, n: int) -> int:
    """Tokens rounded up to a multiple of n²."""
    return -(-tokens // (n * n)) * n * n


def split_heads(x_BND: Tensor, heads: int, n: int, *, group: bool) -> Tensor:
    """Queries, keys or values by sub-sequence: (B·n, H, N/n, K). A single skip is a view of strides, a group skip one permute."""
    batch, tokens, width = x_BND.shape
    if n == 1:
        return x_BND.view(batch, tokens, heads, width // heads).transpose(1, 2)
    if group:
        x = x_BND.view(batch, tokens // (n * n), n, n, heads, width // heads)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch * n, heads, tokens // n, width // heads)
    x = x_BND.view(batch, tokens // n, n, heads, width // heads)
    return x.permute(0, 2, 3, 1, 4).reshape(batch * n, heads, tokens // n, width // heads)


def joined_heads(x: Tensor, batch: int, n: int, *, group: bool) -> Tensor:
    """The inverse of `split_heads`: (B·n, H, N/n, K) to (B, N, D)."""
    _, heads, tokens, width = x.shape
    if n == 1:
        return x.transpose(1, 2).reshape(batch, tokens, heads * width)
    if group:
        x = x.view(batch, n, heads, tokens // n, n, width)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, tokens * n, heads * width)
    x = x.view(batch, n, heads, tokens, width)
    return x.permute(0, 3, 1, 2, 4).reshape(batch, tokens * n, heads * width)


def split_mask(mask_BN: Tensor, n: int, *, group: bool) -> Tensor:
    """A key mask by sub-sequence: (B·n, N/n)."""
    batch, tokens = mask_BN.shape
    if n == 1:
        return mask_BN
    if group:
        return mask_BN.view(batch, tokens // (n * n), n, n).permute(0, 2, 1, 3).reshape(batch * n, tokens // n)
    return mask_BN.view(batch, tokens // n, n).transpose(1, 2).reshape(batch * n, tokens // n)
