"""Model FLOP utilisation: what the model's matrix products and attention need, of what the device could do in the time.

Counted on the first forward pass of each shape; a backward pass counts twice as much, what is computed again to save memory counts nothing.
Source: Chowdhery et al. 2022, "PaLM", appendix B (arXiv:2204.02311).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

PASSES = 3
"""Forward once, backward twice."""
PEAKS = {
    # Dense tensor-core FLOP/s of the data sheets, in 16 bits and in TF32.
    "H200": (989e12, 494e12), "H100 PCIe": (756e12, 378e12), "H100": (989e12, 494e12), "A100": (312e12, 156e12), "L40S": (362e12, 183e12),
    "L4": (121e12, 60e12), "A10G": (70e12, 35e12), "RTX 4090": (165e12, 83e12), "V100": (125e12, 15.7e12),
}  # fmt: skip
PROBE_SIDE, PROBE_TIMES = 512, 4
_cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class FlopCount:
    """FLOPs of one forward pass of a model on this rank, by the shape of what it is trained on."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._by_shape = model, dict[Sequence[int], int]()
        # A compiled model runs as one operator that counts as nothing.
        self._is_compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())

    def of(self, shape: Sequence[int]) -> int | None:
        """FLOPs for a shape; None where they cannot be counted."""
        return self._by_shape.get(shape)

    @contextmanager
    def counting(self, shape: Sequence[int]) -> Iterator[None]:
        """Within, a call of the model is counted, where it is the first with this shape."""
        if self._is_compiled or shape in self._by_shape:
            yield
            return
        mode: Any = FlopCounterMode(display=False, custom_mapping={_cpu_attention: sdpa_flop})

        def begin(*_: object) -> None:
            mode.__enter__()

        def end(*_: object) -> None:
            mode.__exit__(None, None, None)
            self._by_shape[shape] = mode.get_total_flops()

        handles = (self._model.register_forward_pre_hook(begin), self._model.register_forward_hook(end))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def peak_flops(device: torch.device, precision: str, *, tf32: bool) -> float | None:
    """What the device could do a second at best: of a known GPU by its data sheet, of a CPU as a matrix product shows it.

    None for a GPU nobody wrote down, and for a GPU's plain float32.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peaks for part, peaks in PEAKS.items() if part in name), None)
        if known is None or (precision == "fp32" and not tf32):
            return None
        return known[1] if precision == "fp32" else known[0]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    square = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype)
    _ = square @ square
    started = time.perf_counter()
    for _ in range(PROBE_TIMES):
        _ = square @ square
    return 2 * PROBE_TIMES * PROBE_SIDE**3 / (time.perf_counter() - started)
