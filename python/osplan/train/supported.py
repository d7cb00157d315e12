"""Settings this trainer does not carry out: refused before the first step, all at once, never passed over."""

from collections.abc import Iterator

from osplan.domain.errors import UserError
from osplan.domain.stage import Stage

TRAINABLE_CLASSES = ("OpenSoraT2V_v1_3", "OpenSoraInpaint_v1_3", "OpenSoraT2V", "OpenSoraInpaint", "LatteT2V", "SparseUMMDiT")
INPAINT_CLASSES = ("OpenSoraInpaint_v1_3", "OpenSoraInpaint")
TRAINABLE_KINDS = ("vae", "text-to-video", "inpaint", "lora")
SHARED_CLASSES = ("OpenSoraT2V_v1_3", "OpenSoraInpaint_v1_3", "OpenSoraT2V", "OpenSoraInpaint")
JOINT_CLASSES = ("OpenSoraT2V_v1_3", "OpenSoraT2V", "LatteT2V")
VIDEO_AUTOENCODERS = ("WFVAEModel", "CausalVAEModel")


def refuse_unsupported(stage: Stage) -> None:
    """Raises UserError KIND_UNTRAINABLE for a kind or class this trainer has not, SETTING_UNSUPPORTED for settings it ignores."""
    refuse_kind(stage)
    found = [f"{path} {value}: {reason}" for path, value, is_meant, reason in _rows(stage) if is_meant]
    if found:
        raise UserError(
            "SETTING_UNSUPPORTED",
            f"expected settings this trainer carries out, got {'; '.join(found)}",
            "change them with --set, or train with --tiny, which leaves them out",
        )


def refuse_kind(stage: Stage) -> None:
    """Raises UserError KIND_UNTRAINABLE for a kind, an autoencoder or a transformer this trainer has not."""
    kind, vae, model = stage.kind, stage.vae.class_, stage.model.class_
    if kind not in TRAINABLE_KINDS:
        raise _untrainable("kind", TRAINABLE_KINDS, kind)
    if vae not in VIDEO_AUTOENCODERS:
        raise _untrainable("vae.class", VIDEO_AUTOENCODERS, vae)
    if kind == "vae":
        return
    known = INPAINT_CLASSES if kind == "inpaint" else [name for name in TRAINABLE_CLASSES if name not in INPAINT_CLASSES]
    if model not in known:
        raise _untrainable("model.class", known, model)


def _untrainable(path: str, known: tuple[str, ...] | list[str], got: str) -> UserError:
    return UserError(
        "KIND_UNTRAINABLE",
        f"{path}: expected one of {', '.join(known)}, got {got}",
        "this trainer cannot train it; it can be imported and compared",
    )


def _rows(stage: Stage) -> Iterator[tuple[str, object, bool, str]]:
    """Path, value, whether it asks for what is not done, and what that is."""
    parallel, memory, data, text, model, objective = stage.parallel, stage.memory, stage.data, stage.text, stage.model, stage.objective
    is_flow, is_vae = objective.name == "rectified-flow", stage.kind == "vae"
    yield "lora.rank", stage.lora.rank, is_vae and stage.lora.rank is not None, "an autoencoder trains its own weights"
    yield "kind", stage.kind, stage.kind == "lora" and stage.lora.rank is None, "adapters need a rank: lora: { rank: 16 }"
    spread, name = parallel.strategy != "ddp", stage.optimizer.name
    whole = "an autoencoder is small beside its activations, and its adversarial term needs the last layer whole; use ddp"
    yield "parallel.strategy", parallel.strategy, spread and is_vae, whole
    shared = parallel.sequence > 1 and (is_vae or model.class_ not in SHARED_CLASSES)
    yield "parallel.sequence", parallel.sequence, shared, f"only {', '.join(SHARED_CLASSES)} share a clip over ranks"
    uneven = parallel.sequence > 1 and not is_vae and model.heads % parallel.sequence > 0
    yield "parallel.sequence", parallel.sequence, uneven, f"ranks that share a clip share its {model.heads} heads evenly"
    yield "optimizer.name", name, spread and name not in ("adamw", "sgd"), "it does not know weights that are spread over ranks"
    yield "parallel.tensor", parallel.tensor, parallel.tensor > 1, "layers are not split over ranks"
    stays = memory.offload and not spread
    yield "memory.offload", memory.offload, stays, "only spread weights move to host memory; use parallel.strategy fsdp2, on one GPU too"
    in_half = memory.precision == "fp16" and is_vae and objective.adversarial_weight > 0
    unscaled = "the balance of the two gradients at the last layer would be taken from unscaled fp16; use bf16 or fp32"
    yield "memory.precision", memory.precision, in_half, unscaled
    yield "memory.compile", memory.compile, memory.compile == "blocks" and is_vae, "an autoencoder has no blocks to compile; use full"
    alone = is_vae or stage.kind == "inpaint" or model.class_ not in JOINT_CLASSES or parallel.sequence > 1
    joint = f"images train jointly in text-to-video stages of {', '.join(JOINT_CLASSES)} without parallel.sequence"
    yield "data.imagesPerClip", data.images_per_clip, data.images_per_clip > 0 and alone, joint
    unused = data.images_per_clip > 0 and data.images_from_clips and data.cache != "off"
    yield "data.imagesFromClips", True, unused, "frames of clips are not kept; set data.cache to off"
    mixed = not data.group_by_shape and not stage.shape.fixed and stage.batch.per_device > 1
    one = "clips of a pass are one tensor; set batch.perDevice to 1 and batch.accumulate to what it was"
    yield "data.groupByShape", data.group_by_shape, mixed, one
    is_cached = data.cache != "off"
    yield "data.cache", data.cache, is_cached and is_vae, "an autoencoder trains on pixels; use off"
    draws_crops = data.crop == "random" and (stage.shape.fixed or data.crop_size is not None)
    one_view = is_cached and not is_vae and data.cache_variants == 1
    several = "a cache keeps one view of each clip; set data.cacheVariants to 2 or more, or data.cache to off"
    yield "data.crop", data.crop, one_view and draws_crops, several
    yield "data.flip", data.flip, one_view and 0 < data.flip < 1, several
    second = text.second_encoder is not None and model.class_ != "SparseUMMDiT" and not is_vae
    yield "text.secondEncoder", text.second_encoder, second, "only SparseUMMDiT reads a pooled caption"
    yield "scaleLearningRate", stage.scale_learning_rate, stage.scale_learning_rate, "write the learning rate you want"
    yield "model.patch", list(model.patch), not is_vae and model.patch[1] != model.patch[2], "patches are square"
    both = is_flow and objective.times != "uniform" and objective.weighting != "none"
    yield "objective.weighting", objective.weighting, both, f"times are drawn {objective.times} already; name one of the two"
    wanted = ("auto", "flow-euler") if is_flow else ("auto", "ddim", "euler-ancestral")
    wrong_sampler = not is_vae and stage.samples.sampler not in wanted
    yield "samples.sampler", stage.samples.sampler, wrong_sampler, f"{objective.name} is sampled by {' or '.join(wanted[1:])}"
    goes_on = stage.kind == "inpaint"
    samples = stage.samples
    yield "samples.from", list(samples.from_), bool(samples.from_) and not (goes_on or is_vae), "only inpaint stages go on from frames"
    yield "samples.task", samples.task, samples.task not in ("auto", "t2v") and not goes_on, "only inpaint stages know frames"
