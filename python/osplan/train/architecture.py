"""From a stage to the networks it trains: upstream's config.json for each, and the modules built from it."""

from collections.abc import Mapping
from typing import Any

from osplan.domain.stage import Stage

INPAINT_EXTRA = {"OpenSoraInpaint_v1_3", "OpenSoraInpaint"}


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
        }
    if model.class_ in ("OpenSoraT2V", "OpenSoraInpaint"):
        return {**config, "sample_size": [latent[1], latent[2]], "use_rope": model.rope, "norm_type": "ada_norm_single"}
    config |= {"sparse1d": model.sparse, "sparse_n": model.sparse_n if model.sparse else 1}
    if model.sparse_blocks is not None:
        config["sparse_blocks"] = list(model.sparse_blocks)
    if model.class_ in INPAINT_EXTRA:
        config["vae_scale_factor_t"] = stage.vae.stride[0]
    return config


def _suv_config(stage: Stage) -> dict[str, Any]:
    model = stage.model
    return {
        "_class_name": "SparseUMMDiT",
        "num_attention_heads": model.heads,
        "attention_head_dim": model.head_dim,
        "in_channels": stage.vae.latent_channels,
        "out_channels": stage.vae.latent_channels,
        "num_layers": list(model.stage_layers or (2, 4, 6, 8, 6, 4, 2)),
        "sparse_n": list(model.stage_sparse_n or (1, 2, 4, 8, 4, 2, 1)),
        "patch_size": model.patch[1],
        "patch_size_t": model.patch[0],
        "caption_channels": model.text_channels,
        "interpolation_scale_t": model.interpolation_scale[0],
        "interpolation_scale_h": model.interpolation_scale[1],
        "interpolation_scale_w": model.interpolation_scale[2],
    }


def vae_config(stage: Stage) -> dict[str, Any]:
    """The config.json upstream would write for a WF-VAE that the stage trains from scratch."""
    vae = stage.vae
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
    }


def latent_shape(stage: Stage) -> tuple[int, int, int]:
    """Latent frames, height and width of a clip of the stage's shape."""
    time, space = stage.vae.stride
    return (stage.shape.frames - 1) // time + 1, stage.shape.height // space, stage.shape.width // space


def with_latent_statistics(config: Mapping[str, Any], shift: list[float], scale: list[float]) -> dict[str, Any]:
    """The config of an autoencoder with measured shift and scale per latent channel."""
    return {**config, "shift": shift, "scale": scale}
