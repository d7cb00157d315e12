"""Moving average of the weights (EMA), kept in float32.

Two rules for the decay of update number i (counted from 0):
`warm-up`   min(decay, (1 + i) / (10 + i)), so that the first updates weigh more
`upstream`  the same with i one behind and counted from `start`: the first update, and all before `start`, copy the weights
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from osplan.domain.errors import UserError

Rule = Literal["constant", "warm-up", "upstream"]


def decay_at(update: int, decay: float, rule: Rule, start: int = 0) -> float:
    """Decay of the average at an update, counted from 0 for `constant` and `warm-up`, from 1 for `upstream`."""
    if rule == "constant":
        return decay
    if rule == "warm-up":
        return min(decay, (1 + update) / (10 + update))
    seen = max(0, update - start - 1)
    return min(decay, (1 + seen) / (10 + seen)) if seen > 0 else 0.0


class Ema:
    """An average of named parameters: average ← decay · average + (1 - decay) · parameter."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], *, decay: float, rule: Rule, start: int = 0) -> None:
        self.decay = decay
        self.rule: Rule = rule
        self.start = start
        self.updates = 0
        self.average = {name: p.detach().to(torch.float32, copy=True) for name, p in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]]) -> float:
        """Takes in the parameters after an optimizer step; returns the decay used. The names are those it was built with."""
        now = dict(parameters)
        assert now.keys() == self.average.keys()
        number = self.updates + 1 if self.rule == "upstream" else self.updates
        decay = decay_at(number, self.decay, self.rule, self.start)
        averages = list(self.average.values())
        weights = [now[name].detach().to(average.device, torch.float32) for name, average in self.average.items()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        self.updates += 1
        return decay

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Writes the average into parameters of the same names, in their dtype."""
        for name, parameter in parameters:
            parameter.copy_(self.average[name])

    @torch.no_grad()
    def swap(self, parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Writes the average into the parameters and returns what they held; `restore` brings it back."""
        pairs = list(parameters)
        held = {name: parameter.detach().clone() for name, parameter in pairs}
        self.copy_to(pairs)
        return held

    @staticmethod
    @torch.no_grad()
    def restore(parameters: Iterable[tuple[str, Tensor]], held: Mapping[str, Tensor]) -> None:
        """Writes back what `swap` returned."""
        for name, parameter in parameters:
            parameter.copy_(held[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything the average needs to go on: tensors under `average`, and the count and rule."""
        return {"average": dict(self.average), "updates": self.updates, "decay": self.decay, "rule": self.rule, "start": self.start}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state, count and rule included.

        Raises UserError EMA_STATE_INVALID where the saved average has other tensors.
        """
        saved: Mapping[str, Tensor] = state["average"]
        if saved.keys() != self.average.keys():
            apart = sorted(saved.keys() ^ self.average.keys())
            message = f"EMA state: expected {len(self.average)} tensors of this model, got {len(saved)}; first that differs: {apart[0]}"
            raise UserError("EMA_STATE_INVALID", message, "continue with the stage that wrote the checkpoint")
        for name, average in self.average.items():
            if saved[name].shape != average.shape:
                message = f"EMA state {name}: expected shape {tuple(average.shape)}, got {tuple(saved[name].shape)}"
                raise UserError("EMA_STATE_INVALID", message, "continue with the stage that wrote the checkpoint")
            average.copy_(saved[name])
        self.updates, self.decay, self.rule, self.start = state["updates"], state["decay"], state["rule"], state["start"]
