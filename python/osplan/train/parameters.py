"""Which parameters train, named the way a recipe names them, and the learning rate each group gets.

A selector is `all`, a part (`embeddings`, `norms`, `biases`, `attention.self`, `attention.cross`, `feedforward`, `head`,
`vae.encoder`, `vae.decoder`, `lora`), blocks by depth (`blocks[0:4]`, `blocks[-1]`), or a glob over parameter names. A leading `-`
takes away what it names; selectors apply in order. Where a stage has adapters, they alone are chosen from.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from osplan.domain.errors import UserError

BLOCK = re.compile(r"(?:^|\.)(?:temporal_)?transformer_blocks\.(\d+)(?:\.(\d+)(?=\.))?\.")
PARTS: dict[str, re.Pattern[str]] = {
    "embeddings": re.compile(r"^(pos_embed|patch_embed|caption_projection|adaln_single|time_text_embed|pos_embed_mask)"),
    "norms": re.compile(r"norm|scale_shift_table"),
    "biases": re.compile(r"\.bias$"),
    "attention.self": re.compile(r"\.attn1\."),
    "attention.cross": re.compile(r"\.attn2\.|\.add_[qkv]_proj|\.to_add_out"),
    "feedforward": re.compile(r"\.ff(_enc)?\."),
    "head": re.compile(r"^(proj_out|scale_shift_table|norm_out|norm_final)"),
    "lora": re.compile(r"\.lora_[AB]\."),
    "vae.encoder": re.compile(r"^(encoder|quant_conv)\b"),
    "vae.decoder": re.compile(r"^(decoder|post_quant_conv)\b"),
}
DEPTH = re.compile(r"^blocks\[(-?\d*)(:)?(-?\d*)\]$")


def block_depths(names: Iterable[str]) -> dict[str, int]:
    """Depth of each parameter that lies in a transformer block, counted from 0 in the order of the forward pass."""
    places = {name: match.groups() for name in names if (match := BLOCK.search(name))}
    nested = any(inner is not None for _, inner in places.values())
    if not nested:
        return {name: int(outer) for name, (outer, _) in places.items()}
    ordered = sorted({(int(outer), int(inner)) for outer, inner in places.values() if inner is not None})
    depth = {place: index for index, place in enumerate(ordered)}
    return {name: depth[int(outer), int(inner)] for name, (outer, inner) in places.items() if inner is not None}


def select(names: Sequence[str], selectors: Sequence[str]) -> list[str]:
    """Names the selectors leave trainable, in the order of `names`.

    Raises UserError TRAINABLE_UNKNOWN for a selector that names nothing and TRAINABLE_EMPTY where nothing is left.
    """
    chosen: set[str] = set()
    for selector in selectors:
        named = _named(names, selector.removeprefix("-"))
        chosen = chosen - named if selector.startswith("-") else chosen | named
    if not chosen:
        raise UserError(
            "TRAINABLE_EMPTY", f"trainable: expected at least one parameter, got none from {list(selectors)}", "begin with `all`"
        )
    return [name for name in names if name in chosen]


def _named(names: Sequence[str], selector: str) -> set[str]:
    if selector == "all":
        return set(names)
    if selector in PARTS:
        found = {name for name in names if PARTS[selector].search(name)}
    elif match := DEPTH.match(selector):
        found = _at_depth(names, match)
    else:
        found = {name for name in names if fnmatchcase(name, selector)}
    if not found:
        known = "write `lora: { rank: 16 }`, then it names the adapters" if selector == "lora" else _known()
        raise UserError(
            "TRAINABLE_UNKNOWN",
            f"trainable: expected a part or a pattern of this model, got `{selector}`",
            known,
        )
    return found


def _known() -> str:
    return f"parts: {', '.join(['all', 'blocks[a:b]', *PARTS])}; or a glob such as `*.attn1.*`"


def _at_depth(names: Sequence[str], match: re.Match[str]) -> set[str]:
    depths = block_depths(names)
    count = 1 + max(depths.values(), default=-1)
    start, colon, stop = match.groups()
    if colon is None:
        at = int(start or 0)
        wanted = {at if at >= 0 else count + at}
    else:
        wanted = set(range(count)[slice(int(start) if start else None, int(stop) if stop else None)])
    return {name for name, depth in depths.items() if depth in wanted}


def selectable(names: Sequence[str]) -> list[str]:
    """The parameters that `trainable` chooses from: the adapters where there are some, else all."""
    return [name for name in names if PARTS["lora"].search(name)] or list(names)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a learning rate."""

    name: str
    ratio: float
    """Factor on the learning rate of the stage."""
    names: tuple[str, ...]


def groups_of(names: Sequence[str], trainable: Sequence[str], layer_decay: float, ratios: dict[str, float]) -> list[Group]:
    """The trainable names in groups of equal learning rate.

    `layer_decay` multiplies the rate once per block below the last; what lies before the blocks counts as below the first.
    `ratios` maps selectors to factors; the last that names a parameter wins.
    """
    depths = block_depths(names)
    count = 1 + max(depths.values(), default=-1)
    factor = dict.fromkeys(names, 1.0)
    label = dict.fromkeys(names, "all")
    for selector, ratio in ratios.items():
        for name in _named(names, selector):
            factor[name], label[name] = ratio, selector
    for name in names:
        below = count - 1 - depths[name] if name in depths else (count if PARTS["embeddings"].search(name) else 0)
        factor[name] *= layer_decay**below
    groups: dict[tuple[str, float], list[str]] = {}
    for name in trainable:
        groups.setdefault((label[name], factor[name]), []).append(name)
    return [
        Group(text if ratio == 1 or text != "all" else f"all ×{ratio:.3g}", ratio, tuple(members))
        for (text, ratio), members in groups.items()
    ]


@dataclass(frozen=True, slots=True)
class Phase:
    """What trains from one step on."""

    start: int
    """First step of the phase, counted from 1; 0 for one that waits for a plateau."""
    selectors: tuple[str, ...]
    rewarm_steps: int
    waits_for_plateau: bool = False


def phases_of(trainable: Sequence[str], phases: Sequence[tuple[int | str, Sequence[str], int]], steps: int) -> list[Phase]:
    """The phases of a stage in order; the first starts at step 1.

    `at` is a number of finished steps, a share of the stage (`50%`) or `plateau`.
    Raises UserError PHASES_ORDER where they do not rise.
    """
    result = [Phase(1, tuple(trainable), 0)]
    for at, selectors, rewarm in phases:
        if at == "plateau":
            result.append(Phase(0, tuple(selectors), rewarm, waits_for_plateau=True))
            continue
        done = round(steps * float(at[:-1]) / 100) if isinstance(at, str) else at
        if done + 1 <= max(phase.start for phase in result):
            raise UserError(
                "PHASES_ORDER", f"phases: expected rising steps, got {at} after step {result[-1].start - 1}", "order the phases by `at`"
            )
        result.append(Phase(done + 1, tuple(selectors), rewarm))
    return result
