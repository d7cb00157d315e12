"""Weights in pickles (.ckpt, .pt, .pth, .bin): read once, only tensors and plain containers, and kept as safetensors from then on.

Which part is taken follows upstream's `from_pretrained`, opensora/models/causalvideovae/model/modeling_videobase.py:38-51.
"""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from osplan.domain.errors import UserError
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.train.checkpoint import WEIGHTS

ENDINGS = (".ckpt", ".pt", ".pth", ".bin")
DISCRIMINATOR = "discriminator.safetensors"


@dataclass(frozen=True)
class Pickled:
    """The tensors of a pickle that are worth keeping."""

    taken: str
    """Where they stood, for example `ema_state_dict`."""
    model: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    """Empty where the file has none."""


def read_pickle(path: Path) -> Pickled:
    """The weights of a .ckpt, .pt or .bin: the moving average if it has tensors, else the generator, else the state dict.

    Only tensors and plain containers are unpickled. Raises UserError PICKLE_UNREADABLE, PICKLE_REFUSED or PICKLE_EMPTY.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as cause:
        raise UserError("PICKLE_UNREADABLE", f"{path}: cannot be read", "check the path and its permissions") from cause
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as cause:
        reason = "it is damaged or holds more than tensors and plain containers"
        raise UserError(
            "PICKLE_REFUSED", f"{path}: not read, {reason}", "code in a pickle is never run; ask its author for safetensors"
        ) from cause
    if not isinstance(found, Mapping):
        raise UserError("PICKLE_EMPTY", f"{path}: expected a state dict, got {type(found).__name__}", "name a file of weights")
    return _picked(found, path)


def _picked(found: Mapping[str, Any], path: Path) -> Pickled:
    nested = found.get("state_dict", found)
    state = nested if isinstance(nested, Mapping) else {}
    place = "state_dict" if "state_dict" in found else "the whole file"
    ema = {name.removeprefix("module."): value for name, value in _tensors(found.get("ema_state_dict")).items()}
    choices = {"ema_state_dict": ema, f"{place}.gen_model": _tensors(state.get("gen_model")), place: _tensors(state)}
    for taken, model in choices.items():
        if model:
            return Pickled(taken, model, _tensors(state.get("dics_model")))
    raise UserError("PICKLE_EMPTY", f"{path}: expected tensors, got none", "name a file of weights")


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}


def as_safetensors(source: Path, target: Path) -> Path:
    """A folder in diffusers' layout with the weights of a pickle, its discriminator, and the config.json beside it, where there are any.

    What lies there already is taken as it is. Raises those of `read_pickle`.
    """
    if (target / WEIGHTS).is_file():
        return target
    pickled = read_pickle(source)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = source.parent / "config.json"
    if config.is_file():
        (target / "config.json").write_bytes(config.read_bytes())
    if pickled.discriminator:
        save_tensors(target / DISCRIMINATOR, pickled.discriminator)
    save_tensors(target / WEIGHTS, pickled.model)
    return target


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes beside the target and renames: a reader never sees half a file. Tensors that share memory are written apart."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, temporary, metadata={"format": "pt"})
    os.replace(temporary, path)


def discriminator_beside(weights: str | None) -> Path | None:
    """The discriminator's file beside an autoencoder's weights: in the same folder, or in the state of the checkpoint they belong to."""
    if weights is None:
        return None
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    return next((path for path in (folder / DISCRIMINATOR, folder.parent / "state" / DISCRIMINATOR) if path.is_file()), None)


def load_discriminator(path: Path) -> dict[str, Tensor] | None:
    """A discriminator's tensors by the names of the network here; None where the file has other ones. Upstream's lie beside a VGG's."""
    tensors = {name.removeprefix("module.").removeprefix("discriminator."): value for name, value in load_file(path).items()}
    wanted = PatchDiscriminator3D().state_dict()
    found = {name: value for name, value in tensors.items() if name in wanted and value.shape == wanted[name].shape}
    return found if found.keys() == wanted.keys() else None
