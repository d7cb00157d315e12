"""The watch over a run: every rule, folded over steps and measurements as they come.

The loop folds it while it trains and keeps its state in checkpoints; `journal.py` folds the same over a finished run's journal.
"""

from collections.abc import Mapping
from typing import Any

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.levels import Divergence, HeldOutRules, Levels
from osplan.domain.watch.machine import DeadGradients, DiscriminatorCollapse, MemoryCreep, SlowSteps, StuckRank
from osplan.domain.watch.reading import Alert, Measurement, Reading, Rule
from osplan.domain.watch.spikes import GradientSpike, LossSpike, NonFinite, RepeatedSpikes, Spike
from osplan.domain.watch.splice import Splice


class Watch:
    """All rules over one run."""

    def __init__(self) -> None:
        self.non_finite, self.loss, self.gradient = NonFinite(), LossSpike(), GradientSpike()
        self.repeated = RepeatedSpikes()
        self.levels, self.divergence, self.held_out = Levels(), Divergence(), HeldOutRules()
        self.dead, self.slow, self.memory = DeadGradients(), SlowSteps(), MemoryCreep()
        self.discriminator, self.stuck = DiscriminatorCollapse(), StuckRank()
        self.splice = Splice()
        self.quiet_until = 0
        """Last step in which only a lasting spike counts."""
        self.told_until: dict[str, int] = {}
        """Per spike rule the step until which the same is not said again."""
        self.highest_rate = self.rate = 0.0

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, in the order in which they are documented."""
        return (
            self.non_finite, self.loss, self.gradient, self.repeated, self.divergence, *self.held_out.rules, self.dead, self.discriminator,
            self.slow, self.memory, self.stuck, self.splice,
        )  # fmt: skip

    def judge(self, reading: Reading, thresholds: Thresholds) -> Alert | None:
        """What is wrong with a step that has not been taken yet; changes nothing. The loss is looked at before the gradient."""
        impossible = self.non_finite.judge(reading)
        if impossible is not None:
            return impossible
        quiet = reading.step <= self.quiet_until
        for rule in self._spike_rules():
            found = rule.judge(reading, thresholds, quiet=quiet)
            if found is not None:
                return found
        return None

    def _spike_rules(self) -> tuple[Spike, ...]:
        return (self.loss, self.gradient)

    def spiked(self, found: Alert, thresholds: Thresholds) -> list[Alert]:
        """What is said of a step's alert: nothing where the same was said shortly before, and that spikes come back where they do."""
        if found.rule == self.non_finite.name:
            return [found]
        if found.step <= self.told_until.get(found.rule, -1):
            return []
        for rule in self._spike_rules():
            # A wild batch shows in the loss and in its gradient: it is one incident.
            self.told_until[rule.name] = found.step + max(1, thresholds.quiet_steps)
        again = self.repeated.spike(found)
        return [found] if again is None else [found, again]

    def step(self, reading: Reading, thresholds: Thresholds) -> list[Alert]:
        """A step that was taken: everything learns it, and the slow rules may speak."""
        self.rate, self.highest_rate = reading.learning_rate, max(self.highest_rate, reading.learning_rate)
        found = [
            self.dead.step(reading, self.gradient.usual_norm(), thresholds),
            self.discriminator.step(reading, thresholds),
            self.slow.step(reading, thresholds),
            self.memory.step(reading, thresholds),
            self.splice.step(reading, self.loss) if thresholds.loss_spike is not None else None,
        ]
        if reading.gradient_norm is not None:
            self.loss.learn(reading)
            self.gradient.learn(reading)
            block = self.levels.add(reading, thresholds.block_steps)
            if block is not None:
                found.append(self.divergence.block(block, self.levels, thresholds))
                self.levels.settle(block)
        return [alert for alert in found if alert is not None]

    def measured(self, measurement: Measurement, thresholds: Thresholds) -> list[Alert]:
        """Held-out losses."""
        share = self.rate / self.highest_rate if self.highest_rate > 0 else 1.0
        return self.held_out.measured(measurement, self.levels, share, thresholds)

    def heartbeat(self, step: int, silent_seconds: float, thresholds: Thresholds) -> list[Alert]:
        """A sign of life without progress."""
        found = self.stuck.heartbeat(step, silent_seconds, thresholds)
        return [] if found is None else [found]

    def hush(self, step: int, thresholds: Thresholds) -> None:
        """After this step something was changed by hand or put back: for a while only what lasts counts."""
        self.quiet_until = max(self.quiet_until, step + thresholds.quiet_steps)

    def gone_back(self, step: int, thresholds: Thresholds) -> None:
        """Training goes on from the checkpoint of this step."""
        self.hush(step, thresholds)
        self.splice.begin(step)

    def new_phase(self) -> None:
        """Other parameters train from here on: gradients, levels and step time are learnt anew."""
        self.gradient.reset()
        self.slow, self.memory, self.dead = SlowSteps(), MemoryCreep(), DeadGradients()

    def state(self) -> dict[str, Any]:
        """Everything the rules have learnt, as JSON: part of a checkpoint."""
        return {
            "rules": {name: part.state() for name, part in self._parts().items()},
            "quietUntil": self.quiet_until,
            "toldUntil": dict(self.told_until),
            "highestRate": self.highest_rate,
            "rate": self.rate,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes it back. A rule the state does not know starts anew."""
        for name, part in self._parts().items():
            if name in state["rules"]:
                part.restore(state["rules"][name])
        self.quiet_until, self.told_until = int(state["quietUntil"]), dict(state["toldUntil"])
        self.highest_rate, self.rate = float(state["highestRate"]), float(state["rate"])

    def _parts(self) -> dict[str, Any]:
        return {
            "loss": self.loss,
            "gradient": self.gradient,
            "repeated": self.repeated,
            "levels": self.levels,
            "divergence": self.divergence,
            "heldOut": self.held_out,
            "dead": self.dead,
            "slow": self.slow,
            "memory": self.memory,
            "discriminator": self.discriminator,
            "stuck": self.stuck,
            "splice": self.splice,
        }


def rules_as_json() -> list[dict[str, str]]:
    """The rules, for documentation and `monitor`."""
    return [
        {
            "name": rule.name,
            "setting": "incidents.policy" if rule.threshold == "policy" else f"incidents.watch.{rule.threshold}",
            "watches": rule.watches,
            "reason": rule.reason,
            "source": rule.source,
        }
        for rule in Watch().rules
    ]
