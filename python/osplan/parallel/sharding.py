"""Weights shared over ranks with FSDP2, and what a tensor that is spread over them means to everybody else.

A spread tensor is a DTensor: this rank's rows are its *local* part, all ranks' rows together the *whole*. Calls marked collective
must be made by all ranks in the same order.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from osplan.parallel.world import World


def rank_mesh(world: World, *, within_machine: bool) -> DeviceMesh:
    """All ranks in one row, or one row a machine: weights are spread along a row and repeated across rows."""
    device = world.device.type
    if within_machine:
        machines = world.size // world.local_size
        return init_device_mesh(device, (machines, world.local_size), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device, (world.size,), mesh_dim_names=("shard",))


def shard(model: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, arithmetic: torch.dtype | None, *, offload: bool) -> None:
    """Spreads a model's parameters over a mesh, in place: block by block, then what lies outside the blocks.

    `arithmetic` is what weights are gathered in for computing (None: as they are); gradients are reduced in float32.
    `offload` keeps weights, gradients and optimiser state in host memory.
    """
    precision = MixedPrecisionPolicy(param_dtype=arithmetic, reduce_dtype=torch.float32, cast_forward_inputs=False)
    placed: OffloadPolicy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    for module in (*blocks, model):
        # Said for the outermost too, which would else keep its gathered weights, and compute with them after an average came in.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=placed)


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are spread over ranks."""
    return isinstance(model, FSDPModule)


def freeze_but(model: nn.Module, trainable: Iterable[str]) -> None:
    """Gradients for the named parameters and for no other. Collective where the model is sharded.

    FSDP2 makes the gathered twin of a parameter once: what it asks for must be said to both.
    """
    chosen = set(trainable)
    if is_sharded(model):
        for name, module in model.named_modules():
            if isinstance(module, FSDPModule):
                module.unshard()
                _require(cast(nn.Module, module), f"{name}." if name else "", chosen)
                module.reshard()
    _require(model, "", chosen)


def _require(module: nn.Module, prefix: str, chosen: set[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(prefix + name in chosen)
        if prefix + name not in chosen:
            parameter.grad = None


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor of all ranks' parts. Collective for a spread one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, spread as another of its shape is, on its device; one that is spread stays as it is."""
    if isinstance(tensor, DTensor):
        return tensor
    if not isinstance(pattern, DTensor):
        return tensor.to(pattern.device)
    moved = tensor.to(pattern.to_local().device)
    return distribute_tensor(moved, pattern.device_mesh, pattern.placements, src_data_rank=None)


def collected(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copies of whole tensors in host memory, on the ranks that keep them; nothing on the others. Collective where any is spread."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            kept[name] = value.cpu().clone() if value.device.type == "cpu" else value.cpu()
    return kept
