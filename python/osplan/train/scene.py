"""The scene of an incident: the clips of the step, the gradient of every module, and how many of its numbers are none.

Every rank takes part; all get the same answer.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from osplan.parallel.world import World
from osplan.train.task import Batch

MOST_CLIPS = 256
MOST_MODULES = 400


@dataclass(frozen=True)
class Scene:
    """What a step that was looked at more closely was made of."""

    clips: tuple[str, ...]
    """Files of the global batch, each once, in order of ranks and micro-batches."""
    modules: dict[str, float]
    """Gradient norm before clipping by module, those of one block together."""
    overflows: dict[str, int]
    """Modules with gradient values that are infinite or not a number, and how many."""

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return {"clips": list(self.clips), "modules": self.modules, "overflows": self.overflows}


NOTHING = Scene((), {}, {})
"""The scene of what no single step shows."""


def scene_of(model: nn.Module, batches: Sequence[Batch], world: World) -> Scene:
    """Looks at the gradients as they are now."""
    paths = world.gathered([path for batch in batches for path in batch.paths])
    squares: dict[str, Tensor] = {}
    bad: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        module = module_of(name)
        square = _whole(torch.linalg.vector_norm(parameter.grad.detach().float())).double().square()
        squares[module] = squares[module] + square if module in squares else square
        if not bool(square.isfinite()):
            bad[module] += int((~_whole(parameter.grad).isfinite()).sum())
    modules = {name: float(square.sqrt()) for name, square in list(squares.items())[:MOST_MODULES]}
    clips = tuple(dict.fromkeys(path for rank in paths for path in rank))[:MOST_CLIPS]
    return Scene(clips, modules, {name: count for name, count in bad.items() if count})


def module_of(parameter: str) -> str:
    """`transformer_blocks.3.attn1.to_q.weight` → `transformer_blocks.3`: the block a parameter is in, or its outermost module."""
    head, *rest = parameter.split(".")
    return f"{head}.{rest[0]}" if rest and rest[0].isdigit() else head


def are_finite(tensors: Iterable[Tensor], world: World) -> bool:
    """Whether every value is a number, on all ranks."""
    parts = [_local(tensor.detach()) for tensor in tensors if tensor.is_floating_point()]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm([part for part in parts if part.numel()])])
    return world.largest(int(not bool(norms.isfinite().all()))) == 0


def _local(value: Tensor) -> Tensor:
    """This rank's part of a tensor that ranks share, or the tensor itself."""
    to_local: Any = getattr(value, "to_local", None)
    return value if to_local is None else to_local()


def _whole(value: Tensor) -> Tensor:
    """All of a tensor that ranks share, or the tensor itself."""
    full: Any = getattr(value, "full_tensor", None)
    return value if full is None else full()
