"""The two spellings of WF-VAE state dicts: upstream's tag v1.3.1 and its branch main.

They differ in the constant Haar filters only: v1.3.1 spells them `wavelet_tranform_*` and leaves out those of the
outermost transform. Filters in a file are checked for their presence by name and never for their values: the config decides them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from osplan.models.haar import BAND_NAMES_2D, BAND_NAMES_3D, HaarConstant, haar_filters_2d, haar_filters_3d
from osplan.models.wfvae_config import WfvaeConfig

Layout = Literal["v1.3.1", "main"]

_V131_SPELLING = "wavelet_tranform_"
_MAIN_SPELLING = "wavelet_transform_"
_OUTERMOST = ("encoder.wavelet_transform_in.", "decoder.inverse_wavelet_transform_out.")


def stored_filters_2d() -> dict[str, Tensor]:
    """2-D filters as checkpoints hold them, (1, 1, 2, 2) each."""
    return {name: filter_HW[None, None] for name, filter_HW in zip(BAND_NAMES_2D, haar_filters_2d(), strict=True)}


def stored_filters_3d(constant: HaarConstant, *, as_convolutions: bool) -> dict[str, Tensor]:
    """3-D filters as checkpoints hold them, (1, 1, 2, 2, 2) each; encoders name them as convolutions."""
    ending = "_conv.conv.weight" if as_convolutions else ""
    return {name + ending: filter_THW[None, None] for name, filter_THW in zip(BAND_NAMES_3D, haar_filters_3d(constant), strict=True)}


class StoredFilters(nn.Module):
    """Gives the constants of a transform their place in the state dict. Nothing computes with them."""

    def __init__(self, filters: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in filters.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_buffer(last, value.clone())


def filters_of_encoder(time_stride: int, constant: HaarConstant) -> dict[str, dict[str, Tensor]]:
    """The constants an encoder stores, by module name (v1.3.1)."""
    three = stored_filters_3d(constant, as_convolutions=True)
    return {"wavelet_tranform_l1": stored_filters_2d() if time_stride == 4 else three, "wavelet_tranform_l2": three}


def filters_of_decoder(time_stride: int, constant: HaarConstant) -> dict[str, dict[str, Tensor]]:
    """The constants a decoder stores, by module name (v1.3.1)."""
    three = stored_filters_3d(constant, as_convolutions=False)
    return {"inverse_wavelet_tranform_l1": stored_filters_2d() if time_stride == 4 else three, "inverse_wavelet_tranform_l2": three}


def own_name(name: str) -> str | None:
    """A tensor's name in this code's modules, from its name in a file of either layout.

    None for the outermost filters of main, which have no place here.
    """
    return None if name.startswith(_OUTERMOST) else name.replace(_MAIN_SPELLING, _V131_SPELLING)


def in_layout(state: Mapping[str, Tensor], layout: Layout, constant: HaarConstant) -> dict[str, Tensor]:
    """A state dict of this code's modules with the names of an upstream version."""
    if layout == "v1.3.1":
        return dict(state)
    renamed = {name.replace(_V131_SPELLING, _MAIN_SPELLING): value for name, value in state.items()}
    encoder, decoder = _OUTERMOST
    renamed |= {encoder + name: value for name, value in stored_filters_3d(constant, as_convolutions=True).items()}
    renamed |= {decoder + name: value for name, value in stored_filters_3d(constant, as_convolutions=False).items()}
    return renamed


def accept_either_layout(config: WfvaeConfig, _: nn.Module, state: dict[str, Any], prefix: str, *__: object) -> None:
    """Load hook: renames main's spelling and puts the config's own filters in place of a file's.

    A file without filters is complete. They are made afresh, because a model built on the meta device holds none.
    """
    for name in [name for name in state if name.startswith(prefix)]:
        value, renamed = state.pop(name), own_name(name.removeprefix(prefix))
        if renamed is not None:
            state[prefix + renamed] = value
    state.update({prefix + name: value for name, value in all_filters(config).items()})


def all_filters(config: WfvaeConfig) -> dict[str, Tensor]:
    """Every constant of a model's state dict by its full name (v1.3.1)."""
    by_part = {
        "encoder": filters_of_encoder(config.time_stride, config.haar_constant),
        "decoder": filters_of_decoder(config.time_stride, config.haar_constant),
    }
    return {
        f"{part}.{module}.{name}": value
        for part, modules in by_part.items()
        for module, filters in modules.items()
        for name, value in filters.items()
    }
