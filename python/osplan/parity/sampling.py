"""Parity of the samplers with upstream's pipeline: latents after every step from noise that the case hands in.

Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from osplan.diffusion.noise_schedule import NoiseSchedule
from osplan.diffusion.sampling import Kind, Sampler
from osplan.diffusion.settings import TRAIN_STEPS, BetaSchedule, Prediction
from osplan.domain.errors import UserError
from osplan.models.registry import build_model
from osplan.parity.case import Case, Handler, Outputs, load_seeded
from osplan.parity.objectives import named

METHODS: dict[str, Kind] = {"DDIM": "ddim", "EulerAncestralDiscrete": "euler-ancestral", "FlowMatchEulerDiscrete": "flow-euler"}
"""Upstream's sampling methods."""
MODEL_CLASS = "OpenSoraT2V_v1_3"


def pipeline_sampler(params: Mapping[str, Any]) -> Sampler:
    """The sampler of a case. Upstream's pipeline ignores the rescale for rectified flow and guidance of at most 1.

    Raises UserError CASE_INVALID for a method that is not built here and for steps it cannot take.
    """
    settings = params["sampler"]
    method = settings["method"]
    if method not in METHODS:
        raise UserError("CASE_INVALID", f"params.sampler.method: expected one of {', '.join(METHODS)}, got {method}")
    flow, zero_snr = METHODS[method] == "flow-euler", bool(settings.get("zsnr"))
    steps = params["steps"]
    if not isinstance(steps, int) or not 1 <= steps <= TRAIN_STEPS:
        raise UserError("CASE_INVALID", f"params.steps: expected 1 to {TRAIN_STEPS}, got {steps!r}")
    return Sampler(
        kind=METHODS[method],
        steps=steps,
        guidance_scale=max(1.0, float(params["guidance"])),
        guidance_rescale=0.0 if flow else float(params.get("rescale") or 0.0),
        prediction="velocity" if flow else named(Prediction, settings, "prediction_type", "epsilon"),
        schedule=None if flow else NoiseSchedule(named(BetaSchedule, settings, "schedule", "linear"), zero_terminal_snr=zero_snr),
        zero_terminal_snr=zero_snr,
        flow_grid="levels",
    )


@torch.no_grad()
def sampling_case(case: Case) -> Outputs:
    """The pipeline's denoising loop with text states handed in and no autoencoder."""
    model = build_model({**case.spec["config"], "_class_name": MODEL_CLASS}).eval()
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    inputs, sampler = case.inputs, pipeline_sampler(case.spec["params"])
    states_B1LC = torch.cat([inputs["neg"], inputs["cond"]])[:, None]
    mask_B1L = torch.cat([inputs["neg_mask"], inputs["text_mask"]])[:, None]

    def predict(x_BCTHW: Tensor, time_B: Tensor) -> Tensor:
        return model(x_BCTHW, time_B, states_B1LC, None, mask_B1L)

    path = list(sampler.path(predict, inputs["latents"], iter(inputs.get("noise", ()))))
    outputs: Outputs = {
        "latents_after": torch.stack(path),
        "final": path[-1],
        "timesteps": torch.tensor(sampler.times),
        "sigmas": torch.tensor(sampler.sigmas),
        "init_noise_sigma": torch.tensor([sampler.initial_sigma]),
    }
    if sampler.schedule is not None:
        outputs["alphas_cumprod_last"] = sampler.signal_shares[-1:].float()
    return outputs


HANDLERS: dict[str, Handler] = {"OpenSoraPipeline.__call__": sampling_case}
"""Upstream's function to the handler of its cases."""
