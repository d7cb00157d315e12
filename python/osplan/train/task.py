"""What the loop asks of the thing it trains; a stage kind is one implementation.

Shape letters: B batch, C channels, T frames, H and W height and width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol

from torch import Tensor, nn

from osplan.domain.stage import Stage
from osplan.parallel.world import World


@dataclass(frozen=True)
class Batch:
    """Clips of one micro-batch as the data pipeline hands them over."""

    pixels_BCTHW: Tensor
    """uint8 pixels, RGB. Zeros for clips without, whose latents are known; on the meta device where no clip has any."""
    captions: Sequence[str]
    ids: Sequence[int]
    """Places of the clips in the index."""
    paths: Sequence[str]
    latent_names: Sequence[str] | None = None
    """What the encodings of the clips are kept under; None where none are kept."""
    moments: Sequence[Tensor | None] = ()
    """Kept encodings of the clips, (2Z, T, H, W) each, None where there is none yet; empty where none are kept."""
    images: "Batch | None" = None
    """Pictures trained jointly, as many for each clip, those of the first clip first; one frame each."""


def _untimed(_part: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class MicroBatch:
    """Which micro-batch of the run this is."""

    step: int
    """Counts from 1."""
    micro: int
    """Number within the step on this rank, from 0."""
    rank: int
    ranks: int
    timed: Callable[[str], AbstractContextManager[None]] = _untimed
    """Within what it returns, time counts for the part of the step it names."""

    @property
    def place(self) -> int:
        """Its number within the step over all ranks, in the order of the clips."""
        return self.micro * self.ranks + self.rank


@dataclass(frozen=True)
class StepLoss:
    """The loss of one micro-batch."""

    loss: Tensor
    """Call `backward` on it."""
    by_bin: Tensor | None = None
    """Mean loss per time bin, from data to noise; not a number where a bin had no clip."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Further scalars for the journal, detached."""


@dataclass(frozen=True)
class Measured:
    """Held-out loss of one set of weights: fixed clips, noises and times."""

    loss: float
    standard_error: float | None
    by_bin: list[float | None] | None = None
    psnr: float | None = None
    """Reconstruction PSNR in dB (VAE)."""
    per_clip: Sequence[float] = ()
    """Loss of each clip."""

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return {"loss": self.loss, "standardError": self.standard_error, "byBin": self.by_bin, "psnr": self.psnr}

    def against(self, start: Sequence[float]) -> dict[str, float | None]:
        """Mean difference to the losses the same clips had at the start of the stage, and its standard error over clips.

        Clips differ more from each other than two sets of weights do on one clip: paired, a small change shows.
        """
        differences = [now - then for now, then in zip(self.per_clip, start, strict=True)]
        spread = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
        return {"difference": mean(differences), "standardError": spread}


class Task(Protocol):
    """One kind of stage."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config.json."""
        ...

    def check(self, stage: Stage) -> None:
        """Raises UserError where this task, as it was built, cannot do what the stage now asks of it."""
        ...

    def losses(self, stage: Stage, model: nn.Module, batch: Batch, at: MicroBatch) -> StepLoss:
        """Loss of a micro-batch; every draw comes from the seed and where the micro-batch is. `model` may be a wrapped one."""
        ...

    def trains_model(self, stage: Stage, step: int) -> bool:
        """Whether a step moves the model; in the others `after_step` trains something else on the step's clips."""
        ...

    def after_step(self, stage: Stage, batches: Sequence[Batch], step: int, world: World) -> Mapping[str, float]:
        """Whatever else a step trains (a discriminator), on the step's micro-batches; scalars for the journal."""
        ...

    def measure(self, stage: Stage) -> Measured:
        """Held-out loss of the weights the model now has."""
        ...

    def baselines(self, stage: Stage) -> Mapping[str, float]:
        """What the held-out loss is compared with: predicting zero, swapped captions, a clip's mean colour."""
        ...

    def sample(self, stage: Stage, folder: Path | None, name: str) -> list[tuple[Path, str]]:
        """Writes sample videos `NAME-0.mp4`, …; returns their paths and prompts.

        Nothing is written before all that ranks compute together is done, and without a folder nothing at all.
        """
        ...

    def finish(self, stage: Stage) -> Mapping[str, Any]:
        """What is measured once at the end on the weights that are handed on; becomes part of `config`."""
        ...

    def extra_state(self) -> dict[str, dict[str, Tensor]]:
        """Tensors beyond model, EMA and optimiser that continuing needs."""
        ...

    def restore_extra(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes them back."""
        ...

    def tokens(self, batch: Batch) -> int:
        """Tokens (or latent cells) of the clips of a micro-batch, for throughput."""
        ...
