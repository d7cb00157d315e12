"""A stage as TypeScript resolved it. Generated from src/domain/stage/schema.ts by `npm run generate`; do not edit."""

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from osplan.domain.errors import UserError
from osplan.domain.protocol import camel

@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """`init` of a stage."""

    weights: str | None
    """Where the trained model starts from: a folder, a file, a run address, `stage:NAME` of this recipe; null starts from random weights."""
    use: Literal["ema", "raw", "best"]
    """Which weights of the source are taken: its moving average, the raw ones, or those with the lowest held-out loss."""
    accept: tuple[str, ...]
    """Tensors that may differ from the model: `missing:GLOB`, `unexpected:GLOB`, `reshaped:GLOB`; anything else must match exactly."""
    continue_from: str | None
    """Upstream only: the checkpoint its script resumes; `stagewright continue` needs no setting for this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """`optimizer` of a stage."""

    name: Literal["adamw", "adamw-8bit", "prodigy", "came", "sgd"]
    """The optimiser."""
    beta1: float
    """Decay of the first moment per step."""
    beta2: float
    """Decay of the second moment per step."""
    epsilon: float
    """Added to the root of the second moment."""
    weight_decay: float
    """Decoupled weight decay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """`schedule` of a stage."""

    name: Literal["constant", "constant-with-warmup", "linear", "cosine", "cosine-with-restarts", "polynomial", "piecewise-constant", "wsd"]
    """Course of the learning rate over the stage."""
    warmup_steps: int
    """Steps over which the learning rate rises from zero [step]."""
    cycles: float
    """Cycles of cosine-with-restarts."""
    power: float
    """Exponent of polynomial."""
    decay_share: float
    """Last share of the steps in which wsd decays."""
    floor_ratio: float
    """Lowest learning rate as a share of the highest."""
    horizon_steps: int | None
    """Steps the schedule is drawn for; null: the steps of the stage [step]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """`clip` of a stage."""

    mode: Literal["none", "norm", "adaptive", "zclip"]
    """How gradients are clipped: not, to a fixed norm, to upstream’s moving threshold, or by z-score."""
    norm: float
    """Largest norm of the gradient over all trainable tensors."""
    ema_decay: float
    """Decay of the moving mean and variance of the norm in the adaptive modes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ema:
    """`ema` of a stage."""

    enabled: bool
    """Keep a moving average of the weights."""
    decay: float
    """Largest decay per step."""
    start_step: int
    """Step after which the average starts [step]."""
    rule: Literal["upstream", "warmup"]
    """Upstream: min(decay, (1+s)/(10+s)) with s = step − start − 1; warmup: the same from s = step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`batch` of a stage."""

    per_device: int
    """Clips per rank and backward pass (micro-batch) [clip]."""
    accumulate: int
    """Backward passes per optimizer step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """`shape` of a stage."""

    frames: int
    """Frames per clip in pixels, 1 + k × the time stride of the VAE [frame]."""
    height: int
    """Height of a clip in pixels [px]."""
    width: int
    """Width of a clip in pixels [px]."""
    fixed: bool
    """Every clip is cropped and resized to height × width; off: clips keep their aspect inside the pixel limits."""
    max_pixels: int | None
    """Largest area of a frame when not fixed [px]."""
    min_pixels: int | None
    """Clips with a smaller area are dropped when not fixed; null: a quarter of the largest [px]."""
    multiple_of: int
    """Height and width are floored to a multiple of this when not fixed [px]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """`data` of a stage."""

    source: str | None
    """A folder of clips or a list file of `root,annotation` lines."""
    fps: float
    """Frame rate clips are resampled to [frame/s]."""
    speed: float
    """Playback speed of the clips."""
    frame_stride: int
    """Every n-th frame is taken where frames are not resampled to a rate [frame]."""
    drop_short: float
    """Chance that a clip shorter than `shape.frames` is dropped; otherwise it is shortened."""
    min_frames: int
    """Clips with fewer frames after resampling are dropped (upstream: 29, not a setting) [frame]."""
    max_duration_ratio: float
    """Clips longer than this times the wanted duration are dropped."""
    min_bucket_batches: int
    """Buckets with fewer global batches are dropped (upstream: 4, not a setting)."""
    crop: Literal["center", "random", "none"]
    """Where a clip is cropped to its aspect."""
    crop_size: int | None
    """VAE stages: random square crops of this side out of the resized clip; null trains on whole frames [px]."""
    flip: float
    """Chance that a clip is mirrored left to right."""
    images_per_clip: int
    """Images trained jointly with each clip."""
    images_from_clips: bool
    """Take the joint images from the clips."""
    group_by_shape: bool
    """Batches hold clips of one bucket only; without it shapes mix in one random order, which needs batch.perDevice 1."""
    held_out_clips: int
    """Clips never trained on, for the held-out loss [clip]."""
    seed: int
    """Seed of the order of clips and of the held-out split."""
    workers: int
    """Decoding processes per rank."""
    decode_timeout_seconds: float
    """Time a clip may take to decode [s]."""
    max_skipped_share: float
    """Share of clips that may fail to decode before the run stops."""
    cache: Literal["off", "latents", "latents-and-text"]
    """What is encoded once, kept on disk and read back instead of encoded in each step."""
    cache_folder: str | None
    """Folder the cache and the index of the clips lie in; null: `.stagewright` beside the clips."""
    cache_variants: int
    """Views kept per clip in a cache: windows of long clips, random crops, mirrorings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """`text` of a stage."""

    encoder: str
    """Text encoder: a local folder, a hub name, or `bytes` for the small one that ships."""
    second_encoder: str | None
    """Second text encoder for pooled states."""
    max_length: int
    """Tokens a caption is cut or padded to [token]."""
    caption_dropout: float
    """Chance of an empty caption."""
    default_caption_share: float
    """Share of dropped captions that become a fixed sentence (inpaint)."""
    clean: bool
    """Captions are cleaned as upstream does (lower case, no links, no markup)."""
    aesthetic_phrases: bool
    """Add a sentence on quality to captions of clips with an aesthetic score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """`objective` of a stage."""

    name: Literal["rectified-flow", "epsilon", "v-prediction", "sample", "reconstruction"]
    """What the network predicts; `reconstruction` for a VAE."""
    betas: Literal["linear", "scaled-linear", "cogvideox"]
    """Noise schedule of the DDPM objectives."""
    zero_terminal_snr: bool
    """Rescale the schedule so that the last step is pure noise."""
    snr_gamma: float | None
    """Min-SNR weighting of the loss; null: none."""
    noise_offset: float
    """Strength of a constant offset per channel added to the noise."""
    learned_variance: bool
    """The model also predicts the variance (v1.0, v1.1)."""
    times: Literal["uniform", "logit-normal", "mode"]
    """Distribution of t in rectified flow."""
    weighting: Literal["none", "sigma-sqrt", "cosmap"]
    """Weight of the loss over t in rectified flow."""
    logit_mean: float
    """Mean of the logit-normal times."""
    logit_std: float
    """Standard deviation of the logit-normal times."""
    mode_scale: float
    """Scale of the mode times."""
    flow_shift: float
    """Shift of the rectified-flow times towards noise."""
    dynamic_shift: bool
    """Shift times by the number of tokens, as v1.5."""
    stratified_times: bool
    """Each data-parallel rank draws times from its own stratum."""
    reconstruction: Literal["l1", "l2"]
    """VAE: distance between clip and reconstruction."""
    kl_weight: float
    """VAE: weight of the KL divergence."""
    perceptual_weight: float
    """VAE: weight of LPIPS; needs `lpipsWeights`."""
    lpips_weights: str | None
    """VAE: local file with the VGG and linear weights of LPIPS."""
    wavelet_weight: float
    """VAE: weight of the wavelet loss."""
    adversarial_weight: float
    """VAE: weight of the discriminator’s term; 0 trains without one."""
    discriminator_start: int
    """VAE: step at which the discriminator joins [step]."""
    discriminator_warmup: int
    """VAE: first steps of the game in which the discriminator trains alone and the autoencoder waits [step]."""
    discriminator_learning_rate: float
    """VAE: learning rate of the discriminator."""
    mask_ratios: Mapping[str, float]
    """Inpaint: how often each kind of mask is drawn."""
    min_clear: float
    """Inpaint: smallest share of known frames in continuation and random masks."""
    max_clear: float
    """Inpaint: largest share of known frames in continuation and random masks."""
    condition_noise: bool
    """Inpaint: add noise to the known frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """`phase` of a stage."""

    at: int | str
    trainable: tuple[str, ...]
    rewarm_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """`lora` of a stage."""

    rank: int | None
    """Rank of low-rank adapters beside the frozen weights; null trains the weights themselves."""
    alpha: float
    """Scale of the adapters, divided by the rank."""
    dropout: float
    """Dropout inside the adapters."""
    targets: tuple[str, ...]
    """Endings of the names of the linear layers that get adapters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """`model` of a stage."""

    class_: Literal["OpenSoraT2V_v1_3", "OpenSoraInpaint_v1_3", "OpenSoraT2V", "OpenSoraInpaint", "LatteT2V", "SparseUMMDiT", "Latte", "DiT", "UDiT"]
    """The diffusion transformer, by upstream’s class name."""
    variant: str | None
    """Upstream’s name for the size and patch, such as `2B/122`; the numbers below decide."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    head_dim: int
    """Channels per attention head."""
    patch: tuple[int, ...]
    """Latent cells per token: time, height, width."""
    text_channels: int
    """Channels of the text states."""
    rope: bool
    """Rotary positions; off: absolute sine-cosine positions."""
    interpolation_scale: tuple[float, ...]
    """Positions are divided by these: time, height, width."""
    sparse: bool
    """Skiparse attention in the sparse blocks."""
    sparse_n: int
    """Sub-sequences of skiparse attention."""
    sparse_blocks: tuple[int, ...] | None
    """Which blocks are sparse; null: upstream’s 2 to 29."""
    stage_layers: tuple[int, ...] | None
    """V1.5: blocks per U-shaped stage."""
    stage_sparse_n: tuple[int, ...] | None
    """V1.5: sub-sequences per U-shaped stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vae:
    """`vae` of a stage."""

    class_: Literal["WFVAEModel", "CausalVAEModel", "image"]
    """The video autoencoder, by upstream’s class name; `image`: an image autoencoder per frame."""
    name: str | None
    """Upstream’s registry name, such as `WFVAEModel_D8_4x8x8`; the numbers below decide."""
    weights: str | None
    """Weights of the autoencoder of a diffusion stage: a folder, a run address, `stage:NAME`."""
    stride: tuple[int, ...]
    """Pixels per latent cell: time, space."""
    latent_channels: int
    """Channels of a latent."""
    base_channels: int
    """Width of the first level."""
    encoder_flow_channels: int
    """Width of the encoder’s wavelet path."""
    decoder_flow_channels: int
    """Width of the decoder’s wavelet path."""
    residual_blocks: int
    """Residual blocks per level."""
    connect_layers: int
    """Residual blocks where the wavelet path joins."""
    attention: bool
    """Attention in the middle of encoder and decoder."""
    norm: Literal["layernorm", "groupnorm"]
    """Normalisation; groupnorm makes chunked results inexact."""
    freeze_encoder: bool
    """VAE stages: train the decoder only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """`parallel` of a stage."""

    nodes: int
    """Machines."""
    processes: int
    """Ranks per machine, one per device."""
    strategy: Literal["ddp", "fsdp2", "hsdp"]
    """What ranks share: nothing (ddp), the weights (fsdp2), the weights within a machine (hsdp)."""
    zero_stage: int | None
    """Upstream only: DeepSpeed’s ZeRO stage."""
    sequence: int
    """Ranks that share one clip (sequence parallelism)."""
    sequence_batch: int
    """Clips a sequence-parallel group takes per pass."""
    tensor: int
    """Upstream v1.5 only: ranks that share one matrix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """`memory` of a stage."""

    precision: Literal["fp32", "bf16", "fp16"]
    """Arithmetic of the trained model."""
    vae_precision: Literal["fp32", "bf16", "fp16"]
    """Arithmetic of the autoencoder in diffusion stages."""
    tf32: bool
    """TF32 matrix products on GPUs that have them."""
    checkpointing: Literal["none", "selective", "all"]
    """Activations computed again in the backward pass."""
    vae_tiling: bool
    """Encode and decode clips in chunks of time."""
    offload: bool
    """Keep optimiser state and EMA in host memory."""
    compile: Literal["none", "blocks", "full"]
    """What torch.compile fuses."""
    device: Literal["auto", "cpu", "cuda"]
    """Where the trainer computes; auto: the GPU where there is one."""
    threads: int | None
    """CPU threads per rank; null: the cores divided by the ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compat:
    """`compat` of a stage."""

    haar_constant: Literal["exact", "upstream"]
    """Constant of the 3-D Haar transform: 1/(2√2), or upstream’s 0.3536, which its published weights were trained with."""
    rope_precision: Literal["fp32", "model"]
    """Precision of rotary angles; `model` rounds them as upstream’s bf16 training did."""
    noise_precision: Literal["fp32", "model"]
    """Precision of the noise schedule; `model` rounds it as upstream’s bf16 training did."""
    min_snr: Literal["mended", "upstream"]
    """Min-SNR weights: with a floor, or upstream’s, which vanish at the last step."""
    times: Literal["mended", "upstream"]
    """Strata of times over data-parallel ranks, or over all ranks as upstream."""
    captions: Literal["mended", "upstream"]
    """Caption lists are cleaned one by one, or as their printed form as upstream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """`incidents.watch` of a stage."""

    warmup_steps: int
    """Steps at the start and after a phase change that rules learn from before they judge spikes [step]."""
    quiet_steps: int
    """Steps after a changed learning rate, a continue or a roll-back in which only a lasting spike counts [step]."""
    loss_spike: float | None
    """Deviations above its usual at which the loss, normalised by time bin, is a spike; half of it where it lasts."""
    gradient_spike: float | None
    """Deviations above its usual at which the gradient norm is a spike; half of it where it lasts."""
    spike_ratio: float
    """Least factor above its usual for a spike, however small the deviations are."""
    block_steps: int
    """Steps whose mean is one level: of the loss, of step time, of memory [step]."""
    divergence: float | None
    """Factor above its lowest level at which the loss diverges, over two blocks and beyond its noise."""
    plateau: int | None
    """Held-out measurements without a gain of half a percent that make a plateau."""
    dead_gradient: float | None
    """Share of its usual under which the gradient norm is dead, over five steps."""
    discriminator_steps: int | None
    """Discriminator steps over which it must neither always win nor see no difference [step]."""
    slow_steps: float | None
    """Factor above its usual at which step time is slow, over two blocks."""
    memory_growth: float | None
    """Share by which memory may grow without a pause over five blocks or more."""
    stuck_seconds: float | None
    """Longest time without any progress of a rank before the stacks of all ranks are dumped [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Incidents:
    """`incidents` of a stage."""

    policy: Literal["stop", "skip", "rollback"]
    """What a non-finite loss or gradient leads to."""
    on_spike: Literal["note", "clip", "skip", "rollback", "stop"]
    """What a spike or a divergence leads to; `clip` cuts the gradient of a spike to its usual norm; a divergence cannot be skipped or clipped."""
    max_retries: int
    """Skips, clips and roll-backs before the run stops."""
    forget_steps: int | None
    """Steps without an incident after which retries count from 0 again; null never forgets [step]."""
    learning_rate_cut: float
    """Factor on the learning rate after a roll-back."""
    watch: Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """`checkpoint` of a stage."""

    every_steps: int
    """Steps between checkpoints [step]."""
    every_minutes: float | None
    """Minutes between checkpoints, besides the steps [min]."""
    keep_last: int | None
    """Newest checkpoints that are kept; null keeps all."""
    keep_best: int
    """Checkpoints with the lowest held-out loss that are kept."""
    keep_every_steps: int | None
    """Checkpoints whose step is a multiple of this are kept for good [step]."""
    keep_ends: bool
    """A checkpoint is written where a phase ends and kept for good, as that of the end of the stage is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """`heldOut` of a stage."""

    every_steps: int | None
    """Steps between measurements of the held-out loss; null: at the start and the end only [step]."""
    draws: int
    """Fixed noises and times per held-out clip."""
    patience: int | None
    """Measurements without improvement after which the stage ends; null: never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """`samples` of a stage."""

    every_steps: int | None
    """Steps between sample videos; null: at the end only, where there are prompts [step]."""
    prompts: tuple[str, ...]
    """Captions that are sampled."""
    steps: int
    """Sampler steps."""
    guidance_scale: float
    """Strength of classifier-free guidance."""
    sampler: Literal["auto", "ddim", "euler-ancestral", "flow-euler"]
    """Sampler; auto: ddim or flow-euler by the objective."""
    guidance_rescale: float | None
    """Share of the guided prediction that is scaled back to the spread of the prompted one; null: as upstream, 0.7 for v1.5, else 0."""
    flow_shift: float | None
    """Rectified flow: above 1 spends more sampler steps near noise; null: as upstream, 7 for v1.5, else 1."""
    weights: Literal["ema", "raw", "both"]
    """Weights that are sampled: the moving average where one is kept, the raw ones, or each in turn."""
    task: Literal["auto", "t2v", "i2v", "transition", "continuation"]
    """Inpaint: what the samples know: nothing, the first frame, first and last, or the first quarter; auto: the mask trained most."""
    from_: tuple[str, ...]
    """Inpaint: image or clip each prompt goes on from, `FIRST,LAST` for two images of a transition; empty: held-out clips."""
    fps: float
    """Frame rate of the written files [frame/s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One phase of training, as TypeScript resolved it. No field has a default: defaults live in src/domain/stage/schema.ts."""

    name: str
    """Name of the stage within its recipe."""
    kind: Literal["vae", "text-to-video", "inpaint", "class-to-video", "lora"]
    """What is trained."""
    notes: str
    """Remarks."""
    init: Init
    learning_rate: float
    """Highest learning rate of the stage."""
    layer_decay: float
    """Factor on the learning rate per block downwards from the last."""
    learning_rate_ratios: Mapping[str, float]
    """Factors on the learning rate by group of parameters."""
    scale_learning_rate: bool
    """Upstream only: multiply the learning rate by the global batch."""
    steps: int
    """Optimizer steps of the stage [step]."""
    epochs: int | None
    """Passes over the data after which the stage ends; null: only the steps count."""
    optimizer: Optimizer
    schedule: Schedule
    clip: Clip
    ema: Ema
    batch: Batch
    shape: Shape
    data: Data
    text: Text
    objective: Objective
    trainable: tuple[str, ...]
    """What is trained: `all`, parts (`blocks[4:8]`, `attention.self`, `embeddings`, `norms`, `vae.encoder`, `lora`), name patterns; `-` before one takes it away; with `lora.rank` the adapters alone are chosen from."""
    phases: tuple[Phase, ...]
    """Changes of `trainable` at a step, a share of the stage, or when the held-out loss has levelled off."""
    lora: Lora
    model: Model
    vae: Vae
    parallel: Parallel
    memory: Memory
    compat: Compat
    seed: int | None
    """Seed of weights, noise, times and caption dropout."""
    incidents: Incidents
    checkpoint: Checkpoint
    held_out: HeldOut
    samples: Samples
    log_every: int
    """Steps between lines of the journal [step]."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...]
    """Trackers that are written beside the journal."""
    output: str | None
    """Upstream only: its output folder; runs lie in the runs folder."""
    upstream: Mapping[str, str | float | bool | None | tuple[str | float | bool, ...]]
    """Settings of upstream’s trainer that have no field here, kept for the diff and for export."""


LIVE_PATHS = frozenset(
    {
        "learningRate",
        "learningRateRatios",
        "steps",
        "optimizer.weightDecay",
        "clip.mode",
        "clip.norm",
        "ema.decay",
        "objective.klWeight",
        "objective.perceptualWeight",
        "objective.waveletWeight",
        "objective.adversarialWeight",
        "objective.discriminatorLearningRate",
        "incidents.policy",
        "incidents.onSpike",
        "incidents.maxRetries",
        "incidents.forgetSteps",
        "incidents.learningRateCut",
        "incidents.watch.warmupSteps",
        "incidents.watch.quietSteps",
        "incidents.watch.lossSpike",
        "incidents.watch.gradientSpike",
        "incidents.watch.spikeRatio",
        "incidents.watch.blockSteps",
        "incidents.watch.divergence",
        "incidents.watch.plateau",
        "incidents.watch.deadGradient",
        "incidents.watch.discriminatorSteps",
        "incidents.watch.slowSteps",
        "incidents.watch.memoryGrowth",
        "incidents.watch.stuckSeconds",
        "checkpoint.everySteps",
        "checkpoint.everyMinutes",
        "checkpoint.keepLast",
        "checkpoint.keepBest",
        "checkpoint.keepEverySteps",
        "checkpoint.keepEnds",
        "heldOut.everySteps",
        "heldOut.patience",
        "samples.everySteps",
        "samples.steps",
        "samples.guidanceScale",
        "samples.sampler",
        "samples.guidanceRescale",
        "samples.flowShift",
        "samples.weights",
        "samples.task",
        "logEvery",
    }
)
"""Fields that may change while a run trains."""
ADDED: dict[str, Any] = {
    "checkpoint.keepEverySteps": None,
    "checkpoint.keepEnds": False,
}
"""Fields newer than the first runs, and the value that does what was done before them."""


def decode_stage(value: Any) -> Stage:
    """A stage from its JSON.

    Raises UserError STAGE_INVALID for a missing, an unknown or a wrongly typed key, by its path.
    """
    return _decode(Stage, value, "stage")


def _decode(wanted: Any, value: Any, path: str) -> Any:
    if is_dataclass(wanted):
        return _decode_object(wanted, value, path)
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _decode_union(wanted, value, path)
    if origin is Literal:
        return value if value in get_args(wanted) else _refuse(path, f"one of {', '.join(map(str, get_args(wanted)))}", value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _refuse(path, "a list", value)
        return tuple(_decode(get_args(wanted)[0], entry, f"{path}[{place}]") for place, entry in enumerate(value))
    if origin is Mapping or wanted is Mapping:
        if not isinstance(value, Mapping):
            _refuse(path, "an object", value)
        return {key: _decode(get_args(wanted)[1], entry, f"{path}.{key}") for key, entry in value.items()}
    return _decode_scalar(wanted, value, path)


def _decode_object(wanted: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(path, "an object", value)
    hints = get_type_hints(wanted)
    keys = {camel(entry.name.removesuffix("_")): entry.name for entry in fields(wanted)}
    missing, unknown = [key for key in keys if key not in value], [key for key in value if key not in keys]
    if missing or unknown:
        found = "; ".join(f"{word} {', '.join(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names)
        raise UserError("STAGE_INVALID", f"{path}: expected every key of {wanted.__name__} and no other, got {found}", "both halves of Stagewright must be of one version")
    return wanted(**{name: _decode(hints[name], value[key], f"{path}.{key}") for key, name in keys.items()})


def _decode_union(wanted: Any, value: Any, path: str) -> Any:
    for option in get_args(wanted):
        try:
            return _decode(option, value, path)
        except UserError:
            continue
    return _refuse(path, " or ".join(getattr(option, "__name__", str(option)) for option in get_args(wanted)), value)


def _decode_scalar(wanted: Any, value: Any, path: str) -> Any:
    if wanted is type(None):
        return None if value is None else _refuse(path, "null", value)
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    return _refuse(path, wanted.__name__, value)


def _refuse(path: str, expected: str, got: Any) -> Any:
    raise UserError("STAGE_INVALID", f"{path}: expected {expected}, got {got!r}", "correct the stage and resolve it again")
