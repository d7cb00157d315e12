"""The transformer, the autoencoder and its wavelets against references that do what upstream does.

Sizes: OpenSora v1.3 with 8 layers of 8 × 96 channels (81 M) on latents 1×8×9×32×40 (2880 tokens) with 128 tokens of text; WF-VAE with
8 latent channels at width 64 (37 M) on 17 frames of 128×128; wavelets of 33 frames of 256×256.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.group import Bench, Benchmark, Goal, Group, Measured, Skipped
from bench.reference import haar as reference_haar
from bench.reference.opensora import ReferenceOpenSora
from bench.reference.wfvae import ReferenceWfvae
from bench.worker import Contestant, Round, Task, contest, cpu_note, in_turns, walls
from osplan.models.haar import haar_3d, inverse_haar_3d
from osplan.models.opensora import OpenSora
from osplan.models.opensora_config import OpenSoraConfig
from osplan.models.wfvae import WFVAE
from osplan.models.wfvae_config import WfvaeConfig

LATENTS = (1, 8, 9, 32, 40)
TOKENS = 9 * 16 * 20
TEXT = (1, 1, 128, 4096)
CLIP = (1, 3, 17, 128, 128)
WAVELETS = (1, 3, 33, 256, 256)
FIRST_SPARSE = 2

OPENSORA: dict[str, Any] = {
    "_class_name": "OpenSoraT2V_v1_3",
    "num_attention_heads": 8,
    "attention_head_dim": 96,
    "in_channels": 8,
    "num_layers": 8,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "caption_channels": 4096,
    "sparse_n": 4,
}
WFVAE_8: dict[str, Any] = {
    "latent_dim": 8,
    "base_channels": 64,
    "encoder_energy_flow_hidden_size": 64,
    "decoder_energy_flow_hidden_size": 64,
    "connect_res_layer_num": 2,
    "norm_type": "layernorm",
    "t_interpolation": "trilinear",
}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16-autocast": torch.float32}
SIDES: dict[str, dict[str, Any]] = {
    "opensora": {"ours": OpenSora, "reference": ReferenceOpenSora},
    "wfvae": {"ours": WFVAE, "reference": ReferenceWfvae},
}


def transformer_tasks(side: str, precision: str, sparse: bool, device: str) -> dict[str, Task]:
    """`forward` without gradients, and `step`: forward and backward, gradients dropped. Precision: fp32, bf16 or bf16-autocast."""
    torch.manual_seed(0)
    config = OpenSoraConfig.from_json({**OPENSORA, "sparse1d": sparse})
    model: nn.Module = SIDES["opensora"][side](config).to(device, DTYPES[precision])
    inputs = torch.randn(LATENTS, device=device), torch.tensor([500], device=device), torch.randn(TEXT, device=device)
    context = partial(torch.autocast, device, torch.bfloat16) if precision == "bf16-autocast" else nullcontext

    def output() -> Tensor:
        with context():
            return model(*inputs)

    return _tasks(model, output)


def autoencoder_tasks(side: str, precision: str, device: str) -> dict[str, Task]:
    """`forward` and `step` of a whole pass: encode, decode the mean."""
    torch.manual_seed(0)
    model: nn.Module = SIDES["wfvae"][side](WfvaeConfig.from_json(WFVAE_8)).to(device, DTYPES[precision])
    clip = (torch.rand(CLIP, device=device) * 2 - 1).to(DTYPES[precision])
    return _tasks(model, lambda: model.decode(model.encode(clip).mean))  # type: ignore[operator]


def _tasks(model: nn.Module, output: Callable[[], Tensor]) -> dict[str, Task]:
    def step() -> None:
        output().square().mean().backward()
        model.zero_grad(set_to_none=True)

    return {"forward": torch.no_grad()(output), "step": step}


def wavelet_tasks(side: str, device: str) -> dict[str, Task]:
    """`haar` transforms a clip, `haar-back` its bands."""
    clip = torch.rand(WAVELETS, device=device)
    there, back = (haar_3d, inverse_haar_3d) if side == "ours" else (reference_haar.haar_3d, reference_haar.inverse_haar_3d)
    return {"haar": partial(there, clip), "haar-back": partial(back, there(clip))}


def floor_tasks(dtype: torch.dtype) -> dict[str, Task]:
    """`forward`: nothing but the matrix products of the sparse transformer, as if everything else were free.

    A step has three times as many.
    """
    heads, per_head, width, text_tokens = OPENSORA["num_attention_heads"], OPENSORA["attention_head_dim"], 768, TEXT[2]
    shapes = (TOKENS, width), (TOKENS, 4 * width), (text_tokens, width), (width, width), (4 * width, width), (width, 4 * width)
    x, hidden, text, square, widen, narrow = (torch.randn(shape).to(dtype) for shape in shapes)
    q, k_text = (torch.randn(heads, tokens, per_head).to(dtype) for tokens in (TOKENS, text_tokens))

    def block(skips: int) -> None:
        for _ in range(6):
            functional.linear(x, square)
        for _ in range(2):
            functional.linear(text, square)
        parts = q.view(skips * heads, TOKENS // skips, per_head)
        torch.bmm(torch.bmm(parts, parts.transpose(1, 2)), parts)
        torch.bmm(torch.bmm(q, k_text.transpose(1, 2)), k_text)
        functional.linear(x, widen)
        functional.linear(hidden, narrow)

    def forward() -> None:
        for index in range(OPENSORA["num_layers"]):
            block(1 if index < FIRST_SPARSE else OPENSORA["sparse_n"])

    return {"forward": forward}


def measure(bench: Bench) -> Iterator[Measured | Skipped]:
    """Transformer, autoencoder and wavelets on the processor, then in bf16 on a GPU where there is one."""
    yield from _sparse_transformer(bench)
    yield from _dense_transformer(bench)
    yield from _autoencoder(bench)
    yield from _wavelets(bench)
    yield from _on_a_gpu(bench)


def _sparse_transformer(bench: Bench) -> Iterator[Measured]:
    sides = {
        "ours": Contestant(transformer_tasks, "ours", "fp32", True, "cpu"),
        "reference": Contestant(transformer_tasks, "reference", "fp32", True, "cpu"),
        "bf16": Contestant(transformer_tasks, "ours", "bf16-autocast", True, "cpu"),
        "reference bf16": Contestant(transformer_tasks, "reference", "bf16-autocast", True, "cpu"),
        "floor": Contestant(floor_tasks, torch.float32),
        "bf16 floor": Contestant(floor_tasks, torch.bfloat16),
    }
    with contest(**sides):
        yield from _memory({"transformer-memory": ("ours", "reference"), "transformer-bf16-memory": ("bf16", "reference bf16")}, sides)
        timed = {name: sides[name] for name in ("ours", "reference", "bf16")}
        forward = in_turns(bench.rounds(4), {**timed, **{name: sides[name] for name in ("floor", "bf16 floor")}}, "forward")
        step = in_turns(bench.rounds(4), timed, "step", warm=False)
    yield from _fp32_and_bf16("forward", forward)
    yield from _fp32_and_bf16("step", step)
    for name, side in (("transformer-floor", "floor"), ("transformer-bf16-floor", "bf16 floor")):
        ours = step["ours"] if side == "floor" else step["bf16"]
        series = {"ours": [each.wall for each in ours], "reference": [3 * each.wall for each in forward[side]]}
        yield Measured(name=name, series=series, note="seconds")
    products = {"ours": forward["bf16 floor"], "reference": forward["floor"]}
    yield Measured(name="bf16-products", series=walls(products), note=f"seconds; {cpu_note(products)}")


def _fp32_and_bf16(task: str, series: dict[str, list[Round]]) -> Iterator[Measured]:
    for name, side in (("transformer", "ours"), ("transformer-bf16", "bf16")):
        pair = {"ours": series[side], "reference": series["reference"]}
        yield Measured(name=f"{name}-{task}", series=walls(pair), note=f"seconds; {cpu_note(pair)}")


def _memory(names: dict[str, tuple[str, str]], sides: dict[str, Contestant]) -> Iterator[Measured]:
    """The first step of each side is the one whose memory counts."""
    for name, (ours, reference) in names.items():
        series = {"ours": [sides[ours].peak_mib("step")], "reference": [sides[reference].peak_mib("step")]}
        yield Measured(name=name, series=series, note="MiB above the model and its inputs")


def _timed(name: str, series: dict[str, list[Round]]) -> Measured:
    return Measured(name=name, series=walls(series), note=f"seconds; {cpu_note(series)}")


def _dense_transformer(bench: Bench) -> Iterator[Measured]:
    sides = {side: Contestant(transformer_tasks, side, "fp32", False, "cpu") for side in ("ours", "reference")}
    with contest(**sides):
        yield from _memory({"transformer-dense-memory": ("ours", "reference")}, sides)
        yield _timed("transformer-dense-step", in_turns(bench.rounds(3), sides, "step", warm=False))


def _autoencoder(bench: Bench) -> Iterator[Measured]:
    sides = {side: Contestant(autoencoder_tasks, side, "fp32", "cpu") for side in ("ours", "reference")}
    with contest(**sides):
        yield from _memory({"vae-memory": ("ours", "reference")}, sides)
        yield _timed("vae-forward", in_turns(bench.rounds(5), sides, "forward"))
        yield _timed("vae-step", in_turns(bench.rounds(5), sides, "step", warm=False))


def _wavelets(bench: Bench) -> Iterator[Measured]:
    sides = {side: Contestant(wavelet_tasks, side, "cpu") for side in ("ours", "reference")}
    with contest(**sides):
        for task in ("haar", "haar-back"):
            yield Measured(name=f"{task}-memory", series={side: [each.peak_mib(task)] for side, each in sides.items()}, note="MiB")
            yield _timed(task, in_turns(bench.rounds(15), sides, task))


def _on_a_gpu(bench: Bench) -> Iterator[Measured | Skipped]:
    names = ("gpu-transformer-step", "gpu-transformer-memory", "gpu-vae-step", "gpu-vae-memory")
    if not torch.cuda.is_available():
        yield from (Skipped(name, "no GPU here") for name in names)
        return
    for name, make, options in (
        ("gpu-transformer", transformer_tasks, ("bf16", True, "cuda")),
        ("gpu-vae", autoencoder_tasks, ("bf16", "cuda")),
    ):
        sides = {side: Contestant(make, side, *options) for side in ("ours", "reference")}
        with contest(**sides):
            yield from _memory({f"{name}-memory": ("ours", "reference")}, sides)
            yield _timed(f"{name}-step", in_turns(bench.rounds(20), sides, "step"))


SPARSE = "OpenSora v1.3, 8 sparse layers, 2880 tokens"
LOWER = Goal("most", 1.0)

GROUP = Group(
    [
        Benchmark(name="transformer-memory", what=f"{SPARSE}: peak memory of a step in fp32", goal=LOWER),
        Benchmark(name="transformer-bf16-memory", what=f"{SPARSE}: peak memory of a step, both sides in bf16 autocast", goal=LOWER),
        Benchmark(name="transformer-forward", what=f"{SPARSE}: forward in fp32", goal=Goal("most", 1.05)),
        Benchmark(name="transformer-bf16-forward", what=f"{SPARSE}: forward in bf16 autocast against fp32", goal=Goal("most", 0.4)),
        Benchmark(name="transformer-step", what=f"{SPARSE}: forward and backward in fp32", goal=Goal("most", 1.05)),
        Benchmark(
            name="transformer-bf16-step", what=f"{SPARSE}: forward and backward in bf16 autocast against fp32", goal=Goal("most", 0.4)
        ),
        Benchmark(name="transformer-floor", what=f"{SPARSE}: our fp32 step against its matrix products alone, at the same shapes"),
        Benchmark(name="transformer-bf16-floor", what=f"{SPARSE}: our bf16 step against its matrix products alone, in bf16"),
        Benchmark(name="bf16-products", what="these matrix products in bf16 against fp32: what bf16 can give on this processor"),
        Benchmark(name="transformer-dense-memory", what="the same without sparse blocks: peak memory of a step in fp32", goal=LOWER),
        Benchmark(
            name="transformer-dense-step", what="the same without sparse blocks: forward and backward in fp32", goal=Goal("most", 1.05)
        ),
        Benchmark(name="vae-memory", what="WF-VAE, 17 frames of 128×128: peak memory of a step in fp32", goal=LOWER),
        Benchmark(name="vae-forward", what="WF-VAE: encode and decode in fp32"),
        Benchmark(name="vae-step", what="WF-VAE: forward and backward in fp32", goal=Goal("most", 0.7)),
        Benchmark(name="haar-memory", what="3-D Haar transform of 33 frames of 256×256: peak memory", goal=LOWER),
        Benchmark(name="haar", what="3-D Haar transform against eight convolutions", goal=Goal("most", 0.2)),
        Benchmark(name="haar-back-memory", what="its inverse: peak memory", goal=LOWER),
        Benchmark(name="haar-back", what="its inverse against eight transposed convolutions", goal=Goal("most", 0.2)),
        Benchmark(name="gpu-transformer-memory", what=f"{SPARSE}, on the GPU in bf16: peak memory of a step", goal=LOWER),
        Benchmark(name="gpu-transformer-step", what=f"{SPARSE}, on the GPU in bf16: forward and backward", goal=Goal("most", 0.6)),
        Benchmark(name="gpu-vae-memory", what="WF-VAE, on the GPU in bf16: peak memory of a step", goal=LOWER),
        Benchmark(name="gpu-vae-step", what="WF-VAE, on the GPU in bf16: forward and backward", goal=Goal("most", 0.7)),
    ],
    measure,
)
