"""Optimiser state on disk, in as many files as ranks wrote it: each its own part, read back by any number of ranks.

PyTorch's distributed checkpoint writes and reads them, as safetensors with the place of each part in the header: no pickle.
"""

import json
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint._hf_utils import CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY, _gen_file_name
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future as TorchFuture

from osplan.train.checkpoint import OPTIMIZER

GATHERED = "optimizer.safetensors"
"""Where checkpoints before 2026-11-25 keep the whole state in one file."""
SCALAR = "scalar:"
"""A single number is stored as a list of one under this name."""

warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class _Writer(HuggingFaceStorageWriter):
    """Writes tensors from where they are: PyTorch's own makes two more copies of all of them for a file."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        """One file with this rank's parts, as PyTorch's reader wants it."""
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        if not plan.items:
            done.set_result([])
            return done
        name = _gen_file_name(1, 1, plan.storage_data["shard_index"])
        tensors: dict[str, Any] = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        offsets = {item.index.fqn: {SAVED_OFFSETS_KEY: item.tensor_data.chunk.offsets} for item in plan.items if item.tensor_data}
        save_file(tensors, self.fs.concat_path(self.path, name), metadata={CUSTOM_METADATA_KEY: json.dumps(offsets), "format": "pt"})
        sizes = {item.index.fqn: tensors[item.index.fqn].nbytes for item in plan.items}
        done.set_result(
            [WriteResult(item.index, sizes[item.index.fqn], _StorageInfo(name, 0, sizes[item.index.fqn])) for item in plan.items]
        )
        return done


def start_writing(tensors: Mapping[str, Tensor], folder: Path, group: Any) -> Future[Any]:
    """Copies this rank's parts to host memory, then writes them in another thread.

    All ranks of `group` (gloo; None: this one alone) call it; the future is done when all have written.
    """
    named = {
        SCALAR + name if value.dim() == 0 else name: value.reshape(1) if value.dim() == 0 else value for name, value in tensors.items()
    }
    writer = _Writer(str(folder), save_distributed=True)
    future = dcp.async_save(named, storage_writer=writer, process_group=group, no_dist=group is None)
    assert isinstance(future, Future)
    return future


def read_state(state: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State tensors by `SLOT/PARAMETER` from a checkpoint's state folder; those of spread parameters are spread alike."""
    if (state / GATHERED).is_file():
        return load_file(state / GATHERED)
    if not any((state / OPTIMIZER).glob("*.safetensors")):
        return {}
    reader = HuggingFaceStorageReader(str(state / OPTIMIZER))
    wanted: dict[str, Any] = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        parameter = parameters.get(key.split("/", 1)[1])
        if isinstance(parameter, DTensor) and entry.size == parameter.shape:
            wanted[key] = torch.zeros_like(parameter.detach())
        else:
            wanted[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    dcp.load(wanted, storage_reader=reader, no_dist=True)
    return {key.removeprefix(SCALAR): value.reshape(()) if key.startswith(SCALAR) else value for key, value in wanted.items()}
