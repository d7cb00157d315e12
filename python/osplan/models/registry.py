"""From a config.json to the network it names, and the numbers a network starts with."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from osplan.domain.errors import UserError
from osplan.models.causal_vae import CausalVAE, CausalVaeConfig
from osplan.models.latte import Latte, LatteConfig
from osplan.models.modulation import random_table
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.suv import Suv
from osplan.models.suv_config import SuvConfig
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig

BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "OpenSoraT2V_v1_3": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "OpenSoraInpaint_v1_3": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "OpenSoraT2V": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "OpenSoraInpaint": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "LatteT2V": lambda raw: Latte(LatteConfig.from_json(raw)),
    "SparseUMMDiT": lambda raw: Suv(SuvConfig.from_json(raw)),
    "WFVAEModel": lambda raw: WFVAE(WfvaeConfig.from_json(raw)),
    "CausalVAEModel": lambda raw: CausalVAE(CausalVaeConfig.from_json(raw)),
}
"""Upstream's class name to the network."""
TRANSFORMERS = (OpenSora, Latte, Suv)


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The network a config.json names; on the meta device where that is the default device.

    Raises UserError MODEL_UNKNOWN for another class.
    """
    name = config.get("_class_name")
    if name not in BUILDERS:
        raise UserError(
            "MODEL_UNKNOWN", f"_class_name: expected one of {', '.join(BUILDERS)}, got {name}", "check the config.json of the weights"
        )
    return BUILDERS[name](config)


def init_weights(model: nn.Module) -> None:
    """Draws the numbers upstream's transformers start from; networks of another kind keep their own.

    Needed after a build on the meta device; a build elsewhere already starts so. Layers draw as torch does, scale-shift tables normal with
    variance 1 / width, the closing layers of inpainting paths zero. Upstream zeroes neither gates nor the output.
    """
    if not isinstance(model, TRANSFORMERS):
        return
    for module in model.modules():
        if isinstance(table := getattr(module, "scale_shift_table", None), nn.Parameter):
            table.data.copy_(random_table(*table.shape))
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
