"""Questions about weights that need Python, one process each: `python -m osplan.weights_tool check FOLDER`, `convert FILE OUT` and
`merge BASE ADAPTER OUT`.

The answer is one JSON object on the last line of stdout; a mistake of a person is `{"error": {code, message, hint}}` with exit code 2.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from osplan.domain.errors import UserError
from osplan.models.registry import build_model
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig
from osplan.models.wfvae_layout import all_filters, in_layout
from osplan.train.assemble import read_weights
from osplan.train.merging import merged
from osplan.train.pickles import DISCRIMINATOR, read_pickle, save_tensors

_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class WantedTensors:
    """What a model loads from a file."""

    shapes: dict[str, list[int]]
    """Name to shape."""
    constants: list[str]
    """Names of wavelet filters in every layout of upstream: a file may have them or not, the config decides their values."""


def wanted_tensors(folder: Path) -> WantedTensors:
    """The tensors of the model that a folder's config.json names, without allocating any.

    Raises UserError CONFIG_MISSING, CONFIG_INVALID or what the model's own config refuses.
    """
    config = _config(folder)
    with torch.device("meta"):
        model = build_model(config)
    constants = _wavelet_names(WfvaeConfig.from_json(config)) if isinstance(model, WFVAE) else []
    return WantedTensors({name: list(value.shape) for name, value in model.state_dict().items()}, constants)


def _wavelet_names(config: WfvaeConfig) -> list[str]:
    filters = all_filters(config)
    return sorted({*filters, *in_layout(filters, "main", config.haar_constant)})


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise UserError("CONFIG_MISSING", f"{path}: cannot be read", "name a folder with config.json and weights") from cause
    except ValueError as cause:
        raise UserError("CONFIG_INVALID", f"{path}: expected JSON, got something else", "fetch config.json again") from cause
    if not isinstance(config, dict):
        raise UserError("CONFIG_INVALID", f"{path}: expected an object, got {type(config).__name__}", "fetch config.json again")
    return config


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Writes a pickle's weights as safetensors and says what was written.

    With a config.json beside the source and a target that is no .safetensors file, the target becomes a folder in diffusers layout;
    else it is one file. A discriminator goes to a file of its own beside it. Raises UserError TARGET_EXISTS and those of `read_pickle`.
    """
    pickled = read_pickle(source)
    config = source.parent / "config.json"
    is_file = target.suffix == ".safetensors" or not config.is_file()
    weights = target if is_file else target / _WEIGHTS
    discriminator = weights.parent / (f"{weights.stem}.discriminator.safetensors" if is_file else DISCRIMINATOR)
    _refuse_existing([weights, *([discriminator] if pickled.discriminator else [])])
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(weights, pickled.model)
    files = [str(weights)]
    if pickled.discriminator:
        save_tensors(discriminator, pickled.discriminator)
        files.append(str(discriminator))
    if not is_file:
        (target / "config.json").write_bytes(config.read_bytes())
        files.append(str(target / "config.json"))
    return {"taken": pickled.taken, "tensors": len(pickled.model), "files": files}


def merge(base: Path, adapter: Path, target: Path) -> dict[str, Any]:
    """Writes the weights of a folder with adapters merged in as a folder in diffusers' layout and says what was written.

    Raises UserError TARGET_EXISTS and those of `read_weights` and `merged`.
    """
    weights, config = target / _WEIGHTS, base / "config.json"
    _refuse_existing([weights])
    tensors, changed = merged(read_weights(base), adapter)
    target.mkdir(parents=True, exist_ok=True)
    save_tensors(weights, tensors)
    files = [str(weights)]
    if config.is_file():
        (target / "config.json").write_bytes(config.read_bytes())
        files.append(str(target / "config.json"))
    return {"changed": changed, "tensors": len(tensors), "files": files}


def _refuse_existing(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UserError("TARGET_EXISTS", f"{path}: exists", "name another target or remove it")


def main(arguments: list[str]) -> int:
    """Answers one question; returns the exit code."""
    try:
        match arguments:
            case ["check", folder]:
                answer = asdict(wanted_tensors(Path(folder)))
            case ["convert", source, target]:
                answer = convert(Path(source), Path(target))
            case ["merge", base, adapter, target]:
                answer = merge(Path(base), Path(adapter), Path(target))
            case _:
                raise UserError("USAGE", "expected check FOLDER, convert FILE OUT or merge BASE ADAPTER OUT", "")
    except UserError as error:
        print(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}))
        return 2
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
