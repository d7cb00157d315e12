"""A parity case: reference inputs and outputs of an upstream module, and the rule that makes its weights.

A case is a pair `NAME.json` + `NAME.safetensors`: tensors `in.*` are inputs, `out.*` expected values,
`out.grad.NAME` the gradient of `out.loss` with respect to parameter NAME. No weights are stored: each follows
from its state-dict name, its shape and the case's seed (rule "philox-crc32-v1").
"""

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from osplan.domain.errors import UserError

RULE = "philox-crc32-v1"
GRADIENT = "grad."
"""Before the name of a parameter: its gradient."""


@dataclass(frozen=True)
class Case:
    """One reference case as read from disk."""

    name: str
    spec: Mapping[str, Any]
    """The parsed JSON: source, config, params, weights, keys, constants, inputs, outputs, tables, tolerance."""
    inputs: Mapping[str, Tensor]
    """Input tensors without their `in.` prefix."""
    expected: Mapping[str, Tensor]
    """Expected tensors without their `out.` prefix."""


Outputs = dict[str, Any]
Handler = Callable[[Case], Outputs]
"""Rebuilds a case with our own modules and returns what it names: outputs and `grad.NAME` as tensors, tables under `table.NAME`."""


def draw(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The raw standard-normal float32 draw that belongs to a name, a shape and a seed."""
    key = (int(seed) << 32) | zlib.crc32(name.encode())
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(tuple(shape), dtype=np.float32)


def seeded(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """The float32 weight the rule gives to a state-dict name of a shape."""
    r = np.asarray(draw(name, shape, seed), np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "weight" and len(shape) == 1:
        r = np.float32(1) + np.float32(0.1) * r
    elif last == "bias":
        r = np.float32(0.1) * r
    elif last == "weight" and len(shape) >= 2:
        r = r / np.float32(math.sqrt(math.prod(shape[1:])))
    else:
        r = np.float32(0.3) * r
    return torch.from_numpy(np.array(r, np.float32))


def seeded_state(keys: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Every seeded tensor of a state dict, by upstream's names."""
    return {name: seeded(name, shape, seed) for name, shape in keys.items()}


def load_seeded(model: nn.Module, keys: Mapping[str, Any], seed: int) -> None:
    """Fills a model with the rule's weights under upstream's names. Buffers keep their initial values.

    Raises UserError CASE_INVALID where the case's names and shapes are not those of the model's parameters.
    """
    wanted = {name: tuple(shape) for name, shape in keys.items()}
    own = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if own != wanted:
        name = min(name for name in own | wanted if own.get(name) != wanted.get(name))
        raise UserError("CASE_INVALID", f"case keys {name}: expected {own.get(name)} as the config makes it, got {wanted.get(name)}")
    model.load_state_dict(seeded_state(wanted, seed), strict=False)


def load_case(path: Path) -> Case:
    """Reads `NAME.json` and the `NAME.safetensors` beside it.

    Raises UserError CASE_INVALID where either is missing or not in the format.
    """
    tensors_path = path.with_suffix(".safetensors")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UserError("CASE_INVALID", f"{path}: expected a JSON parity case, got {cause}") from cause
    try:
        tensors = load_file(tensors_path)
    except Exception as cause:
        raise UserError(
            "CASE_INVALID", f"{tensors_path}: expected the case's tensors, got {cause}", "keep both files of a case together"
        ) from cause
    rule = (spec.get("weights") or {}).get("name", RULE)
    if rule != RULE:
        raise UserError("CASE_INVALID", f"{path}: expected weight rule {RULE}, got {rule}")
    return Case(
        name=path.stem,
        spec=spec,
        inputs={k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")},
        expected={k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")},
    )
