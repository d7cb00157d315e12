"""Which activations of a block are kept for the backward pass, and which are computed again."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "all"]
"""`selective` keeps attention and every matrix product except those that widen (the first of a feed-forward layer)."""
RECOMPUTE: tuple[str, ...] = get_args(Recompute)

_aten = torch.ops.aten
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}
_MATRIX_OPERANDS = {_aten.mm.default: 1, _aten.addmm.default: 2}


def _policy(_context: object, operator: Callable[..., Any], *args: Any, **_options: Any) -> CheckpointPolicy:
    if operator in _ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    place = _MATRIX_OPERANDS.get(operator)  # type: ignore[arg-type]
    if place is not None:
        channels_in, channels_out = args[place].shape
        return CheckpointPolicy.MUST_SAVE if channels_out <= channels_in else CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.PREFER_RECOMPUTE


def run_block(block: nn.Module, recompute: Recompute, *args: Any) -> Any:
    """Runs a block on its arguments, keeping what `recompute` says. Numbers are the same in all three ways."""
    if recompute == "none" or not torch.is_grad_enabled():
        return block(*args)
    if recompute == "all":
        return checkpoint(block, *args, use_reentrant=False)
    return checkpoint(block, *args, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy))
