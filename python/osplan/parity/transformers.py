"""Parity of the diffusion transformers with upstream's classes.

A handler rebuilds a case with this code's models: weights under upstream's names, the inputs of the case, the weighted
mean of the output as loss, and every output the case expects, under the case's names.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from osplan.models.inpaint import extend_to_inpaint
from osplan.models.latte import SINCE_V11, Latte, LatteConfig
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.suv import Suv
from osplan.models.suv_config import SuvConfig
from osplan.parity.case import GRADIENT, Case, Handler, Outputs, load_seeded


def opensora_case(case: Case) -> Outputs:
    """OpenSoraT2V of v1.2 and v1.3, and the inpainting model with its extension from text-to-video where the case has it."""
    model = OpenSora(OpenSoraConfig.from_json({**case.spec["config"], "_class_name": source_class(case)}))
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    outputs = _outputs(case, model, {"images": case.inputs["cond"].shape[1] - 1})
    if "out_ext" in case.expected:
        outputs |= _extension_outputs(case, model)
    return outputs


def latte_case(case: Case) -> Outputs:
    """LatteT2V of v1.0, which knows no latent mask, and of v1.1; with images where the case has a text for each."""
    is_v10 = str(case.spec["source"]["tag"]).startswith("v1.0")
    config = case.spec["config"]
    model = Latte(LatteConfig.from_json(config if is_v10 else {SINCE_V11: False, **config}))
    model.numbers_frames_beside_images = bool(case.spec.get("params", {}).get("gradient_checkpointing", False))
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    cond = case.inputs["cond"]
    ignored = {"attention_mask"} if is_v10 else set()
    return _outputs(case, model, {"images": cond.shape[1] - 1 if cond.ndim == 4 else 0}, ignored)


def suv_case(case: Case) -> Outputs:
    """SparseUMMDiT of v1.5, with or without the last text branch, as the case names its tensors."""
    has_branch = any(name.endswith(".norm2.norm_enc.weight") and name.startswith(_last_block(case)) for name in case.spec["keys"])
    model = Suv(SuvConfig.from_json({**case.spec["config"], "last_text_branch": has_branch}))
    load_seeded(model, case.spec["keys"], case.spec["weights"]["seed"])
    return _outputs(case, model, {"pooled_B1C": case.inputs["pooled"]})


def _last_block(case: Case) -> str:
    stages = case.spec["config"]["num_layers"]
    return f"transformer_blocks.{len(stages) - 1}.{stages[-1] - 1}."


def source_class(case: Case) -> str:
    """Upstream's class name: the first word of the case's source."""
    return str(case.spec["source"]["cls"]).split()[0].split("(")[0]


def _arguments(case: Case, x: Tensor, ignored: Collection[str] = ()) -> list[Tensor | None]:
    inputs = {name: values for name, values in case.inputs.items() if name not in ignored}
    return [x, inputs["timestep"], inputs["cond"], inputs.get("attention_mask"), inputs.get("text_mask")]


def _outputs(case: Case, model: OpenSora | Latte | Suv, options: Mapping[str, Any], ignored: Collection[str] = ()) -> Outputs:
    seen: list[Tensor] = []

    def keep_first(_module: nn.Module, _args: object, out: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((out if isinstance(out, Tensor) else out[0]).detach()[0])

    hooks = [block.register_forward_hook(keep_first) for block in model.blocks]
    out = model(*_arguments(case, case.inputs["x"], ignored), **options)
    for hook in hooks:
        hook.remove()
    outputs: Outputs = {"out": out.detach()}
    if "blocks" in case.expected:
        outputs["blocks"] = torch.stack(seen)
    if "w" in case.inputs:
        loss = (out * case.inputs["w"]).mean()
        loss.backward()
        outputs |= {"loss": loss.detach().reshape(1), **_gradients(model, case)}
    return outputs


def _gradients(model: nn.Module, case: Case) -> Outputs:
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    wanted = [name.removeprefix(GRADIENT) for name in case.expected if name.startswith(GRADIENT)]
    return {
        "grad_norm": torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm().float(),
        **{GRADIENT + name: gradients[name] for name in wanted},
    }


@torch.no_grad()
def _extension_outputs(case: Case, model: OpenSora) -> Outputs:
    """The inpainting model right after its extension from text-to-video weights, and the text-to-video model itself."""
    source = OpenSora(OpenSoraConfig.from_json({**case.spec["config"], "_class_name": "OpenSoraT2V_v1_3"}))
    shapes = {name: tuple(parameter.shape) for name, parameter in source.named_parameters()}
    load_seeded(source, shapes, case.spec["tables"]["extension_seed"])
    model.load_state_dict(extend_to_inpaint(source.state_dict(), model.config.inpaint_time_stride or 4))
    x = case.inputs["x"]
    return {
        "out_ext": model(*_arguments(case, x)),
        "out_t2v": source(*_arguments(case, x[:, : source.config.in_channels])),
    }


HANDLERS: dict[str, Handler] = {
    "OpenSoraT2V_v1_3": opensora_case,
    "OpenSoraInpaint_v1_3": opensora_case,
    "OpenSoraT2V": opensora_case,
    "LatteT2V": latte_case,
    "SparseUMMDiT": suv_case,
}
"""Upstream's class name to the handler of its cases."""
