"""From a config.json to the network it names, and the numbers a network starts with."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from osplan.domain.errors import UserError
from osplan.models.causal_vae import CausalVAE, CausalVaeConfig
from osplan.models.opensora import OpenSora, OpenSoraConfig
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig

BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "OpenSoraT2V_v1_3": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "OpenSoraInpaint_v1_3": lambda raw: OpenSora(OpenSoraConfig.from_json(raw)),
    "WFVAEModel": lambda raw: WFVAE(WfvaeConfig.from_json(raw)),
    "CausalVAEModel": lambda raw: CausalVAE(CausalVaeConfig.from_json(raw)),
}
"""Upstream's class name to the network."""


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
    """The numbers upstream's transformers start from; networks of another kind keep their own.

    Linear layers and patches: Xavier uniform with zero bias; time embedding and captions: normal with deviation 0.02; the outputs of
    the modulations and of the model: zero, so that every block starts as the identity.
    """
    if isinstance(model, OpenSora):
        _init_opensora(model)


def _init_opensora(model: OpenSora) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.config.width, -1))
    nn.init.zeros_(model.pos_embed.proj.bias)
    for linear in (*model.adaln_single.emb.timestep_embedder.children(), *model.caption_projection.children()):
        if isinstance(linear, nn.Linear):
            nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(model.adaln_single.linear.weight)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.proj_out.weight)
    if model.config.inpaint_time_stride is not None:
        for path in (model.pos_embed_masked_hidden_states, model.pos_embed_mask):
            nn.init.zeros_(path[1].weight)
