"""Parity of the video autoencoders, their discriminator and their losses with upstream's classes.

A handler rebuilds a case with this code's modules: weights under upstream's names, the inputs of the case,
and every output the case expects, under the case's names.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from osplan.diffusion.vae_loss import GeneratorLoss, VaeLossSettings, discriminator_loss, generator_loss
from osplan.domain.errors import UserError
from osplan.models.causal_vae import CausalVAE, CausalVaeConfig
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.haar import haar_2d, haar_3d, haar_filters_2d, haar_filters_3d, inverse_haar_2d, inverse_haar_3d
from osplan.models.posterior import Posterior
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig
from osplan.parity.case import GRADIENT, Case, Handler, Outputs, load_seeded

Autoencoder = WFVAE | CausalVAE

KL_SHARE = 1e-3
"""Weight of the mean divergence in a case's scalar loss."""


def wfvae_case(case: Case) -> Outputs:
    """WFVAEModel in either layout: encode, decode, image, gradients; in chunks where the case gives latents of its own or is chunked."""
    model = WFVAE(WfvaeConfig.from_json(case.spec["config"])).eval()
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    if "chunk" in case.name or "z" in case.inputs:
        return _conform(case, _chunked_outputs(case, model))
    return _conform(case, _autoencoder_outputs(case, model))


def causal_vae_case(case: Case) -> Outputs:
    """CausalVAEModel: encode, decode, image, gradients."""
    model = CausalVAE(CausalVaeConfig.from_json(case.spec["config"])).eval()
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    return _conform(case, _autoencoder_outputs(case, model))


def discriminator_case(case: Case) -> Outputs:
    """NLayerDiscriminator3D: logits in both modes, gradients, running statistics after one training pass."""
    config = case.spec["config"]
    model = PatchDiscriminator3D(config.get("input_nc", 1), config.get("ndf", 64), config.get("n_layers", 3))
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    x = case.inputs["x"].clone().requires_grad_()
    with torch.no_grad():
        outputs = {"logits_eval": model.eval()(x)}
    logits = model.train()(x)
    outputs |= {"logits_train": logits}
    if "w" in case.inputs:
        loss = (logits * case.inputs["w"]).mean()
        loss.backward()
        outputs |= {"loss": loss, "dx": _gradient_of(x), **_gradients(model, case.expected)}
    outputs |= {name: buffer for name, buffer in model.named_buffers() if name in case.expected}
    return _conform(case, outputs)


def haar_case(case: Case) -> Outputs:
    """The four wavelet transforms by themselves."""
    x = case.inputs["x"].clone().requires_grad_()
    bands = haar_3d(x)
    outputs = {"haar3d": bands, "roundtrip3d": inverse_haar_3d(bands), "filters3d": haar_filters_3d(), "filters2d": haar_filters_2d()}
    if "x2" in case.inputs:
        outputs["haar2d"] = haar_2d(case.inputs["x2"])
    if "c2" in case.inputs:
        outputs["inverse2d"] = inverse_haar_2d(case.inputs["c2"])
    if "c3" in case.inputs:
        outputs["inverse3d"] = inverse_haar_3d(case.inputs["c3"])
        outputs["dx"] = torch.autograd.grad((bands * case.inputs["c3"]).sum(), x)[0]
    return _conform(case, outputs)


def vae_losses_case(case: Case) -> Outputs:
    """LPIPSWithDiscriminator3D on a WFVAEModel: the generator's steps a case lists, and one of the discriminator."""
    if case.spec["params"]["loss"].get("perceptual_weight", 1.0) != 0:
        raise UserError("CASE_INVALID", "params.loss.perceptual_weight: expected 0, a case carries no VGG weights")
    models = case.spec["models"]
    vae = WFVAE(WfvaeConfig.from_json(case.spec["config"])).eval()
    load_seeded(vae, models["vae"]["keys"], models["vae"]["seed"])
    outputs: Outputs = {}
    for name, step, pixel in case.spec["params"]["runs"]:
        outputs |= _generator_outputs(case, vae, name, step, _loss_settings(case, pixel))
    with torch.no_grad():
        recon = vae(case.inputs["x"], case.inputs["eps"]).video
    discriminator = _case_discriminator(case)
    settings = _loss_settings(case, "l1")
    last_step = max(step for _, step, _ in case.spec["params"]["runs"])
    loss = discriminator_loss(case.inputs["x"], recon, last_step, settings, discriminator)
    loss.total.backward()
    named = {"loss": loss.total, "disc_loss": loss.total, "logits_real": loss.logits_real, "logits_fake": loss.logits_fake}
    named |= _gradients(discriminator, _under("disc.", case.expected))
    return _conform(case, outputs | _prefixed("disc.", named))


def _generator_outputs(case: Case, vae: WFVAE, name: str, step: int, settings: VaeLossSettings) -> Outputs:
    vae.zero_grad(set_to_none=True)
    result = vae(case.inputs["x"], case.inputs["eps"])
    encoder, decoder = result.encoder_wavelets, result.decoder_wavelets
    pairs = [(encoder.level_1, decoder.level_1), (encoder.level_2, decoder.level_2)] if case.spec["params"].get("wavelet") else []
    loss = generator_loss(
        case.inputs["x"],
        result.video,
        result.posterior.kl(),
        step,
        settings,
        discriminator=_case_discriminator(case),
        last_layer=vae.last_layer,
        wavelets=pairs,
    )
    loss.total.backward()
    shared = {"recon": result.video}
    shared |= {"enc_l1": encoder.level_1, "dec_l1": decoder.level_1, "enc_l2": encoder.level_2, "dec_l2": decoder.level_2}
    named = _loss_parts(loss, settings) | _gradients(vae, _under(f"{name}.", case.expected))
    return shared | _prefixed(f"{name}.", named)


def _loss_parts(loss: GeneratorLoss, settings: VaeLossSettings) -> Outputs:
    return {
        "loss": loss.total,
        "total_loss": loss.total,
        "logvar": torch.tensor(settings.logvar),
        "kl_loss": loss.kl,
        "nll_loss": loss.nll,
        "rec_loss": loss.nll,
        "wl_loss": loss.wavelet,
        "d_weight": loss.adaptive_weight,
        "disc_factor": torch.tensor(loss.adversarial_factor),
        "g_loss": loss.adversarial,
    }


def _loss_settings(case: Case, pixel: str) -> VaeLossSettings:
    named = case.spec["params"]["loss"]
    return VaeLossSettings(
        pixel="l1" if pixel == "l1" else "l2",
        perceptual_weight=0.0,
        kl_weight=named.get("kl_weight", 1.0),
        wavelet_weight=named.get("wavelet_weight", 0.01),
        adversarial=named.get("disc_loss", "hinge"),
        adversarial_weight=named.get("disc_weight", 1.0),
        adversarial_factor=named.get("disc_factor", 1.0),
        adversarial_start=named["disc_start"],
        logvar=named.get("logvar_init", 0.0),
    )


def _case_discriminator(case: Case) -> PatchDiscriminator3D:
    named, part = case.spec["params"]["loss"], case.spec["models"]["discriminator"]
    base = part["keys"]["main.0.weight"][0]
    model = PatchDiscriminator3D(named.get("disc_in_channels", 3), base, named.get("disc_num_layers", 4))
    load_seeded(model, part["keys"], part["seed"])
    return model.train()


def _autoencoder_outputs(case: Case, model: Autoencoder) -> Outputs:
    posterior = model.encode(case.inputs["x"])
    recon = model.decode(posterior.mean)
    outputs = _posterior_outputs(posterior) | {"recon": recon}
    if "eps" in case.inputs:
        outputs["latent"] = model.scaled(posterior.at(case.inputs["eps"]))
    if "w" in case.inputs:
        loss = (recon * case.inputs["w"]).mean() + KL_SHARE * posterior.kl_by_column().mean()
        loss.backward()
        outputs |= {"loss": loss, **_gradients(model, case.expected)}
    if "x_img" in case.inputs:
        with torch.no_grad():
            image = model.encode(case.inputs["x_img"])
            outputs |= {"img_moments": image.moments, "img_recon": model.decode(image.mean)}
    return outputs


@torch.no_grad()
def _chunked_outputs(case: Case, model: WFVAE) -> Outputs:
    outputs: Outputs = {}
    if "x" in case.inputs:
        posterior = model.encode_chunked(case.inputs["x"], latents_per_chunk=2)
        outputs |= _posterior_outputs(posterior) | {"recon": model.decode_chunked(posterior.mean, latents_per_chunk=2)}
    if "z" in case.inputs:
        outputs["recon"] = model.decode_chunked(case.inputs["z"], latents_per_chunk=2)
    return outputs


def _posterior_outputs(posterior: Posterior) -> Outputs:
    return {
        "moments": posterior.moments,
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "std": posterior.std,
        "kl": posterior.kl_by_column(),
    }


def _gradients(model: nn.Module, expected: Iterable[str]) -> Outputs:
    """The gradients whose names are expected, and the length of all of them. Summed in float64: a million squares wear float32 out."""
    by_name = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    wanted = [name.removeprefix(GRADIENT) for name in expected if name.startswith(GRADIENT)]
    lengths = torch.stack([gradient.double().norm() for gradient in by_name.values()])
    return {GRADIENT + name: by_name[name] for name in wanted if name in by_name} | {"grad_norm": lengths.norm().float()}


def _gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _under(prefix: str, names: Iterable[str]) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _prefixed(prefix: str, outputs: Mapping[str, Tensor]) -> Outputs:
    return {prefix + name: value for name, value in outputs.items()}


def _conform(case: Case, outputs: Mapping[str, Tensor]) -> Outputs:
    """The outputs the case expects, scalars in the case's shape.

    Raises UserError CASE_INVALID for an expected output that no module here gives.
    """
    unknown = sorted(set(case.expected) - set(outputs))
    if unknown:
        raise UserError("CASE_INVALID", f"{case.name} outputs: expected names of this kind of case, got {', '.join(unknown[:5])}")
    return {name: _in_shape(outputs[name].detach(), expected.shape) for name, expected in case.expected.items()}


def _in_shape(value: Tensor, shape: torch.Size) -> Tensor:
    return value.reshape(shape) if value.numel() == 1 == shape.numel() else value


def _for_each(names: Iterable[str], handler: Callable[[Case], Outputs]) -> dict[str, Handler]:
    return dict.fromkeys(names, handler)


HANDLERS: dict[str, Handler] = {
    **_for_each(("WFVAEModel", "WFVAE"), wfvae_case),
    **_for_each(("CausalVAEModel", "CausalVAE"), causal_vae_case),
    **_for_each(("NLayerDiscriminator3D",), discriminator_case),
    **_for_each(
        (
            "HaarWaveletTransform",
            "HaarWaveletTransform{2D",
            "HaarWaveletTransform2D",
            "HaarWaveletTransform3D",
            "InverseHaarWaveletTransform2D",
            "InverseHaarWaveletTransform3D",
        ),
        haar_case,
    ),
    **_for_each(("LPIPSWithDiscriminator3D", "LPIPSWithDiscriminator"), vae_losses_case),
}
"""By the class name that opens a case's `source.cls`."""
