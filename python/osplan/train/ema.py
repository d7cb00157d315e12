"""Moving average of the weights in float32, with everything its continuation needs.

Source of the rule: upstream's trainer (diffusers `EMAModel`): decay min(limit, (1 + s) / (10 + s)).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from osplan.domain.stage import Ema as EmaSettings
from osplan.parallel.sharding import local, spread_like


class Ema:
    """Averages of named parameters; buffers are handed on as they are."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: EmaSettings) -> None:
        self.parameters = dict(parameters)
        self.decay, self.start_step, self.rule = settings.decay, settings.start_step, settings.rule
        self.shadow = {name: parameter.detach().float().clone() for name, parameter in self.parameters.items()}
        self.updates = 0

    @property
    def started(self) -> bool:
        """Whether a step has been averaged."""
        return self.updates > 0

    def decay_at(self, step: int) -> float:
        """Decay of the update after optimizer step `step`, which counts from 1."""
        since = step if self.rule == "warmup" else max(0, step - self.start_step - 1)
        if since <= 0:
            return 0.0
        return min(self.decay, (1 + since) / (10 + since))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Averages the weights after a step."""
        self.updates += 1
        weight = 1 - self.decay_at(step)
        shadows = [local(shadow) for shadow in self.shadow.values()]
        torch._foreach_lerp_(shadows, [local(parameter.detach()).float() for parameter in self.parameters.values()], weight)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the model's parameters hold the averages; the weights come back bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """In place, one tensor after the other: sharded parameters may not be replaced, and no second model is needed."""
        for name, parameter in self.parameters.items():
            weights, averages = local(parameter), local(self.shadow[name])
            assert weights.dtype == averages.dtype
            kept = weights.clone()
            weights.copy_(averages)
            averages.copy_(kept)

    def shadow_state(self, model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's state dict with averages in place of parameters."""
        return {name: self.shadow.get(name, value) for name, value in model_state.items()}

    def counters(self) -> dict[str, Any]:
        """What the averages alone do not say."""
        return {"updates": self.updates, "decay": self.decay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over averages (`shadow`) and counters."""
        for name, value in state["shadow"].items():
            if name in self.shadow:
                local(self.shadow[name]).copy_(local(spread_like(value, self.shadow[name])))
        self.updates, self.decay = int(state["updates"]), float(state["decay"])
