"""Spikes: single steps far above what is usual, judged before the optimiser takes them.

The loss of a diffusion step is mostly decided by the times that happen to be drawn: it is divided by what is usual in its time bins
before it is compared with anything. Losses and norms are compared by their logarithms, for both vary by factors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.moving import Moving, log
from osplan.domain.watch.reading import Alert, Evidence, Reading, Rule

LASTING = (3, 5)
"""A spike lasts where this many of the last so many steps are beyond half the threshold."""
FAMILIAR = 5
"""Values after which a time bin is known."""
FLOOR = 0.05
KEPT = 20


class Spike(Rule):
    """One series watched for spikes. `judge` looks, `learn` takes a step that was made into account."""

    quantity: str
    advice: str

    def __init__(self) -> None:
        self.usual = Moving(FLOOR)
        self.recent: list[list[float]] = []
        """(step, value, score) of the last steps."""

    def threshold_of(self, thresholds: Thresholds) -> float | None:
        """Deviations; None switches the rule off."""
        raise NotImplementedError

    def value_of(self, reading: Reading) -> float | None:
        """The quantity itself; None where this step has none."""
        raise NotImplementedError

    def normalised(self, reading: Reading, value: float) -> float | None:
        """Logarithm of the value, less what is known to move it; None where that is not known yet."""
        return log(value)

    def judge(self, reading: Reading, thresholds: Thresholds, *, quiet: bool) -> Alert | None:
        """What this step looks like against all steps learnt so far."""
        limit, value = self.threshold_of(thresholds), self.value_of(reading)
        if limit is None or value is None or not math.isfinite(value) or self.usual.seen < thresholds.warmup_steps:
            return None
        above = self.normalised(reading, value)
        if above is None:
            return None
        score, factor = self.usual.score(above), math.exp(min(700.0, above - self.usual.mean))
        high = [point for point in self.recent[-LASTING[1] + 1 :] if point[2] > limit / 2]
        lasts = score > limit / 2 and len(high) >= LASTING[0] - 1
        if factor < thresholds.spike_ratio or not (lasts or (score > limit and not quiet)):
            return None
        usual = value / factor
        points = [*((int(step), value) for step, value, _ in (high if lasts else [])), (reading.step, value)]
        how = f"for {len(high) + 1} of the last {LASTING[1]} steps" if lasts else "in one step"
        return self.alert(
            reading.step,
            f"{self.quantity} {value:.4g}, usual {usual:.4g}: {factor:.3g} times as much {how}, {score:.1f} deviations (limit {limit:g})",
            self.advice,
            Evidence(self.quantity, tuple(points), usual),
        )

    def learn(self, reading: Reading) -> None:
        """A step that was made."""
        value = self.value_of(reading)
        if value is None or not math.isfinite(value):
            return
        above = self.normalised(reading, value)
        if above is None:
            return
        score = self.usual.score(above) if self.usual.seen >= FAMILIAR else 0.0
        self.recent = [*self.recent[1 - KEPT :], [reading.step, value, min(score, 1e6)]]
        self.usual.add(above)

    def state(self) -> dict[str, Any]:
        """What is usual, and the last steps."""
        return {"usual": self.usual.state(), "recent": [list(point) for point in self.recent]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.usual = Moving.of(state["usual"], FLOOR)
        self.recent = [list(point) for point in state["recent"]]

    def reset(self) -> None:
        """Forgets what is usual: something else is trained from here on."""
        self.restore(type(self)().state())


class NonFinite(Rule):
    """A loss or gradient that is no number."""

    name, threshold = "non-finite", "policy"
    watches = "a loss, gradient or weight that is infinite or not a number"
    reason = "one such step makes every weight useless, and every checkpoint after it"
    source = "Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2; PyTorch Lightning's SpikeDetection: `finite_only`"

    def judge(self, reading: Reading) -> Alert | None:
        """Looks at loss and gradient norm before the step is taken."""
        norm = reading.gradient_norm
        if math.isfinite(reading.loss) and (norm is None or math.isfinite(norm)):
            return None
        found = f"loss {reading.loss}" + ("" if norm is None else f" and gradient norm {norm}")
        return self.found(reading.step, f"expected a finite loss and gradient, got {found}", reading.loss)

    def found(self, step: int, message: str, value: float) -> Alert:
        """The alert."""
        advice = "look at the clips of this batch; if they are whole, lower the learning rate or use a wider precision"
        return self.alert(step, message, advice, Evidence("loss", ((step, value),)))


class LossSpike(Spike):
    """The loss, divided by what is usual in its time bins."""

    name, threshold, quantity = "loss-spike", "lossSpike", "loss"
    watches = "a loss far above what is usual at its times"
    reason = "a damaged clip, a wrong caption or too large a step shows here first; one such step can undo hundreds"
    source = (
        "time bins: Nichol and Dhariwal 2021 (arXiv:2102.09672), section 3.3; deviations of a moving mean: Kumar et al. 2025, ZClip "
        "(arXiv:2504.02507); skipping such batches: Chowdhery et al. 2022, PaLM (arXiv:2204.02311), section 5.1"
    )
    advice = "look at the clips of this batch; incidents.onSpike: skip leaves such batches out, rollback also undoes the steps before"

    def __init__(self) -> None:
        super().__init__()
        self.bins: dict[int, Moving] = {}

    def threshold_of(self, thresholds: Thresholds) -> float | None:
        """`incidents.watch.lossSpike`."""
        return thresholds.loss_spike

    def value_of(self, reading: Reading) -> float | None:
        """The loss."""
        return reading.level

    def normalised(self, reading: Reading, value: float) -> float | None:
        """Logarithm of the loss over what its known bins lead one to expect; of the loss itself where a task has no times."""
        present = _present(reading.by_bin)
        if not present:
            return log(value)
        known = [(loss, self.bins[place]) for place, loss in present if self._is_familiar(place)]
        if not known:
            return None
        return log(sum(loss for loss, _ in known)) - log(sum(math.exp(min(700.0, usual.mean)) for _, usual in known))

    def learn(self, reading: Reading) -> None:
        """Also what is usual in each bin."""
        super().learn(reading)
        for place, loss in _present(reading.by_bin):
            self.bins.setdefault(place, Moving(FLOOR)).add(log(loss))

    def _is_familiar(self, place: int) -> bool:
        return place in self.bins and self.bins[place].seen >= FAMILIAR

    def state(self) -> dict[str, Any]:
        """Also the bins."""
        return {**super().state(), "bins": {str(place): usual.state() for place, usual in self.bins.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        super().restore(state)
        self.bins = {int(place): Moving.of(usual, FLOOR) for place, usual in state["bins"].items()}


class GradientSpike(Spike):
    """The norm of the gradient before clipping."""

    name, threshold, quantity = "gradient-spike", "gradientSpike", "gradient norm"
    watches = "a gradient norm far above what is usual"
    reason = "clipping bounds the step but keeps its direction, and an adaptive optimiser remembers the wild gradient for many steps"
    source = "Kumar et al. 2025, ZClip (arXiv:2504.02507); Chowdhery et al. 2022, PaLM (arXiv:2204.02311), section 5.1"
    advice = "look at the clips of this batch; where spikes come back lower the learning rate, or use clip.mode: zclip"

    def threshold_of(self, thresholds: Thresholds) -> float | None:
        """`incidents.watch.gradientSpike`."""
        return thresholds.gradient_spike

    def value_of(self, reading: Reading) -> float | None:
        """The norm; zeros are the business of another rule."""
        return reading.gradient_norm or None

    def usual_norm(self) -> float | None:
        """What the norm usually is; None before anything was learnt."""
        return math.exp(min(700.0, self.usual.mean)) if self.usual.seen else None


def _present(by_bin: Sequence[float | None] | None) -> list[tuple[int, float]]:
    return [(place, loss) for place, loss in enumerate(by_bin or ()) if loss is not None and math.isfinite(loss)]


class RepeatedSpikes(Rule):
    """Spikes that come back."""

    name, threshold = "repeated-spikes", "lossSpike"
    watches = "three spikes within five hundred steps"
    reason = "single spikes come from single batches, repeated ones from a step that is too large for where training is"
    source = "Zhang et al. 2022, OPT (arXiv:2205.01068), section 2.5; Wortsman et al. 2023 (arXiv:2309.14322)"
    STATE = ("spikes",)
    COUNT, WITHIN = 3, 500

    def __init__(self) -> None:
        self.spikes: list[list[float]] = []
        """(step, value over usual) of the last ones."""

    def spike(self, found: Alert) -> Alert | None:
        """One spike more."""
        usual = found.evidence.expected or 1.0
        self.spikes = [spike for spike in self.spikes if spike[0] > found.step - self.WITHIN]
        self.spikes.append([found.step, found.evidence.values[-1][1] / usual])
        if len(self.spikes) < self.COUNT:
            return None
        points = tuple((int(step), value) for step, value in self.spikes)
        self.spikes = []
        return self.alert(
            found.step,
            f"{len(points)} spikes since step {points[0][0]}, up to {max(value for _, value in points):.3g} times the usual",
            "lower the learning rate (to a half), or use clip.mode: zclip; if the same clips are in every one, look at them instead",
            Evidence("value over usual", points, 1.0),
            "advice",
        )
