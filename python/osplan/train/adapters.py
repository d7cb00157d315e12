"""Low-rank adapters beside the linear layers of a frozen transformer, through peft.

The base keeps its tensors bit for bit; only the adapters train. A checkpoint holds them in peft's layout, and `model/` holds base and
adapters merged, which is what the next stage and upstream's code read.
Source: Hu et al. 2021, LoRA (arXiv:2106.09685). Shape letters: R rank, I and O inputs and outputs of a linear layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from osplan.domain.errors import UserError
from osplan.domain.stage import Lora
from osplan.parallel.sharding import spread_like
from osplan.train.parameters import PARTS

ADAPTER = "default"
"""peft's name for the one adapter of a model."""
PREFIX = "base_model.model."
"""What peft writes before every name in a file of adapters."""


def targets_of(model: nn.Module, settings: Lora) -> dict[str, nn.Linear]:
    """The linear layers that get adapters, by name: those whose name ends with one of the targets.

    Raises UserError LORA_TARGETS where a target names no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, nn.Linear] = {}
    for target in settings.targets:
        named = {name: module for name, module in linear.items() if name == target or name.endswith(f".{target}")}
        if not named:
            known = sorted({name.split(".", 2)[-1] for name in linear})
            raise UserError(
                "LORA_TARGETS",
                f"lora.targets: expected the name of a linear layer, got {target}",
                f"layers of this model end with: {', '.join(known[:12])}",
            )
        found |= named
    return {name: module for name, module in linear.items() if name in found}


def planned_adapters(model: nn.Module, settings: Lora) -> dict[str, tuple[int, int]]:
    """Shapes of the adapters a model would get, by parameter name; nothing is made."""
    rank = settings.rank or 0
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in targets_of(model, settings).items():
        shapes[f"{name}.lora_A.{ADAPTER}.weight"] = (rank, module.in_features)
        shapes[f"{name}.lora_B.{ADAPTER}.weight"] = (module.out_features, rank)
    return shapes


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> None:
    """Adds adapters in place: A from a normal distribution as upstream, B zero, so that the model predicts what it did before."""
    from peft import LoraConfig, inject_adapter_in_model

    names = sorted(targets_of(model, settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(
            r=settings.rank or 0,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=names,
            init_lora_weights="gaussian",
        )
        inject_adapter_in_model(config, model, ADAPTER)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model trains adapters."""
    return hasattr(model, "peft_config")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names of the bare model, adapters merged into it; a view of the model's tensors where nothing is merged."""
    state = model.state_dict()
    if not has_adapters(model):
        return state
    merged = {name.replace(".base_layer.", "."): value for name, value in state.items() if not PARTS["lora"].search(name)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "lora_A"):
                layer: Any = module
                merged[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
    return merged


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters by the names peft gives them in a file."""
    return {file_name(name): value.detach() for name, value in model.named_parameters() if PARTS["lora"].search(name)}


def file_name(parameter: str) -> str:
    """Name of an adapter's tensor in a file of peft's."""
    return PREFIX + parameter.replace(f".{ADAPTER}.", ".")


def by_parameter(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file of adapters by parameter name.

    Raises UserError LORA_MISMATCH where they are not those of this model.
    """
    wanted = {file_name(name): (name, value.shape) for name, value in model.named_parameters() if PARTS["lora"].search(name)}
    wrong = sorted(wanted.keys() ^ tensors.keys()) + [name for name in wanted if name in tensors and tensors[name].shape != wanted[name][1]]
    if wrong:
        raise UserError(
            "LORA_MISMATCH",
            f"{wrong[0]}: expected adapters of the same layers and rank, got {len(wrong)} tensors that differ",
            "a changed rank or other targets begin with `stagewright advance`, which hands merged weights on",
        )
    return {wanted[name][0]: value for name, value in tensors.items()}


def load_adapters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Takes over the adapters of a file of peft's; the base stays as it is."""
    here = model.state_dict()
    model.load_state_dict({name: spread_like(value, here[name]) for name, value in by_parameter(model, tensors).items()}, strict=False)


def adapter_config(model: nn.Module) -> dict[str, Any]:
    """peft's adapter_config.json."""
    config: Any = model.peft_config[ADAPTER]  # type: ignore[index]
    written = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return {**written, "inference_mode": True}
