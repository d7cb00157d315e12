"""The watch over a run while it trains: rank 0 folds it, every rank hears the same of it.

The rules are those of `osplan.domain.watch`; `stagewright monitor` runs them over journals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from osplan.domain.watch.journal import UNSETTLING
from osplan.domain.watch.policy import Policy, policy_for
from osplan.domain.watch.reading import Alert, Measurement, Reading
from osplan.domain.watch.watch import Watch
from osplan.train.attempt import Attempt
from osplan.train.scene import NOTHING, Scene, are_finite, scene_of
from osplan.train.stuck import SILENT
from osplan.train.task import Batch
from osplan.train.trained import Trained


class RefusedError(Exception):
    """Something that must not go on as it is: a step before it is taken, or weights before they are kept."""

    def __init__(self, alert: Alert, scene: Scene) -> None:
        super().__init__(alert.message)
        self.alert, self.scene = alert, scene


class Watching:
    """The watch of one attempt."""

    def __init__(self, attempt: Attempt, trained: Trained) -> None:
        self.attempt, self.trained = attempt, trained
        self.watch = Watch()

    @property
    def _thresholds(self) -> Any:
        return self.attempt.stage.incidents.watch

    def policy(self, alert: Alert) -> Policy:
        """What the stage wants done about an alert."""
        return policy_for(alert, self.attempt.stage.incidents)

    def before(self, reading: Reading, batches: Sequence[Batch]) -> float | None:
        """Looks at a step before it is taken; the gradient norm it is cut to, or None where it is not.

        Raises RefusedError for one that must not be taken.
        """
        world = self.attempt.world
        alert = self.watch.judge(reading, self._thresholds) if world.is_first else None
        if not world.largest(int(alert is not None)):
            return None
        alert = world.from_first(alert)
        scene, policy = scene_of(self.trained.source, batches, world), self.policy(alert)
        if policy not in ("note", "clip"):
            raise RefusedError(alert, scene)
        usual = world.from_first(self.watch.gradient.usual_norm() if world.is_first else None) if policy == "clip" else None
        self._say(alert, "noted" if usual is None else f"cut the gradient to its usual norm {usual:.4g}", scene)
        return usual

    def after(self, reading: Reading) -> None:
        """Learns a step that was taken and says what the slow rules find.

        Raises RefusedError for what the stage wants acted on.
        """
        world = self.attempt.world
        alerts = self.watch.step(reading, self._thresholds) if world.is_first else []
        acted_on = [alert for alert in alerts if self.policy(alert) != "note"]
        for alert in alerts:
            if alert not in acted_on:
                self.report(alert, "noted", NOTHING)
        if world.largest(len(acted_on)):
            raise RefusedError(world.from_first(acted_on)[0], NOTHING)

    def measured(self, held_out: Mapping[str, Any] | None) -> None:
        """Learns held-out losses."""
        if held_out is None or not self.attempt.world.is_first:
            return
        ema = held_out["ema"]
        measurement = Measurement(self.trained.step, held_out["raw"]["loss"], ema["loss"] if ema else None)
        for alert in self.watch.measured(measurement, self._thresholds):
            self.report(alert, "noted", NOTHING)

    def check_weights(self) -> None:
        """Raises RefusedError where a weight is not a number: such weights are never kept."""
        further = [tensor for tensors in self.attempt.task.extra_state().values() for tensor in tensors.values()]
        if are_finite([*self.trained.source.parameters(), *further], self.attempt.world):
            return
        step = self.trained.step
        message = f"expected finite weights after step {step}, got some that are not"
        raise RefusedError(self.watch.non_finite.found(step, message, float("nan")), NOTHING)

    def stuck(self, step: int, silent_seconds: float, limit: float, stacks: Sequence[Mapping[str, Any]]) -> None:
        """A step that takes longer than it may; said from beside the training thread."""
        alert = self.watch.stuck.found(step, silent_seconds, limit)
        silent = [str(stack["rank"]) for stack in stacks if str(stack["at"]).startswith(SILENT)]
        found = "all ranks" if not silent else f"all ranks but {', '.join(silent)}: {SILENT}"
        self.report(alert, f"dumped the stacks of {found}", NOTHING, stacks=list(stacks))

    def changed(self, paths: Sequence[str]) -> None:
        """Settings that were changed before the next step."""
        if any(path.startswith(UNSETTLING) for path in paths):
            self.watch.hush(self.trained.step, self._thresholds)

    def _say(self, alert: Alert, action: str, scene: Scene) -> None:
        for said in self.watch.spiked(alert, self._thresholds):
            self.report(said, action if said is alert else "noted", scene if said is alert else NOTHING)

    def acted(self, alert: Alert, action: str, scene: Scene) -> None:
        """Says of a step what was done about it, every time, and that such steps come back where they do."""
        said = self.watch.spiked(alert, self._thresholds)
        self.report(alert, action, scene)
        for other in said:
            if other is not alert:
                self.report(other, "noted", NOTHING)

    def report(self, alert: Alert, action: str, scene: Scene, **more: Any) -> None:
        """An incident, for the journal."""
        if self.attempt.world.is_first:
            fields = {name: value for name, value in alert.as_json().items() if name not in ("rule", "step", "message")}
            self.attempt.port.emit(
                "incident", step=alert.step, kind=alert.rule, message=alert.message, action=action, **fields, **scene.as_json(), **more
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"watch": self.watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; one without a watch starts a new one."""
        self.watch = Watch()
        if state.get("watch") is not None:
            self.watch.restore(state["watch"])
        self.watch.gone_back(self.trained.step, self._thresholds)
