"""What a trainer asks of an objective, and how to build the one a stage names.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from typing import Protocol

from torch import Generator, Tensor

from osplan.diffusion.ddpm import Ddpm
from osplan.diffusion.learned_variance import LearnedVariance
from osplan.diffusion.rectified_flow import RectifiedFlow
from osplan.diffusion.settings import ObjectiveSettings


class Objective(Protocol):
    """One way to make a training pair from clean latents and noise, and to score a prediction.

    `t_B` is what `draw_times` returns: an integer level of 0 to 999 for DDPM, a time of 0 (data) to 1 (noise) for rectified flow.
    """

    def draw_noise(self, x0_BCTHW: Tensor, generator: Generator) -> Tensor:
        """Standard normal noise in the shape and on the device of the latents, noise offset included."""
        ...

    def draw_times(self, batch: int, generator: Generator, rank: int, world: int, frame_tokens: int = 0) -> Tensor:
        """Times of a batch on the generator's device. `frame_tokens` (latent H·W / 4) matters to a dynamic shift only."""
        ...

    def noised(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """The latents at time t, in the dtype of x0."""
        ...

    def model_time(self, t_B: Tensor) -> Tensor:
        """The time as the model is told it: 0 (clean) to 1000."""
        ...

    def target(self, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """What the model should return."""
        ...

    def weight(self, t_B: Tensor) -> Tensor:
        """Weight of each sample's loss, float32."""
        ...

    def loss(
        self, prediction_BCTHW: Tensor, x0_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor, mask_BTHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss to minimise (a scalar) and the weighted loss of each sample, both float32. Mask: 1 keeps a position."""
        ...

    def predict_x0(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """The clean latents a prediction implies."""
        ...

    def noise_share(self, t_B: Tensor) -> Tensor:
        """Share of noise at each time, 0 (data) to 1 (noise): the common scale on which losses are binned."""
        ...


def build_objective(settings: ObjectiveSettings) -> Objective:
    """The objective a stage names.

    Raises UserError OBJECTIVE_INVALID for settings that contradict each other.
    """
    settings.check()
    if settings.kind == "rectified-flow":
        return RectifiedFlow(settings)
    return LearnedVariance(settings) if settings.learned_variance else Ddpm(settings)
