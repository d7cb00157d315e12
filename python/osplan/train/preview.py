"""The sampler of a stage's previews."""

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.sampling import Kind, Sampler
from osplan.domain.stage import Stage


def preview_sampler(stage: Stage) -> Sampler:
    """What `samples` names; `auto` takes DDIM, or Euler steps for rectified flow."""
    objective = stage.objective
    flow = objective.name == "rectified-flow"
    kind: Kind = ("flow-euler" if flow else "ddim") if stage.samples.sampler == "auto" else stage.samples.sampler
    return Sampler(
        kind=kind,
        steps=stage.samples.steps,
        guidance_scale=stage.samples.guidance_scale,
        guidance_rescale=0.0,
        prediction="velocity" if objective.name in ("rectified-flow", "reconstruction") else objective.name,
        schedule=None if flow else NoiseSchedule(objective.betas, zero_terminal_snr=objective.zero_terminal_snr),
        zero_terminal_snr=objective.zero_terminal_snr,
    )
