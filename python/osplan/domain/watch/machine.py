"""The run as a machine: gradients that vanish, step time, memory, a rank that no longer moves."""

import statistics
from typing import Any

from osplan.domain.stage import Watch as Thresholds
from osplan.domain.watch.reading import Alert, Evidence, Reading, Rule

IN_A_ROW = 5
RISES = 5


class DeadGradients(Rule):
    """Gradients that are next to nothing."""

    name, threshold = "dead-gradients", "deadGradient"
    watches = "a gradient norm of 0, or a tiny share of what is usual, over five steps"
    reason = "nothing is learnt any more: parameters are cut off, activations are saturated, or a precision underflows"
    source = "Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2: gradients that become zero in half precision"
    STATE = ("low", "told")

    def __init__(self) -> None:
        self.low: list[list[float]] = []
        """(step, norm) of the steps in a row."""
        self.told = False

    def step(self, reading: Reading, usual: float | None, thresholds: Thresholds) -> Alert | None:
        """One step more, and the norm that was usual before it."""
        norm = reading.gradient_norm
        if thresholds.dead_gradient is None or norm is None:
            return None
        if norm > 0 and (usual is None or norm > thresholds.dead_gradient * usual):
            self.low, self.told = [], False
            return None
        self.low = [*self.low[-IN_A_ROW + 1 :], [reading.step, norm]]
        if len(self.low) < IN_A_ROW or self.told:
            return None
        self.told = True
        was = f", usual {usual:.4g}" if usual is not None else ""
        return self.alert(
            reading.step,
            f"gradient norm {norm:.3g}{was}: next to nothing over {IN_A_ROW} steps",
            "check which parameters are trainable (`stagewright plan`), the precision, and that the loss depends on them",
            Evidence("gradient norm", tuple((int(step), value) for step, value in self.low), usual),
        )


class SlowSteps(Rule):
    """Steps that take longer than they used to."""

    name, threshold = "slow-steps", "slowSteps"
    watches = "a step time well above what it was, over two blocks"
    reason = "a slow disk, a data worker that died, a hot or shared device, memory that is swapped: time is lost without a failure"
    source = "Jiang et al. 2024, MegaScale (arXiv:2402.15627), section 5: stragglers found by step time"
    STATE = ("growing", "medians", "slow", "told")
    KEPT = 40

    def __init__(self) -> None:
        self.growing: list[float] = []
        self.medians: list[list[float]] = []
        """(last step, median seconds) of whole blocks at usual speed."""
        self.slow: list[list[float]] = []
        """The same of the slow blocks in a row."""
        self.told = False

    def step(self, reading: Reading, thresholds: Thresholds) -> Alert | None:
        """One step more. The first block is no measure: caches fill and code is compiled."""
        if thresholds.slow_steps is None or reading.seconds <= 0:
            return None
        self.growing.append(reading.seconds)
        if len(self.growing) < thresholds.block_steps:
            return None
        median, self.growing = statistics.median(self.growing), []
        usual = statistics.median(value for _, value in self.medians[1:]) if len(self.medians) > 1 else None
        if usual is None or median <= thresholds.slow_steps * usual:
            self.medians = [*self.medians[1 - self.KEPT :], [reading.step, median]]
            self.slow, self.told = [], False
            return None
        self.slow = [*self.slow[-RISES:], [reading.step, median]]
        if len(self.slow) < 2 or self.told:
            return None
        self.told = True
        return self.alert(
            reading.step,
            f"{median:.3g} s a step, usual {usual:.3g} s: {median / usual:.2g} times as long over two blocks "
            f"(limit {thresholds.slow_steps:g})",
            "compare the parts of the step (data, forward, backward, optimizer) with earlier ones; look at disk, workers and device",
            Evidence("seconds per step", tuple((int(step), value) for step, value in self.slow), usual),
        )


class MemoryCreep(Rule):
    """Memory that grows and never comes back."""

    name, threshold = "memory-creep", "memoryGrowth"
    watches = "memory whose least value rises from block to block without a pause"
    reason = "the run will end out of memory, hours from now"
    source = "PyTorch FAQ, “My model reports cuda runtime error(2): out of memory”: histories kept across the training loop"
    STATE = ("growing", "steps", "rising", "told")

    def __init__(self) -> None:
        self.growing: int | None = None
        """Least bytes of the block so far."""
        self.steps = 0
        self.rising: list[list[int]] = []
        """(last step, least bytes) of blocks, each above the one before."""
        self.told = False

    def step(self, reading: Reading, thresholds: Thresholds) -> Alert | None:
        """One step more."""
        if thresholds.memory_growth is None or reading.memory is None:
            return None
        self.growing = reading.memory if self.growing is None else min(self.growing, reading.memory)
        self.steps += 1
        if self.steps < thresholds.block_steps:
            return None
        least, self.growing, self.steps = self.growing, None, 0
        if self.rising and least <= self.rising[-1][1] * 1.002:
            self.rising, self.told = [], False
        self.rising = [self.rising[0], *self.rising[1:][-20:], [reading.step, least]] if self.rising else [[reading.step, least]]
        grown = least / max(1, self.rising[0][1]) - 1
        if self.told or len(self.rising) <= RISES or grown < thresholds.memory_growth:
            return None
        self.told = True
        per_step = (least - self.rising[0][1]) / max(1, reading.step - self.rising[0][0])
        return self.alert(
            reading.step,
            f"memory {least / 2**20:.0f} MiB, {grown:.0%} more than at step {self.rising[0][0]}: "
            f"{per_step / 2**10:.1f} KiB a step, without a pause over {len(self.rising) - 1} blocks",
            "set data.cache: off to see whether remembered latents grow; continue the run before the memory is used up",
            Evidence("bytes", tuple((step, float(value)) for step, value in self.rising), float(self.rising[0][1])),
        )


class StuckRank(Rule):
    """No progress for long. While a run trains each rank has a clock for this; over a journal its heartbeats are read."""

    name, threshold = "stuck-rank", "stuckSeconds"
    watches = "a rank without progress for longer than a step can take"
    reason = "one rank that waits for a disk, a broken link or a deadlock holds all the others, silently"
    source = "Jiang et al. 2024, MegaScale (arXiv:2402.15627), section 4; torchrun notices ranks that die, not ranks that hang"
    STATE = ("told",)

    def __init__(self) -> None:
        self.told = False

    def heartbeat(self, step: int, silent_seconds: float, thresholds: Thresholds) -> Alert | None:
        """A heartbeat so long after the last word of the loop."""
        limit = thresholds.stuck_seconds
        if limit is None or silent_seconds <= limit:
            self.told = False
            return None
        if self.told:
            return None
        self.told = True
        return self.found(step, silent_seconds, limit)

    def found(self, step: int, silent_seconds: float, limit: float) -> Alert:
        """The alert."""
        return self.alert(
            step,
            f"no progress for {silent_seconds:.0f} s after step {step} (limit {limit:g} s)",
            "read the stacks in the run’s logs: the rank that is not in a collective is the one the others wait for",
            Evidence("seconds without progress", ((step, silent_seconds),), limit),
        )


class DiscriminatorCollapse(Rule):
    """A game that one side has won."""

    name, threshold = "discriminator-collapse", "discriminatorSteps"
    watches = "a discriminator that always wins, or that sees no difference"
    reason = "one that always wins teaches the autoencoder artefacts, one that sees nothing teaches it nothing"
    source = "Esser et al. 2021, VQGAN (arXiv:2012.09841), section 3; hinge loss: 1 is a guess, 0 is a won game"
    STATE = ("recent", "told")

    def __init__(self) -> None:
        self.recent: list[list[float]] = []
        """(step, loss, logit of clips, logit of reconstructions)."""
        self.told = False

    def step(self, reading: Reading, thresholds: Thresholds) -> Alert | None:
        """One step more; only those of the discriminator count."""
        extra, wanted = reading.extra, thresholds.discriminator_steps
        if wanted is None or not {"discriminator", "logitsReal", "logitsFake"} <= extra.keys():
            return None
        self.recent = [*self.recent, [reading.step, extra["discriminator"], extra["logitsReal"], extra["logitsFake"]]][-wanted:]
        if len(self.recent) < wanted:
            return None
        loss, real, fake = (statistics.median(row[place] for row in self.recent) for place in (1, 2, 3))
        always, never = loss < 0.05 and real > 1 and fake < -1, abs(real - fake) < 0.02
        if not (always or never):
            self.told = False
            return None
        if self.told:
            return None
        self.told = True
        points: Any = tuple((int(row[0]), row[1]) for row in self.recent)
        return self.alert(
            reading.step,
            f"the discriminator {'always wins' if always else 'sees no difference'} over {wanted} of its steps: "
            f"median loss {loss:.3g}, logits {real:.3g} of clips, {fake:.3g} of reconstructions",
            "lower objective.discriminatorLearningRate or objective.adversarialWeight"
            if always
            else "raise objective.discriminatorLearningRate; check that reconstructions differ from clips at all",
            Evidence("discriminator loss", points, 1.0),
        )
