"""Compares what a handler returned with what a case expects.

What a handler returns: every name of the case's `outputs` as a tensor (gradients under `grad.NAME`), and every
result table of the case under `table.NAME` as plain lists, dicts, strings and numbers. A missing name fails the
case. Names ending in `attn2.to_k.bias` are never compared: their gradient is zero in exact arithmetic.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from osplan.parity.case import Case
from osplan.parity.tolerance import Limit, kind_of, limits_of_case

DESCRIPTIVE_TABLES = frozenset({"runs", "extension_source", "extension_seed", "extension_rule"})
"""Tables that say how a case was run; every other table is a result."""
SIGN_FLIPS = 1e-3
"""Share of a tensor's elements that may move the other way in a first AdamW step, where the gradient is rounding noise."""


@dataclass(frozen=True)
class Difference:
    """How far one output is from the case."""

    name: str
    max_abs: float
    """Largest absolute difference of an element; infinite where the output is missing or has another shape."""
    max_rel: float
    """L2 norm of the difference over the L2 norm expected (per step: over the standard deviation, worst step)."""
    tolerance: float
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """A compared case."""

    name: str
    outputs: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        return bool(self.outputs) and all(each.passed for each in self.outputs)


def compare(case: Case, outputs: Mapping[str, Any]) -> Report:
    """Every expected output and result table of a case against what a handler returned."""
    limits = limits_of_case(case.spec)
    differences = []
    for name, expected in sorted(case.expected.items()):
        if name.endswith("attn2.to_k.bias"):
            continue
        limit = limits[kind_of(name, expected.numel())]
        if not expected.is_floating_point() and "uint8" not in name:
            limit = Limit("absolute", 0)
        differences.append(_compare_tensor(case, name, expected, outputs.get(name), limit))
    for name, table in (case.spec.get("tables") or {}).items():
        if name not in DESCRIPTIVE_TABLES:
            differences.append(_compare_table(f"table.{name}", table, outputs))
    return Report(case.name, tuple(differences))


def _compare_tensor(case: Case, name: str, expected: Tensor, actual: object, limit: Limit) -> Difference:
    if not isinstance(actual, Tensor):
        return Difference(name, math.inf, math.inf, limit.value, False, "not computed")
    actual = actual.detach().cpu()
    if expected.numel() == 1 and actual.numel() == 1:
        actual = actual.reshape(expected.shape)
    if actual.shape != expected.shape:
        return Difference(
            name, math.inf, math.inf, limit.value, False, f"expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
        )
    expected, actual = _valid(case, name, expected.double()), _valid(case, name, actual.double())
    undefined = expected.isnan()
    if not torch.equal(undefined, actual.isnan()):
        return Difference(name, math.nan, math.nan, limit.value, False, "not-a-number where a number is expected, or the reverse")
    expected, actual = expected.masked_fill(undefined, 0), actual.masked_fill(undefined, 0)
    # Equal infinities agree; their difference would be NaN.
    difference = torch.where(expected == actual, 0.0, actual - expected)
    return _judge(case, name, expected, difference, limit)


def _judge(case: Case, name: str, expected: Tensor, difference: Tensor, limit: Limit) -> Difference:
    if expected.numel() == 0:
        return Difference(name, 0.0, 0.0, limit.value, True)
    max_abs = difference.abs().max().item()
    max_rel = _per_step(name, expected, difference) if limit.measure == "per-step" else _relative(expected, difference)
    if name.startswith("after."):
        passed = _moved_alike(difference, limit.value, float(case.spec["params"]["lr"]))
    else:
        passed = (max_abs if limit.measure == "absolute" else max_rel) <= limit.value
    if limit.max_abs is not None:
        passed = passed and max_abs <= limit.max_abs * max(1.0, expected.abs().max().item())
    return Difference(name, max_abs, max_rel, limit.value, passed)


def _relative(expected: Tensor, difference: Tensor) -> float:
    """L2 norm of the difference over that expected; the plain norm where zero is expected."""
    norm = expected.norm().item()
    return difference.norm().item() / norm if norm > 0 else difference.norm().item()


def _per_step(name: str, expected: Tensor, difference: Tensor) -> float:
    """Root mean square difference in standard deviations of the step it belongs to; the worst step of `latents_after`."""
    if expected.ndim < 4:
        return _relative(expected, difference)
    steps = zip(expected, difference, strict=True) if name == "latents_after" else [(expected, difference)]
    return max(d.square().mean().sqrt().item() / e.std().item() for e, d in steps)


def _moved_alike(difference: Tensor, tolerance: float, learning_rate: float) -> bool:
    """Whether parameters agree after AdamW's first step, which moves each by the learning rate in its gradient's sign."""
    apart = difference.abs() > tolerance
    flipped_at_most = difference.abs().max().item() <= 2 * learning_rate + tolerance
    return flipped_at_most and apart.double().mean().item() <= SIGN_FLIPS


def _valid(case: Case, name: str, values: Tensor) -> Tensor:
    """The values at positions a case's latent mask keeps; all of them where no mask applies.

    Applies to outputs on the latent grid [B, C, T, H, W] and to `blocks` [layer, token, width] of batch element 0.
    """
    mask_BTHW = case.inputs.get("attention_mask")
    if mask_BTHW is None or mask_BTHW.ndim != 4 or name.startswith(("grad.", "after.")):
        return values
    if values.ndim == 5 and (values.shape[0], *values.shape[2:]) == tuple(mask_BTHW.shape):
        return values.movedim(1, -1)[mask_BTHW > 0.5]
    if name == "blocks" and values.ndim == 3:
        config = case.spec.get("config") or {}
        patch, patch_t = int(config.get("patch_size", 2)), int(config.get("patch_size_t", 1))
        pooled = torch.nn.functional.max_pool3d(mask_BTHW[:1, None].float(), (patch_t, patch, patch))
        kept = pooled.flatten() > 0.5
        return values[:, kept] if kept.numel() == values.shape[1] else values
    return values


def _compare_table(name: str, expected: object, outputs: Mapping[str, Any]) -> Difference:
    if name not in outputs:
        return Difference(name, math.inf, math.inf, 0.0, False, "not computed")
    where = first_disagreement(expected, outputs[name])
    return Difference(name, math.inf, math.inf, 0.0, False, where) if where else Difference(name, 0.0, 0.0, 0.0, True)


def first_disagreement(expected: object, actual: object, path: str = "") -> str:
    """Where two plain values first differ, or an empty string. Numbers agree to 1e-12 of their size."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if expected.keys() != actual.keys():
            return f"{path or '.'}: expected keys {sorted(expected)}, got {sorted(actual)}"
        pairs = [(f"{path}.{key}", expected[key], actual[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(actual, list | tuple):
        if len(expected) != len(actual):
            return f"{path or '.'}: expected {len(expected)} entries, got {len(actual)}"
        pairs = [(f"{path}[{i}]", e, a) for i, (e, a) in enumerate(zip(expected, actual, strict=True))]
    elif _is_number(expected) and _is_number(actual):
        return "" if math.isclose(expected, actual, rel_tol=1e-12) else f"{path or '.'}: expected {expected}, got {actual}"  # type: ignore[arg-type]
    else:
        return "" if expected == actual else f"{path or '.'}: expected {expected!r}, got {actual!r}"
    return next((found for where, e, a in pairs if (found := first_disagreement(e, a, where))), "")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
