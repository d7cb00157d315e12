"""A step of training gone through without numbers: what is alive at its worst moment, and how much there is to compute.

Modules are built and run on fake tensors, which have shapes and types and no memory. Peaks count what autograd keeps and what an
operation holds for a moment; what the allocator loses on top is not in them.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from osplan.domain.global_batch import shards
from osplan.domain.stage import Lora, Stage
from osplan.models.discriminator import PatchDiscriminator3D
from osplan.models.haar import haar_matrix
from osplan.models.registry import build_model
from osplan.parallel.sharding import freeze_but
from osplan.train.adapters import targets_of
from osplan.train.architecture import config_beside as config_of
from osplan.train.architecture import pooled_channels, transformer_config, vae_config
from osplan.train.autoencoder import encoded, latent_channels, latent_size
from osplan.train.parameters import phases_of, select, selectable
from osplan.train.precision import autocast, autocast_to
from osplan.train.vae_task import parts_of

OPTIMIZER_BYTES = {"adamw": 8, "adamw-8bit": 2, "prodigy": 16, "sgd": 4}
"""State of an optimiser per trained parameter."""
CPU = torch.device("cpu")
ATTENTION_BACKWARD = 2.5
"""Operations of the backward pass of attention that keeps no matrix, over those of the forward pass."""


@dataclass(frozen=True)
class Shape:
    """Clips of one micro-batch in pixels."""

    clips: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Work:
    """What there is to do."""

    flops: float
    written: float
    """Bytes that operations write."""
    operations: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.written + other.written, self.operations + other.operations)

    def times(self, factor: float) -> "Work":
        """The same so many times."""
        return Work(self.flops * factor, self.written * factor, round(self.operations * factor))


@dataclass(frozen=True)
class TracedStep:
    """Bytes by part, and the work of one micro-batch and of one update."""

    parts: dict[str, int]
    """weights, gradients, optimizer, ema, autoencoder, discriminator: there all the time; activations: the most alive beside them."""
    encode: Work
    """The frozen autoencoder's, where nothing is read from a cache."""
    forward: Work
    backward: Work
    update: Work
    is_adapted: bool = False
    """Whether adapters are trained beside a frozen base."""

    @property
    def bytes(self) -> int:
        """At the worst moment of a step."""
        return sum(self.parts.values())

    @property
    def checkpoint_bytes(self) -> int:
        """Host memory beside it while a checkpoint is written: copies of weights, averages and the optimiser's state.

        Adapters are merged into copies of the base, once for the weights and once for their average, and those are copied to be written.
        """
        merged = 2 * self.parts["weights"] * (2 if self.parts["ema"] else 1) if self.is_adapted else self.parts["weights"]
        copied = merged + self.parts["ema"] + self.parts.get("discriminator", 0)
        return copied + self.parts["optimizer"]


class Observed(TorchDispatchMode):
    """Bytes alive beside the networks, and work done by the operations within."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.live = self.peak = self.operations = 0
        self.written = self.flops = 0.0
        # A network's tensors are no news when an operation returns a view of one.
        self._known = {tensor.untyped_storage()._cdata: 0 for network in networks for tensor in network.state_dict().values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.flops += counted(*args, **(kwargs or {}), out_val=out)
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = size
        self.live += size
        self.written += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


class _Attention:
    """Within, attention goes by the kernel that keeps no matrix, as it does outside of fakes, where shapes alone choose another."""

    def __init__(self) -> None:
        self.flops = 0.0
        self._replaced = functional.scaled_dot_product_attention

    def __enter__(self) -> None:
        functional.scaled_dot_product_attention = self._attended

    def __exit__(self, *_: object) -> None:
        functional.scaled_dot_product_attention = self._replaced

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        self.flops += 4 * q.numel() * k.shape[-2]
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]


class _Meter:
    """Work between two readings."""

    def __init__(self, *networks: nn.Module) -> None:
        self.observed, self.attention = Observed(*networks), _Attention()
        self._at = self._now()

    def _now(self) -> tuple[float, float, int, float]:
        return self.observed.flops, self.observed.written, self.observed.operations, self.attention.flops

    def read(self) -> Work:
        """Work since the last reading."""
        now = self._now()
        flops, written, operations, attention = (new - old for new, old in zip(now, self._at, strict=True))
        self._at = now
        return Work(flops + attention, written, int(operations))


def traced_step(stage: Stage, shape: Shape, weights: str | None = None) -> TracedStep:
    """Goes through one micro-batch of a stage and its update. `weights` are those an autoencoder starts from."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(), _real_matrices():
        return _traced_vae(stage, shape, weights) if stage.kind == "vae" else _traced_transformer(stage, shape)


@contextmanager
def _real_matrices() -> Iterator[None]:
    """Before and after, no matrix is remembered: a fake one must not meet what has numbers, nor the other way round."""
    haar_matrix.cache_clear()
    try:
        yield
    finally:
        haar_matrix.cache_clear()


def _traced_transformer(stage: Stage, shape: Shape) -> TracedStep:
    vae: Any = build_model(vae_config(stage)).requires_grad_(False)
    model = _prepared(stage, build_model(transformer_config(stage)))
    meter, is_inpainting = _Meter(model, vae), stage.kind == "inpaint"
    size = latent_size(vae, torch.empty(shape.clips, 3, shape.frames, shape.height, shape.width))
    pictures = stage.data.images_per_clip
    with meter.observed, meter.attention:
        encode = _encoding(stage, vae, shape, meter)
        if pictures:
            encode += _encoding(stage, vae, replace(shape, clips=shape.clips * pictures, frames=1), meter)
        resting = meter.observed.peak
        channels = size[1] + (latent_channels(vae) + stage.vae.stride[0] if is_inpainting else 0)
        x_BCTHW = torch.empty(size[0], channels, size[2] + pictures, *size[3:])
        text_B1LD = torch.empty(shape.clips, 1 + pictures, stage.text.max_length, stage.model.text_channels)
        pooled = {"pooled_B1C": torch.empty(shape.clips, 1, pooled_channels(stage))} if stage.model.class_ == "SparseUMMDiT" else {}

        more = pooled | ({"images": pictures} if pictures else {})
        mask_B1L = torch.ones(shape.clips, 1 + pictures, stage.text.max_length)

        def loss() -> Tensor:
            with autocast(stage, CPU):
                out = model(x_BCTHW, torch.zeros(shape.clips), text_B1LD, None, mask_B1L, **more)
            return (out.float() - torch.empty_like(out, dtype=torch.float32)).square().mean()

        forward, backward, alive = _there_and_back(loss, meter)
    parts = _parts(stage, model, vae, max(resting, alive))
    # An inpainting stage encodes the known frames of each clip besides the clip.
    again = encode if is_inpainting else Work(0, 0, 0)
    return TracedStep(
        parts,
        again + (encode if stage.data.cache == "off" else Work(0, 0, 0)),
        forward,
        backward,
        _update(stage, model),
        stage.lora.rank is not None,
    )


def _traced_vae(stage: Stage, shape: Shape, weights: str | None) -> TracedStep:
    model: Any = _prepared(stage, build_model(config_of(weights) or vae_config(stage)))
    game = PatchDiscriminator3D().requires_grad_(False) if stage.objective.adversarial_weight > 0 else None
    meter = _Meter(model) if game is None else _Meter(model, game)
    with meter.observed, meter.attention:
        video_BCTHW = torch.empty(shape.clips, 3, shape.frames, shape.height, shape.width)

        def loss() -> Tensor:
            with autocast(stage, CPU):
                recon, posterior, wavelets = parts_of(model(video_BCTHW, torch.empty(latent_size(model, video_BCTHW))))
            total = (recon.float() - video_BCTHW).abs().sum() + posterior.kl().sum()
            for encoder, decoder in wavelets if stage.objective.wavelet_weight > 0 else []:
                total = total + (encoder - decoder).abs().sum()
            return total if game is None else total - game(recon.float()).mean()

        forward, backward, alive = _there_and_back(loss, meter)
    parts = _parts(stage, model, None, alive)
    if game is not None:
        # With its gradients and the two moments of its optimiser.
        parts["discriminator"] = 4 * sum(parameter.nbytes for parameter in game.parameters())
    return TracedStep(parts, Work(0, 0, 0), forward, backward, _update(stage, model))


def _encoding(stage: Stage, vae: Any, shape: Shape, meter: _Meter) -> Work:
    """A clip through the frozen autoencoder."""
    video = torch.empty(shape.clips, 3, shape.frames, shape.height, shape.width)
    with torch.no_grad(), autocast_to(stage.memory.vae_precision, CPU):
        encoded(vae, video, in_chunks=stage.memory.vae_tiling)
    return meter.read()


def _there_and_back(loss: Callable[[], Tensor], meter: _Meter) -> tuple[Work, Work, int]:
    """A forward and a backward pass; the most that is alive, gradients included."""
    observed = meter.observed
    observed.peak = observed.live
    attention = meter.attention.flops
    value = loss()
    attention = meter.attention.flops - attention
    forward = meter.read()
    value.backward()
    return forward, meter.read() + Work(ATTENTION_BACKWARD * attention, 0, 0), observed.peak


def _prepared(stage: Stage, model: nn.Module) -> nn.Module:
    """The network with what its largest phase trains."""
    if stage.lora.rank is not None:
        _adapt(model, stage.lora)
    if hasattr(model, "recompute"):
        model.recompute = stage.memory.checkpointing  # type: ignore[assignment]
    names = [name for name, _ in model.named_parameters()]
    phases = phases_of(stage.trainable, [(entry.at, entry.trainable, entry.rewarm_steps) for entry in stage.phases], stage.steps)
    chosen = max((select(selectable(names), phase.selectors) for phase in phases), key=len)
    if stage.kind == "vae" and stage.vae.freeze_encoder:
        chosen = [name for name in chosen if not name.startswith(("encoder.", "quant_conv."))]
    freeze_but(model, chosen)
    return model.train()


class _Adapted(nn.Module):
    """A linear layer with an adapter, as peft's is: peft's own cannot be made of fake tensors."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x)) * 1.0


def _adapt(model: nn.Module, settings: Lora) -> None:
    for name, layer in targets_of(model, settings).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, _Adapted(layer, settings.rank or 1))


def _parts(stage: Stage, model: nn.Module, vae: nn.Module | None, alive: int) -> dict[str, int]:
    """Bytes by part. Gradients are alive at the end of a backward pass, and from the first on where passes accumulate."""
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    names = [name for name, _ in model.named_parameters()]
    averaged = sum(model.get_parameter(name).nbytes for name in selectable(names))
    beside = alive if stage.batch.accumulate > 1 else max(0, alive - trained)
    ranks = shards(stage)
    # The optimiser holds a copy of what it divides by for a moment.
    parts = {
        "weights": sum(parameter.nbytes for parameter in model.parameters()) // ranks,
        "gradients": trained // ranks,
        "optimizer": trained // 4 * OPTIMIZER_BYTES.get(stage.optimizer.name, 8) // ranks,
        "ema": averaged // ranks if stage.ema.enabled else 0,
        "autoencoder": 0 if vae is None else sum(parameter.nbytes for parameter in vae.parameters()),
        "activations": max(beside, trained // ranks),
    }
    if ranks > 1:
        # While one block computes the next is on its way, and the gradient of the one before is being shared out.
        blocks = [sum(parameter.nbytes for parameter in block.parameters()) for block in model.blocks]  # type: ignore[union-attr]
        parts["gathered"] = 3 * max(blocks, default=0)
    return parts


def _update(stage: Stage, model: nn.Module) -> Work:
    """The optimiser and the average: some ten passes over what is trained, one over what is averaged."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.nbytes for parameter in trained)
    averaged = size if stage.ema.enabled else 0
    return Work(0.0, 6.0 * size + averaged, 16 * len(trained))
