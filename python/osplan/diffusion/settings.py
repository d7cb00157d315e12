"""The settings of an objective: what the network predicts, from what noise, weighted how."""

from dataclasses import dataclass
from typing import Literal

from osplan.domain.errors import UserError

Prediction = Literal["epsilon", "v-prediction", "sample"]
BetaSchedule = Literal["linear", "scaled-linear", "cogvideox"]
Weighting = Literal["logit-normal", "mode", "cosmap", "sigma-sqrt", "uniform"]
Quirk = Literal["mended", "upstream"]

TRAIN_STEPS = 1000
"""Noise levels of a discrete schedule, and the scale of the time a model is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveSettings:
    """One objective, complete. No field has a default: defaults live in the stage schema."""

    kind: Literal["ddpm", "rectified-flow"]
    prediction: Prediction
    """DDPM only; rectified flow predicts the velocity noise - x0."""
    beta_schedule: BetaSchedule
    """DDPM only."""
    zero_terminal_snr: bool
    """DDPM only: the last noise level keeps nothing of the data."""
    snr_gamma: float | None
    """DDPM only: min-SNR weights with this cap; None weighs all times alike."""
    noise_offset: float
    """DDPM only: strength of the noise each channel shares over all positions."""
    learned_variance: bool
    """DDPM only: the model returns twice the channels, the second half placing its variance between the two bounds."""
    weighting: Weighting
    """Rectified flow only: which times are drawn often (logit-normal, mode) or weigh much (cosmap, sigma-sqrt)."""
    logit_mean: float
    logit_std: float
    mode_scale: float
    shift: float
    """Rectified flow only: above 1 moves times towards noise; 1 leaves them."""
    dynamic_shift: bool
    """Rectified flow only: the shift follows the number of tokens of a frame instead of `shift`."""
    continuous_times: bool
    """Rectified flow only: any time in [0, 1] instead of the 1000 levels of the discrete table."""
    stratified_times: bool
    """Each data-parallel rank draws from its own slice of the times."""
    min_snr: Quirk
    """`upstream`: min-SNR weights of v-prediction fall to 0, those of epsilon to 0/0, where nothing of the data is left."""
    noise_precision: Literal["fp32", "model"]
    """`model`: noise levels are rounded to the latents' dtype before use, as published bf16 weights saw them."""
    times: Quirk
    """`upstream`: every draw of stratified times is made twice and the first discarded, and the caller passes global ranks."""
    sample_target: Quirk
    """`upstream`: with prediction `sample`, the noise is subtracted from the prediction before it is compared with x0."""

    def check(self) -> None:
        """Raises UserError OBJECTIVE_INVALID for settings that contradict each other."""
        if self.kind == "rectified-flow":
            self._require(self.shift > 0, f"objective.shift: expected above 0, got {self.shift}", "1 leaves the times as they are")
            self._require(self.logit_std > 0, f"objective.logit_std: expected above 0, got {self.logit_std}", "upstream uses 1")
            self._require(not self.learned_variance, "objective.learned_variance: expected off for rectified flow, got on", "turn it off")
            return
        if self.snr_gamma is not None:
            self._require(self.snr_gamma > 0, f"objective.snr_gamma: expected above 0, got {self.snr_gamma}", "upstream uses 5")
            self._require(
                self.prediction != "sample", "objective.snr_gamma: expected none with prediction sample, got a number", "unset snr_gamma"
            )
        if self.learned_variance:
            plain = self.prediction == "epsilon" and self.snr_gamma is None and not self.zero_terminal_snr
            self._require(
                plain,
                "objective.learned_variance: expected epsilon prediction without min-SNR weights or zero-terminal-SNR",
                "learned variance belongs to the v1.0 and v1.1 stages",
            )

    @staticmethod
    def _require(condition: bool, message: str, hint: str) -> None:
        if not condition:
            raise UserError("OBJECTIVE_INVALID", message, hint)
