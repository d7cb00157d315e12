"""Arithmetic of the forward pass."""

import contextlib
from contextlib import AbstractContextManager

import torch

from osplan.domain.stage import Stage

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(stage: Stage, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to the stage's precision; nothing for fp32."""
    return autocast_to(stage.memory.precision, device)


def autocast_to(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to a named precision; nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
