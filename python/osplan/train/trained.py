"""What is trained: the model as the ranks share it, its phases of freezing and thawing, its optimiser, its moving average."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn

from osplan.domain.schedule import Schedule
from osplan.parallel.sharding import freeze_but, is_sharded, rank_mesh, shard
from osplan.train.attempt import Attempt
from osplan.train.ema import Ema
from osplan.train.loss_scale import LossScale
from osplan.train.optimizer import Clipper, build_optimizer, optimizer_state, restore_optimizer
from osplan.train.parameters import Phase, groups_of, phases_of, select, selectable
from osplan.train.precision import DTYPES
from osplan.train.proof import compare, fingerprints


class Trained:
    """The model after `step` optimizer updates, and everything that moves with it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.step = 0
        self.source: nn.Module = attempt.task.model
        self._share()
        self.names = [name for name, _ in self.source.named_parameters()]
        self.phases = self._phases()
        self.phase = 0
        self.phase_started = 1
        settings = attempt.stage.ema
        averaged = {name: self.source.get_parameter(name) for name in selectable(self.names)}
        self.ema = Ema(averaged, settings) if settings.enabled else None
        self.clipper = Clipper(attempt.stage.clip)
        self.loss_scale = LossScale(attempt.stage)
        self.rate_factor = 1.0
        """Product of the cuts after roll-backs."""
        self.enter_phase(0, announce=False)

    def _phases(self) -> list[Phase]:
        stage = self.attempt.stage
        return phases_of(stage.trainable, [(phase.at, phase.trainable, phase.rewarm_steps) for phase in stage.phases], stage.steps)

    @property
    def computes_together(self) -> bool:
        """Whether a forward pass needs all ranks."""
        return is_sharded(self.source) or self.attempt.world.sequence is not None

    def _share(self) -> None:
        """Spreads the weights over the ranks where the stage asks for it."""
        world, stage = self.attempt.world, self.attempt.stage
        if world.sequence is not None:
            self.source.shared = world.sequence  # type: ignore[assignment]
        if stage.parallel.strategy == "ddp" or not dist.is_initialized():
            return
        mesh = rank_mesh(world, within_machine=stage.parallel.strategy == "hsdp")
        precision = stage.memory.precision
        arithmetic = None if precision == "fp32" else DTYPES[precision]
        shard(self.source, self.source.blocks, mesh, arithmetic, offload=stage.memory.offload)  # type: ignore[arg-type]

    def _wrapped(self) -> nn.Module:
        world = self.attempt.world
        if world.size == 1 or is_sharded(self.source):
            return self.source
        on_gpu = world.device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            self.source, device_ids=[world.local_rank] if on_gpu else None, gradient_as_bucket_view=True
        )

    def enter_phase(self, number: int, *, announce: bool = True) -> None:
        """Freezes and thaws, and gives the newly trainable an optimiser state of their own."""
        stage = self.attempt.stage
        self.phase = number
        trainable = select(selectable(self.names), self.phases[number].selectors)
        if stage.vae.freeze_encoder and stage.kind == "vae":
            trainable = [name for name in trainable if not name.startswith(("encoder.", "quant_conv."))]
        freeze_but(self.source, trainable)
        self._regroup(trainable)
        self.trainable = [parameter for parameter in self.source.parameters() if parameter.requires_grad]
        self.phase_fingerprints = fingerprints(self.source) if len(self.phases) > 1 or len(trainable) < len(self.names) else None
        self.model = self._wrapped()
        if announce:
            self.phase_started = self.step + 1
            self.attempt.port.emit(
                "phase",
                step=self.step,
                index=number,
                trainable=list(self.phases[number].selectors),
                parameters=sum(parameter.numel() for parameter in self.trainable),
            )

    def _regroup(self, trainable: list[str]) -> None:
        """The optimiser over the trainable parameters in groups of equal learning rate; what it knew of them is kept."""
        stage = self.attempt.stage
        kept = optimizer_state(self.optimizer) if hasattr(self, "optimizer") else {}
        self.groups = groups_of(self.names, trainable, stage.layer_decay, dict(stage.learning_rate_ratios))
        self.optimizer = build_optimizer(stage.optimizer, self.source, self.groups, stage.learning_rate)
        restore_optimizer(self.optimizer, kept)

    def settings_changed(self) -> None:
        """Takes over what the parts keep of the stage's live settings.

        Raises UserError where a part cannot do what the stage now asks of it.
        """
        stage = self.attempt.stage
        self.attempt.task.check(stage)
        grouped = {name for group in self.groups for name in group.names}
        trainable = [name for name in self.names if name in grouped]
        if groups_of(self.names, trainable, stage.layer_decay, dict(stage.learning_rate_ratios)) != self.groups:
            self._regroup(trainable)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = stage.optimizer.weight_decay
        self.clipper.mode, self.clipper.norm = stage.clip.mode, stage.clip.norm
        if self.ema is not None:
            self.ema.decay = stage.ema.decay

    def prove_phase(self) -> None:
        """Says what the phase that ends left frozen and what it moved. On all ranks: weights may be spread over them."""
        if self.phase_fingerprints is None or self.step < self.phase_started:
            return
        if self.attempt.world.is_first or is_sharded(self.source):
            found = compare(self.phase_fingerprints, self.source)
            self.attempt.port.emit("phaseProof", step=self.step, index=self.phase, **found)

    def learning_rate(self, step: int) -> float:
        """The learning rate of one update: the course of the stage, the phase's re-warming, cuts after roll-backs."""
        stage = self.attempt.stage
        schedule = stage.schedule
        course = Schedule(
            name=schedule.name, warmup_steps=schedule.warmup_steps, horizon_steps=schedule.horizon_steps or stage.steps,
            cycles=schedule.cycles, power=schedule.power, decay_share=schedule.decay_share, floor_ratio=schedule.floor_ratio,
        )  # fmt: skip
        since, rewarm = step - self.phase_started + 1, self.phases[self.phase].rewarm_steps
        rising = min(1.0, since / (rewarm + 1)) if rewarm else 1.0
        return stage.learning_rate * course.factor(step) * rising * self.rate_factor

    @contextmanager
    def handed_on(self) -> Iterator[None]:
        """Within, the model has the weights that would be handed on: the moving average where one is kept."""
        if self.ema is None or not self.ema.started:
            yield
            return
        with self.ema.swapped():
            yield

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        return {
            "phase": {"index": self.phase, "started": self.phase_started, "fingerprints": self.phase_fingerprints},
            "clipper": self.clipper.state(),
            "scaler": self.loss_scale.state(),
            "ema": self.ema.counters() if self.ema is not None else None,
            "rateFactor": self.rate_factor,
        }

    def restore(self, state: Mapping[str, Any], step: int) -> None:
        """Goes on after a step, in its phase; tensors come after it."""
        self.step = step
        self.enter_phase(state["phase"]["index"], announce=False)
        self.settings_changed()
        self.phase_started = state["phase"]["started"]
        if self.phase_fingerprints is not None:
            self.phase_fingerprints = dict(state["phase"]["fingerprints"])
        self.rate_factor = state["rateFactor"]
        self.loss_scale.restore(state.get("scaler"))
