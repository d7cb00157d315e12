"""Parity of the objectives and of whole training steps with upstream's trainer.

A handler rebuilds a case with this code's objective, model and optimiser. Cases hand in what a step draws: noise, levels and densities.
Shape letters: B batch, C latent channels, T latent frames, H and W latent height and width.
"""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from osplan.diffusion.ddpm import Ddpm
from osplan.diffusion.objective import Objective, build_objective
from osplan.diffusion.rectified_flow import RectifiedFlow
from osplan.diffusion.settings import TRAIN_STEPS, BetaSchedule, ObjectiveSettings, Prediction, Weighting
from osplan.diffusion.times import logit_normal, mode, stratified_levels
from osplan.domain.errors import UserError
from osplan.domain.stage import Ema as EmaSettings
from osplan.domain.stage import Optimizer
from osplan.models.registry import build_model
from osplan.parity.case import GRADIENT, Case, Handler, Outputs, load_seeded
from osplan.train.ema import Ema
from osplan.train.optimizer import build_optimizer, gradient_norm, scale_gradients
from osplan.train.parameters import Group

AFTER = "after."
MAX_NORM = 1.0
"""Norm the trainer clips gradients to."""


def named(choices: Any, arguments: Mapping[str, Any], key: str, default: str) -> Any:
    """One of the names of a Literal that an argument of upstream spells with underscores; the default where it is absent or empty.

    Raises UserError CASE_INVALID for another name.
    """
    name = str(arguments.get(key) or default).replace("_", "-")
    if name not in get_args(choices):
        raise UserError("CASE_INVALID", f"{key}: expected one of {', '.join(get_args(choices))}, got {arguments[key]!r}")
    return name


def trainer_settings(arguments: Mapping[str, Any]) -> ObjectiveSettings:
    """The objective that upstream's trainer builds from its arguments, quirks included."""
    return ObjectiveSettings(
        kind="rectified-flow" if arguments.get("rf_scheduler") else "ddpm",
        prediction=named(Prediction, arguments, "prediction_type", "epsilon"),
        beta_schedule=named(BetaSchedule, arguments, "schedule", "linear"),
        zero_terminal_snr=bool(arguments.get("zsnr", False)),
        snr_gamma=arguments.get("snr_gamma"),
        noise_offset=0.0,
        learned_variance=False,
        weighting=named(Weighting, arguments, "weighting_scheme", "uniform"),
        logit_mean=float(arguments.get("logit_mean", 0.0)),
        logit_std=float(arguments.get("logit_std", 1.0)),
        mode_scale=float(arguments.get("mode_scale", 1.29)),
        shift=1.0,
        dynamic_shift=False,
        continuous_times=False,
        stratified_times=True,
        min_snr="upstream",
        noise_precision="fp32",
        times="upstream",
        sample_target="upstream",
    )


def _times(objective: Objective, levels: Tensor | None, densities: Tensor | None) -> Tensor:
    """The times of a step: the levels a case hands in, or those its densities fall on."""
    if isinstance(objective, RectifiedFlow):
        assert densities is not None
        return objective.times_of(densities)
    assert levels is not None
    return levels


def training_case(case: Case) -> Outputs:
    """The trainer's `run`: on a model where the case has weights, else its loss for fixed predictions."""
    return training_step(case) if case.spec.get("keys") else loss_table(case)


def training_step(case: Case) -> Outputs:
    """One step: loss, gradients, and the parameters after clipping and one AdamW step."""
    model = build_model({**case.spec["config"], "_class_name": _trained_class(case)})
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    inputs, objective = case.inputs, build_objective(trainer_settings(case.spec["params"]["args"]))
    x0, noise, mask = inputs["x0"], inputs["noise"], inputs.get("attention_mask")
    t_B = _times(objective, inputs.get("timestep"), inputs.get("u"))
    noisy = objective.noised(x0, noise, t_B)
    told_B = objective.model_time(t_B)
    prediction = model(noisy, told_B, inputs["cond"], mask, inputs.get("text_mask"))
    loss, _ = objective.loss(prediction, x0, noise, t_B, mask)
    loss.backward()
    parameters = dict(model.named_parameters())
    wanted = [name.removeprefix(GRADIENT) for name in case.expected if name.startswith(GRADIENT)]
    gradients = {GRADIENT + name: _gradient(parameters[name]) for name in wanted}
    norm = gradient_norm(list(parameters.values()))
    _step(model, norm, case.spec["params"])
    moved = {name: parameters[name.removeprefix(AFTER)].detach() for name in case.expected if name.startswith(AFTER)}
    return {"loss": loss.detach(), "grad_norm": norm, "timesteps": told_B.float(), "noisy": noisy, **gradients, **moved}


def _trained_class(case: Case) -> str:
    """Upstream's class of the model a case trains: the last word of its source."""
    return str(case.spec["source"]["cls"]).split()[-1]


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def _step(model: nn.Module, norm: Tensor, params: Mapping[str, Any]) -> None:
    """Clips to norm 1 and takes one AdamW step with upstream's settings."""
    parameters = list(model.parameters())
    scale_gradients(parameters, min(1.0, MAX_NORM / (float(norm) + 1e-6)))
    settings = Optimizer(name="adamw", beta1=0.9, beta2=0.999, epsilon=1e-15, weight_decay=1e-2)
    names = tuple(name for name, _ in model.named_parameters())
    build_optimizer(settings, model, [Group("all", 1.0, names)], float(params["lr"])).step()


def loss_table(case: Case) -> Outputs:
    """Losses of fixed predictions under every run of the case's list, and their gradients at the first channel."""
    inputs, outputs = case.inputs, Outputs()
    x0, noise = inputs["x"], inputs["noise"]
    for name, arguments, is_masked in case.spec["params"]["runs"]:
        objective = build_objective(trainer_settings(arguments))
        t_B = _times(objective, inputs.get("t"), inputs.get("u"))
        prediction = inputs["pred"].clone().requires_grad_()
        loss, _ = objective.loss(prediction, x0, noise, t_B, inputs["mask"] if is_masked else None)
        outputs[f"{name}.loss"] = loss.detach()
        outputs[f"{name}.dpred"] = torch.autograd.grad(loss, prediction)[0][:, :1]
        outputs[f"{name}.noisy"] = objective.noised(x0, noise, t_B)
        outputs[f"{name}.timesteps"] = objective.model_time(t_B).float()
    return outputs


def library_case(case: Case) -> Outputs:
    """The schedules the trainer takes from a library: DDPM where the source names its scheduler, else rectified flow."""
    return ddpm_case(case) if "DDPMScheduler" in str(case.spec["source"]["cls"]) else flow_case(case)


def ddpm_case(case: Case) -> Outputs:
    """Tables of every schedule of the case, noised latents and velocity targets."""
    inputs, params, outputs = case.inputs, case.spec["params"], Outputs()
    levels = torch.arange(TRAIN_STEPS)
    for name, betas, zero_snr in params["schedules"]:
        arguments = {"schedule": betas, "zsnr": zero_snr, "snr_gamma": params["gamma"]}
        v, eps = (Ddpm(trainer_settings({**arguments, "prediction_type": kind})) for kind in ("v_prediction", "epsilon"))
        outputs |= {
            f"{name}.alphas_cumprod": v.schedule.alphas_bar,
            f"{name}.betas": v.schedule.betas,
            f"{name}.snr": v.schedule.snr(levels),
            f"{name}.minsnr_eps": eps.weight(levels),
            f"{name}.minsnr_v": v.weight(levels),
            f"{name}.noisy": v.noised(inputs["x"], inputs["noise"], inputs["t"]),
            f"{name}.target_v": v.target(inputs["x"], inputs["noise"], inputs["t"]),
        }
    return outputs


def flow_case(case: Case) -> Outputs:
    """The table of times, and densities, times and weights of every weighting the case has."""
    inputs, params = case.inputs, case.spec["params"]
    plain = RectifiedFlow(trainer_settings({"rf_scheduler": True}))
    t_B = inputs["t_rf"] / TRAIN_STEPS
    outputs: Outputs = {
        "sigmas": plain.table,
        "timesteps": plain.model_time(plain.table),
        "noisy": plain.noised(inputs["x"], inputs["noise"], t_B),
        "target": plain.target(inputs["x"], inputs["noise"], t_B),
    }
    for scheme in [name.removeprefix("weight.") for name in case.expected if name.startswith("weight.")]:
        flow = RectifiedFlow(trainer_settings({"rf_scheduler": True, "weighting_scheme": scheme, **params}))
        density = _density(scheme, inputs, params)
        outputs |= {
            f"u.{scheme}": density,
            f"index.{scheme}": (density * TRAIN_STEPS).long(),
            f"timestep.{scheme}": flow.model_time(flow.times_of(density)),
            f"weight.{scheme}": flow.weight(inputs["sigma_grid"]),
        }
    return outputs


def _density(scheme: str, inputs: Mapping[str, Tensor], params: Mapping[str, Any]) -> Tensor:
    """Draws in [0, 1) of a weighting from the case's normal or uniform ones."""
    match scheme:
        case "logit_normal":
            return logit_normal(inputs["z"], params["logit_mean"], params["logit_std"])
        case "mode":
            return mode(inputs["u"], params["mode_scale"])
        case _:
            return inputs["u"]


def stratified_case(case: Case) -> Outputs:
    """Stratified levels, the decay of the moving average at every step asked for, and a run of the average."""
    params = case.spec["params"]
    levels = [
        {"T": count, "n": world, "rank": rank, "timesteps": stratified_levels(case.inputs["uniform"], count, world, rank).tolist()}
        for count, world, rank in params["strata"]
    ]
    decays = [
        {
            "decay": decay,
            "update_after_step": start,
            "steps": params["ema_steps"],
            "values": [_average({}, decay, start).decay_at(step) for step in params["ema_steps"]],
        }
        for decay, start in params["ema"]
    ]
    first, *following = case.inputs["params"]
    weights = nn.Parameter(first.clone(), requires_grad=False)
    average = _average({"weights": weights}, *params["ema_run"])
    rows = []
    for step, row in enumerate(following, 1):
        weights.copy_(row)
        average.update(step)
        rows.append(average.shadow["weights"].clone())
    return {"table.stratified_timesteps": levels, "table.ema_decay": decays, "ema_values": torch.stack(rows)}


def _average(parameters: Mapping[str, nn.Parameter], decay: float, start: int) -> Ema:
    return Ema(parameters, EmaSettings(enabled=True, decay=decay, start_step=start, rule="upstream"))


HANDLERS: dict[str, Handler] = {
    "run()": training_case,
    "diffusers": library_case,
    "explicit_uniform_sampling": stratified_case,
}
"""Upstream's function, or the library it takes it from, to the handler of its cases."""
