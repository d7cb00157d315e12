"""Merging a file of low-rank adapters into the weights they were trained beside, without building the model.

Source of the file's layout: peft, `adapter_config.json` and `adapter_model.safetensors`; W + (alpha / r) B A.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from osplan.domain.errors import UserError
from osplan.train.adapters import PREFIX
from osplan.train.checkpoint import ADAPTER_WEIGHTS

CONFIG = "adapter_config.json"
UNMERGED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
)
"""Settings of peft that make more of an adapter than two matrices."""
A, B = ".lora_A.weight", ".lora_B.weight"


def merged(base: Mapping[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], int]:
    """The base with the adapters of a folder merged in, in the base's types, and how many tensors that changed.

    Raises UserError LORA_MISSING, LORA_UNSUPPORTED or LORA_MISMATCH.
    """
    config, tensors = _read(folder)
    pairs = {
        name.removesuffix(A): (value, tensors.pop(name.removesuffix(A) + B, None)) for name, value in list(tensors.items()) if A in name
    }
    stray = [name for name in tensors if not name.endswith(A)] + [name for name, (_, b) in pairs.items() if b is None]
    if stray or not pairs:
        raise UserError(
            "LORA_MISMATCH",
            f"{folder / ADAPTER_WEIGHTS}: expected pairs of lora_A and lora_B, got {stray[0] if stray else 'none'}",
            "only adapters of linear layers can be merged",
        )
    result = dict(base)
    for module, (down_RI, up_OR) in pairs.items():
        assert up_OR is not None
        weight_OI = base.get(f"{module}.weight")
        fits = up_OR.ndim == down_RI.ndim == 2 and up_OR.shape[1] == down_RI.shape[0]
        if weight_OI is None or not fits or weight_OI.shape != (up_OR.shape[0], down_RI.shape[1]):
            got = "no such tensor" if weight_OI is None else f"shape {tuple(weight_OI.shape)}"
            expected = f"{module}.weight: expected the weight of the adapters {tuple(down_RI.shape)} and {tuple(up_OR.shape)}"
            raise UserError("LORA_MISMATCH", f"{expected}, got {got}", "name the weights these adapters were trained beside")
        delta_OI = up_OR.float() @ down_RI.float() * _scale(config, module, down_RI.shape[0])
        result[f"{module}.weight"] = (weight_OI.float() + delta_OI).to(weight_OI.dtype)
    return result, len(pairs)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config_path, weights = folder / CONFIG, folder / ADAPTER_WEIGHTS
    if not config_path.is_file() or not weights.is_file():
        missing = config_path if not config_path.is_file() else weights
        raise UserError(
            "LORA_MISSING", f"{missing}: expected adapters in peft's layout, got no such file", "name a checkpoint's `adapter/` folder"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        tensors = load_file(weights)
    except Exception as cause:
        raise UserError("LORA_MISSING", f"{folder}: expected readable adapters, got {cause}", "write them again") from cause
    unmerged = [name for name in UNMERGED if config.get(name)]
    if config.get("peft_type") != "LORA" or unmerged:
        got = f"peft_type {config.get('peft_type')}" + "".join(f", {name}" for name in unmerged)
        raise UserError("LORA_UNSUPPORTED", f"{config_path}: expected plain LoRA, got {got}", "merge them with peft")
    return config, {name.removeprefix(PREFIX): value for name, value in tensors.items()}


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alphas = {name: value for name, value in (config.get("alpha_pattern") or {}).items() if module == name or module.endswith(f".{name}")}
    alpha = float(next(iter(alphas.values()), config.get("lora_alpha", rank)))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
