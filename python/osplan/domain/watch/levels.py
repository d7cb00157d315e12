"""Levels: means over blocks of steps, for what happens slowly.

A block keeps the loss per time bin, so that two blocks are compared bin by bin: which times were drawn does not matter.
"""

import math
from collections.abc import Mapping
from typing import Any

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.reading import Alert, Evidence, Measurement, Reading, Rule

SURE = 4.0
"""Standard errors between two levels that are not the same."""
FAR = 3.0
"""Times the limit, as logarithms, at which one block is enough."""
SIMPLE = "all"
"""The one bin of a task without times."""


class Block:
    """Losses of some steps: count, mean and sum of squared deviations per bin."""

    def __init__(self, bins: dict[str, list[float]] | None = None) -> None:
        self.bins = bins if bins is not None else {}
        self.first = self.last = 0
        self.steps = 0
        self.total = 0.0

    def add(self, reading: Reading) -> None:
        """One step more."""
        self.first = self.first if self.steps else reading.step
        self.last = reading.step
        self.steps += 1
        self.total += reading.level
        present = [(str(place), loss) for place, loss in enumerate(reading.by_bin or ()) if loss is not None and math.isfinite(loss)]
        for name, loss in present or [(SIMPLE, reading.level)]:
            row = self.bins.setdefault(name, [0, 0.0, 0.0])
            row[0] += 1
            delta = loss - row[1]
            row[1] += delta / row[0]
            row[2] += delta * (loss - row[1])

    @property
    def mean(self) -> float:
        """Plain mean loss."""
        return self.total / max(1, self.steps)

    def state(self) -> list[Any]:
        """As JSON."""
        return [self.first, self.last, self.steps, self.total, {name: list(row) for name, row in self.bins.items()}]

    @staticmethod
    def of(state: Any) -> "Block":
        """Back from its state."""
        block = Block({name: list(row) for name, row in state[4].items()})
        block.first, block.last, block.steps, block.total = int(state[0]), int(state[1]), int(state[2]), float(state[3])
        return block


def difference(later: Block, earlier: Block) -> tuple[float, float] | None:
    """Logarithm of the ratio of two levels, mean over the bins both know, and its standard error; None where they share no bin."""
    terms = []
    for name in later.bins.keys() & earlier.bins.keys():
        a, b = later.bins[name], earlier.bins[name]
        if a[0] < 2 or b[0] < 2 or a[1] <= 0 or b[1] <= 0:
            continue
        error = sum(row[2] / (row[0] - 1) / row[0] / row[1] ** 2 for row in (a, b))
        terms.append((math.log(a[1] / b[1]), error))
    if not terms:
        return None
    return sum(value for value, _ in terms) / len(terms), math.sqrt(sum(error for _, error in terms)) / len(terms)


class Levels:
    """Blocks of the training loss: the one that grows, the last whole ones, the lowest. Shared by the rules that compare levels."""

    KEPT = 12

    def __init__(self) -> None:
        self.growing = Block()
        self.whole: list[Block] = []
        self.lowest: Block | None = None

    def add(self, reading: Reading, steps: int) -> Block | None:
        """One step more; the block where it made one whole."""
        if not math.isfinite(reading.loss):
            return None
        self.growing.add(reading)
        if self.growing.steps < steps:
            return None
        done, self.growing = self.growing, Block()
        self.whole = [*self.whole[1 - self.KEPT :], done]
        return done

    def settle(self, block: Block) -> None:
        """Takes a block for the lowest where it is."""
        if self.lowest is None:
            self.lowest = block
            return
        compared = difference(block, self.lowest)
        if compared is not None and compared[0] < 0:
            self.lowest = block

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "growing": self.growing.state(),
            "whole": [block.state() for block in self.whole],
            "lowest": self.lowest.state() if self.lowest else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.growing = Block.of(state["growing"])
        self.whole = [Block.of(block) for block in state["whole"]]
        self.lowest = Block.of(state["lowest"]) if state["lowest"] else None


class Divergence(Rule):
    """The level of the loss has risen and stays there."""

    name, threshold = "divergence", "divergence"
    watches = "a loss level that has risen well above its lowest, bin by bin, over two blocks, or very far above it in one"
    reason = "training is undoing what it had learnt; further steps cost time and the checkpoints get worse"
    source = "Wortsman et al. 2023 (arXiv:2309.14322): loss divergence of small proxies against the learning rate"
    STATE = ("high", "told")

    def __init__(self) -> None:
        self.high = 0
        """Blocks in a row above the limit."""
        self.told = False

    def block(self, block: Block, levels: Levels, thresholds: Thresholds) -> Alert | None:
        """Judges a whole block against the lowest before it."""
        if thresholds.divergence is None or levels.lowest is None:
            return None
        compared = difference(block, levels.lowest)
        if compared is None:
            return None
        value, error = compared
        is_high = value > math.log(thresholds.divergence) and value > SURE * error
        self.high = self.high + 1 if is_high else 0
        if not is_high:
            self.told = False
        is_far = is_high and value > FAR * math.log(thresholds.divergence) and value > 1.5 * SURE * error
        if self.told or (self.high < 2 and not is_far):
            return None
        self.told = True
        rising = [one for one in levels.whole if one.last > levels.lowest.last][-self.high :]
        return self.alert(
            block.last,
            f"loss level {block.mean:.4g}, lowest {levels.lowest.mean:.4g} over steps {levels.lowest.first}–{levels.lowest.last}: "
            f"{math.exp(value):.3g} times as much at equal times (limit {thresholds.divergence:g}), "
            f"{value / max(error, 1e-9):.0f} standard errors",
            "go back to the checkpoint before the rise with a lower learning rate (a half to a tenth); look at what changed there",
            Evidence("loss", tuple((one.first if n == 0 else one.last, one.mean) for n, one in enumerate(rising)), levels.lowest.mean),
        )


class HeldOutRules:
    """What held-out measurements say, beside the levels of the training loss: plateau, overfitting, noise."""

    KEPT = 64

    def __init__(self) -> None:
        self.series: list[list[float | None]] = []
        """(step, raw, ema) of the newest measurements."""
        self.told: dict[str, bool] = {}
        self.rules = (Plateau(), Overfitting(), NoiseDominated())

    def measured(self, measurement: Measurement, levels: Levels, rate_share: float, thresholds: Thresholds) -> list[Alert]:
        """One measurement more. `rate_share` is the learning rate now over its highest so far."""
        if not math.isfinite(measurement.handed_on) or not math.isfinite(measurement.raw):
            return []
        self.series = [*self.series[1 - self.KEPT :], [measurement.step, measurement.raw, measurement.ema]]
        series = [Measurement(int(step or 0), raw or 0.0, ema) for step, raw, ema in self.series]
        alerts = []
        for rule in self.rules:
            found = rule.judge(series, levels, rate_share, thresholds)
            if found is not None and not self.told.get(rule.name):
                alerts.append(found)
            self.told[rule.name] = found is not None
        return alerts

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"series": [list(point) for point in self.series], "told": dict(self.told)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.series, self.told = [list(point) for point in state["series"]], dict(state["told"])


GAIN = 0.005
"""Relative gain under which a held-out loss has not improved."""
WORSE = 0.02
LEAST = 3


class HeldOutRule(Rule):
    """One rule over the held-out series."""

    def judge(self, series: list[Measurement], levels: Levels, rate_share: float, thresholds: Thresholds) -> Alert | None:
        """What the newest measurements say."""
        raise NotImplementedError


class Plateau(HeldOutRule):
    """The held-out loss no longer falls although the learning rate is still high."""

    name, threshold = "plateau", "plateau"
    watches = "held-out measurements that no longer improve while the learning rate is still high"
    reason = "steps are spent without gain; a lower learning rate, the next phase or the next stage would use them"
    source = "ReduceLROnPlateau of PyTorch: factor 0.1, patience 10"

    def judge(self, series: list[Measurement], levels: Levels, rate_share: float, thresholds: Thresholds) -> Alert | None:
        """No gain of half a percent over the last measurements."""
        patience = thresholds.plateau
        if patience is None or len(series) <= patience or rate_share < 0.2:
            return None
        before, last = series[:-patience], series[-patience:]
        best = min(one.handed_on for one in before)
        lowest = min(one.handed_on for one in last)
        if lowest < best * (1 - GAIN):
            return None
        return self.alert(
            last[-1].step,
            f"held-out loss {last[-1].handed_on:.4g}, best {best:.4g}: no gain of {GAIN:.1%} over the last {patience} measurements",
            "lower the learning rate to a half or a tenth, thaw more, or hand on: `stagewright set RUN learningRate=*0.1`",
            Evidence("held-out loss", tuple((one.step, one.handed_on) for one in last), best),
            "advice",
        )


class Overfitting(HeldOutRule):
    """The held-out loss rises while the training loss falls."""

    name, threshold = "overfitting", "plateau"
    watches = "a held-out loss that rises while the training loss falls"
    reason = "the model learns the clips by heart; later checkpoints generate worse than earlier ones"
    source = "Prechelt 1998, Early stopping – but when?: generalisation loss against training progress"

    def judge(self, series: list[Measurement], levels: Levels, rate_share: float, thresholds: Thresholds) -> Alert | None:
        """Three measurements in a row above the best, and a training level that has fallen since."""
        if thresholds.plateau is None or len(series) < LEAST + 1:
            return None
        best = min(series, key=lambda one: one.handed_on)
        after = [one for one in series if one.step > best.step]
        tail = after[-LEAST:]
        if len(tail) < LEAST or any(one.handed_on <= best.handed_on * (1 + WORSE) for one in tail):
            return None
        then = [block for block in levels.whole if block.last <= best.step] or levels.whole[:1]
        now = [block for block in levels.whole if block.first > best.step]
        compared = difference(now[-1], then[-1]) if then and now else None
        if compared is None or compared[0] > -2 * compared[1]:
            return None
        return self.alert(
            tail[-1].step,
            f"held-out loss {tail[-1].handed_on:.4g}, best {best.handed_on:.4g} at step {best.step}, while the training loss "
            f"fell by {1 - math.exp(compared[0]):.1%} since",
            f"use the checkpoint of step {best.step} (--at best); add clips, freeze more, or lower the learning rate",
            Evidence("held-out loss", tuple((one.step, one.handed_on) for one in [best, *tail]), best.handed_on),
            "advice",
        )


class NoiseDominated(HeldOutRule):
    """The weights bounce around a better point that their moving average shows."""

    name, threshold = "noise-dominated", "plateau"
    watches = "raw weights that are much worse on held-out clips than their moving average"
    reason = "the learning rate is too high for the noise of the gradient: the average over the bounces is better than any of them"
    source = "Izmailov et al. 2018 (arXiv:1803.05407); McCandlish et al. 2018 (arXiv:1812.06162), section 2"

    def judge(self, series: list[Measurement], levels: Levels, rate_share: float, thresholds: Thresholds) -> Alert | None:
        """Three measurements in a row with a raw loss more than 15 % above that of the average."""
        tail = series[-LEAST:]
        if thresholds.plateau is None or len(tail) < LEAST:
            return None
        gaps = [one.raw / one.ema - 1 for one in tail if one.ema]
        if len(gaps) < LEAST or min(gaps) < 0.15:
            return None
        return self.alert(
            tail[-1].step,
            f"held-out loss {tail[-1].raw:.4g} of the raw weights, {tail[-1].ema:.4g} of their moving average: {gaps[-1]:.0%} more",
            "lower the learning rate, or let it fall, or use more clips per step; hand on the moving average",
            Evidence("held-out loss of raw weights", tuple((one.step, one.raw) for one in tail), tail[-1].ema),
            "advice",
        )
