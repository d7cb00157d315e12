"""The optimiser over the trainable groups, its state by parameter name, and the clipping of gradients."""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from osplan.domain.errors import UserError
from osplan.domain.stage import Clip, Optimizer
from osplan.parallel.sharding import local, spread_like, whole
from osplan.train.parameters import Group


def build_optimizer(settings: Optimizer, model: nn.Module, groups: Sequence[Group], learning_rate: float) -> torch.optim.Optimizer:
    """An optimiser with one parameter group per Group, in their order.

    Raises UserError OPTIMIZER_MISSING where the package of the optimiser is not installed.
    """
    named = dict(model.named_parameters())
    parts: list[dict[str, Any]] = [
        {
            "params": [named[name] for name in group.names],
            "lr": learning_rate * group.ratio,
            "names": list(group.names),
            "ratio": group.ratio,
        }
        for group in groups
    ]
    betas = (settings.beta1, settings.beta2)
    on_gpu = any(parameter.is_cuda for parameter in named.values())
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(
                parts,
                lr=learning_rate,
                betas=betas,
                eps=settings.epsilon,
                weight_decay=settings.weight_decay,
                fused=on_gpu,
                foreach=None if on_gpu else True,
            )
        case "sgd":
            return torch.optim.SGD(parts, lr=learning_rate, momentum=settings.beta1, weight_decay=settings.weight_decay)
        case "adamw-8bit":
            return _installed("bitsandbytes.optim", "AdamW8bit", settings.name)(
                parts, lr=learning_rate, betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay
            )
        case "prodigy":
            return _installed("prodigyopt", "Prodigy", settings.name)(
                parts, lr=1.0, betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay
            )
        case other:
            raise UserError("OPTIMIZER_MISSING", f"optimizer.name: expected an optimiser this trainer has, got {other}", "use adamw")


def _installed(module: str, name: str, optimizer: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as cause:
        raise UserError(
            "OPTIMIZER_MISSING",
            f"optimizer.name: {optimizer} needs the Python package {module.split('.')[0]}, which is not installed",
            "install it in the environment, or use adamw",
        ) from cause


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The learning rate of the stage, times each group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["ratio"]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State tensors by `SLOT/PARAMETER`; a scalar becomes a tensor of one number."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"{slot}/{name}"] = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Gives parameters their saved state; returns how many got it and how many start anew."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        slot, name = key.split("/", 1)
        by_name.setdefault(name, {})[slot] = value
    carried = fresh = 0
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            saved = by_name.get(name)
            if saved is None:
                fresh += 1
                continue
            optimizer.state[parameter] = {
                slot: value.clone() if slot == "step" else spread_like(value, parameter.detach()).clone() for slot, value in saved.items()
            }
            carried += 1
    return carried, fresh


class Clipper:
    """Clips the gradient of all trainable tensors together and remembers what an adaptive threshold needs.

    Sources: upstream's v1.3 report, "Adaptive gradient clipping" (threshold = moving mean + 3 moving deviations);
    ZClip (Kumar et al. 2025, arXiv:2504.02507): a norm whose z-score is above 2.5 is cut to mean + (2.5² / z) deviations.
    """

    def __init__(self, settings: Clip) -> None:
        self.mode, self.norm, self.decay = settings.mode, settings.norm, settings.ema_decay
        self.mean, self.variance, self.seen = 0.0, 0.0, 0

    def scale_for(self, norm: float) -> float:
        """Factor on the gradient for its norm, at most 1; updates the moving statistics."""
        limit = self._limit(norm)
        clipped = min(norm, limit)
        if self.mode in ("adaptive", "zclip"):
            self._observe(clipped)
        return 1.0 if norm <= limit or norm == 0 else limit / norm

    def _limit(self, norm: float) -> float:
        match self.mode:
            case "none":
                return math.inf
            case "norm":
                return self.norm
            case _ if self.seen < 2:
                return math.inf
            case "adaptive":
                return self.mean + 3 * math.sqrt(self.variance)
            case _:
                deviation = math.sqrt(self.variance) + 1e-12
                z = (norm - self.mean) / deviation
                return math.inf if z <= 2.5 else self.mean + (2.5**2 / z) * deviation

    def _observe(self, norm: float) -> None:
        if self.seen == 0:
            self.mean = norm
        delta = norm - self.mean
        self.mean += (1 - self.decay) * delta
        self.variance = self.decay * (self.variance + (1 - self.decay) * delta * delta)
        self.seen += 1

    def state(self) -> dict[str, float]:
        """The moving statistics and the settings that may have been changed while running."""
        return {"mean": self.mean, "variance": self.variance, "seen": self.seen}

    def restore(self, state: Mapping[str, float]) -> None:
        """Takes over saved statistics."""
        self.mean, self.variance, self.seen = state["mean"], state["variance"], int(state["seen"])


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, float32; 0 where there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    return whole(nn.utils.get_total_norm([gradient.float() for gradient in gradients]))


def scale_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiplies all gradients by a factor."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients and factor != 1:
        torch._foreach_mul_(gradients, factor)
