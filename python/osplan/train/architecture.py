"""From a stage to the networks it trains: upstream's config.json for each, and the modules built from it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

RANDOM_WEIGHTS = "random"
"""`vae.weights` of a stage that is only tried."""
PUBLISHED_STAGES, PUBLISHED_SPARSE_N = (2, 4, 6, 8, 6, 4, 2), (1, 2, 4, 8, 4, 2, 1)
"""Blocks and sub-sequences of the stages of v1.5's transformer."""
SUV_TIME_CHANNELS = 1024
CLIP_POOLED_CHANNELS = 1280
"""Channels of the pooled caption v1.5 was trained with (CLIP ViT-bigG)."""
CAUSAL_STRIDE = (4, 8)
"""Stride of the autoencoders of v1.0 to v1.2."""


def transformer_config(stage: Stage) -> dict[str, Any]:
    """The config.json upstream would write for the stage's diffusion transformer."""
    model, latent = stage.model, latent_shape(stage)
    width = model.heads * model.head_dim
    if model.class_ == "SparseUMMDiT":
        return _suv_config(stage)
    config: dict[str, Any] = {
        "_class_name": model.class_,
        "num_attention_heads": model.heads,
        "attention_head_dim": model.head_dim,
        "in_channels": stage.vae.latent_channels,
        "out_channels": stage.vae.latent_channels * (2 if stage.objective.learned_variance else 1),
        "num_layers": model.layers,
        "dropout": 0.0,
        "cross_attention_dim": width,
        "attention_bias": True,
        "sample_size_h": [latent[1], latent[2]],
        "sample_size_w": [latent[1], latent[2]],
        "sample_size_t": latent[0],
        "patch_size": model.patch[1],
        "patch_size_t": model.patch[0],
        "activation_fn": "gelu-approximate",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": model.text_channels,
        "interpolation_scale_t": model.interpolation_scale[0],
        "interpolation_scale_h": model.interpolation_scale[1],
        "interpolation_scale_w": model.interpolation_scale[2],
    }
    if model.class_ == "LatteT2V":
        return {
            **config,
            "sample_size": [latent[1], latent[2]],
            "video_length": latent[0],
            "norm_type": "ada_norm_single",
            "num_embeds_ada_norm": 1000,
            # A key every v1.1 config.json has and no v1.0 one: frame numbers are stretched by it.
            **({} if _is_v10(stage) else {"use_rope": False}),
        }
    if stage.compat.rope_precision != "fp32":
        config["rope_precision"] = stage.compat.rope_precision
    if stage.kind == "inpaint":
        config["vae_scale_factor_t"] = stage.vae.stride[0]
    if model.class_ in ("OpenSoraT2V", "OpenSoraInpaint"):
        return {**config, "sample_size": [latent[1], latent[2]], "use_rope": model.rope, "norm_type": "ada_norm_single"}
    config |= {"sparse1d": model.sparse, "sparse_n": model.sparse_n if model.sparse else 1}
    if model.sparse_blocks is not None:
        config["sparse_blocks"] = list(model.sparse_blocks)
    return config


def _is_v10(stage: Stage) -> bool:
    """Whether an imported stage was written for v1.0's trainer."""
    return str(stage.upstream.get("launch.version", "")).startswith("v1.0")


def pooled_channels(stage: Stage) -> int:
    """Channels of the pooled caption: the second encoder's, or those of the states whose mean stands for it."""
    return stage.model.text_channels if stage.text.second_encoder is None else CLIP_POOLED_CHANNELS


def _suv_config(stage: Stage) -> dict[str, Any]:
    model, latent = stage.model, latent_shape(stage)
    return {
        "_class_name": "SparseUMMDiT",
        "num_attention_heads": model.heads,
        "attention_head_dim": model.head_dim,
        "in_channels": stage.vae.latent_channels,
        "out_channels": stage.vae.latent_channels,
        "num_layers": list(model.stage_layers or PUBLISHED_STAGES),
        "sparse1d": model.sparse,
        "sparse_n": list(model.stage_sparse_n or PUBLISHED_SPARSE_N),
        "patch_size": model.patch[1],
        "patch_size_t": model.patch[0],
        "caption_channels": model.text_channels,
        "timestep_embed_dim": SUV_TIME_CHANNELS,
        "pooled_projection_dim": pooled_channels(stage),
        "sample_size_t": latent[0],
        "sample_size_h": latent[1],
        "sample_size_w": latent[2],
        "interpolation_scale_t": model.interpolation_scale[0],
        "interpolation_scale_h": model.interpolation_scale[1],
        "interpolation_scale_w": model.interpolation_scale[2],
    }


def config_beside(weights: str | None) -> dict[str, Any] | None:
    """The config.json beside weights, or in their folder; None where there is none. It decides the architecture."""
    if weights is None:
        return None
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.is_file() else None


def vae_config(stage: Stage) -> dict[str, Any]:
    """The config.json upstream would write for an autoencoder that the stage trains from scratch.

    Raises UserError VAE_STRIDE for a stride the class has not.
    """
    return _causal_vae_config(stage) if stage.vae.class_ == "CausalVAEModel" else _wfvae_config(stage)


def _causal_vae_config(stage: Stage) -> dict[str, Any]:
    vae = stage.vae
    _check_stride(stage, (CAUSAL_STRIDE,))
    return {
        "_class_name": "CausalVAEModel",
        "hidden_size": vae.base_channels,
        "z_channels": vae.latent_channels,
        "embed_dim": vae.latent_channels,
        "num_res_blocks": vae.residual_blocks,
        "encoder_attention": "AttnBlock3DFix",
        "decoder_attention": "AttnBlock3DFix",
        "norm_type": vae.norm,
    }


def _check_stride(stage: Stage, known: Sequence[tuple[int, int]]) -> None:
    stride = tuple(stage.vae.stride)
    if stride not in known:
        raise UserError(
            "VAE_STRIDE",
            f"vae.stride: expected one of {', '.join(map(str, known))} for a {stage.vae.class_}, got {stride}",
            "set vae.stride to (time, space) of the autoencoder",
        )


def _wfvae_config(stage: Stage) -> dict[str, Any]:
    vae = stage.vae
    _check_stride(stage, ((4, 8), (8, 8)))
    eight = vae.stride[0] == 8
    first = "Spatial2xTime2x3D" if eight else ""
    dimension = "3D" if eight else "2D"
    return {
        "_class_name": "WFVAEModel",
        "latent_dim": vae.latent_channels,
        "base_channels": vae.base_channels,
        "encoder_num_resblocks": vae.residual_blocks,
        "encoder_energy_flow_hidden_size": vae.encoder_flow_channels,
        "decoder_num_resblocks": vae.residual_blocks,
        "decoder_energy_flow_hidden_size": vae.decoder_flow_channels,
        "connect_res_layer_num": vae.connect_layers,
        "use_attention": vae.attention,
        "dropout": 0.0,
        "norm_type": vae.norm,
        "t_interpolation": "trilinear",
        "scale": [1.0] * vae.latent_channels,
        "shift": [0.0] * vae.latent_channels,
        "l1_dowmsample_block": f"{first}Downsample",
        "l1_downsample_wavelet": f"HaarWaveletTransform{dimension}",
        "l2_dowmsample_block": "Spatial2xTime2x3DDownsample",
        "l2_downsample_wavelet": "HaarWaveletTransform3D",
        "l1_upsample_block": f"{first}Upsample",
        "l1_upsample_wavelet": f"InverseHaarWaveletTransform{dimension}",
        "l2_upsample_block": "Spatial2xTime2x3DUpsample",
        "l2_upsample_wavelet": "InverseHaarWaveletTransform3D",
        **({} if stage.compat.haar_constant == "upstream" else {"haar_constant": stage.compat.haar_constant}),
    }


def latent_shape(stage: Stage) -> tuple[int, int, int]:
    """Latent frames, height and width of a clip of the stage's shape."""
    time, space = stage.vae.stride
    return (stage.shape.frames - 1) // time + 1, stage.shape.height // space, stage.shape.width // space


def with_latent_statistics(config: Mapping[str, Any], shift: list[float], scale: list[float]) -> dict[str, Any]:
    """The config of an autoencoder with measured shift and scale per latent channel."""
    return {**config, "shift": shift, "scale": scale}
