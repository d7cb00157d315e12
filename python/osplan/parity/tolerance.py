"""How closely an output must agree with its case: the case's `tolerance` sentence, read into numbers.

A sentence is a list of clauses such as "outputs 5e-6 relative L2 (and 2e-5 max abs) at valid positions",
"scalar loss 1e-6 abs", "gradients 1e-4 relative L2 per tensor" or "relative to the std of each step: 1e-4".
What a sentence leaves out falls back to the numbers the reference cases recommend.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["outputs", "loss", "gradients", "grad_norm", "d_weight", "parameters", "uint8"]
Measure = Literal["relative", "absolute", "per-step"]


@dataclass(frozen=True)
class Limit:
    """The largest difference allowed, and how it is measured."""

    measure: Measure
    """`relative`: L2 norm of the difference over the L2 norm expected. `absolute`: largest element.
    `per-step`: root mean square difference over the standard deviation expected, worst step."""
    value: float
    max_abs: float | None = None
    """A second bound on the largest element, in units of the largest element expected where that exceeds 1."""


_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_SUBJECTS: tuple[tuple[str, Kind], ...] = (
    ("uint8", "uint8"),
    ("grad_norm", "grad_norm"),
    ("d_weight", "d_weight"),
    ("gradient", "gradients"),
    ("parameter", "parameters"),
    ("loss", "loss"),
    ("output", "outputs"),
    ("resized", "outputs"),
)
_TRANSFORMERS = ("OpenSora", "LatteT2V", "SparseUMMDiT")


def recommended(source_class: str) -> dict[Kind, Limit]:
    """The limits that hold where a case's sentence is silent."""
    is_transformer = source_class.startswith(_TRANSFORMERS)
    gradients = Limit("relative", 1e-4)
    return {
        "outputs": Limit("relative", 5e-6 if is_transformer else 2e-5),
        "loss": Limit("absolute", 1e-6) if is_transformer else Limit("relative", 1e-5),
        "gradients": gradients,
        "grad_norm": gradients,
        "d_weight": gradients,
        "parameters": Limit("absolute", 1e-6),
        "uint8": Limit("absolute", 0),
    }


def parse_tolerance(sentence: str, source_class: str) -> dict[Kind, Limit]:
    """Limits of every kind of output for a case with this `tolerance` sentence."""
    limits = recommended(source_class)
    text = re.sub(r"\bfp32 CPU\s*:", "", sentence)
    step = re.search(rf"std of each step\s*:?\s*{_NUMBER}", text)
    if step:
        return {**limits, "outputs": Limit("per-step", float(step[1]))}
    stated: set[Kind] = set()
    for clause in re.split(r"[;,]", text):
        found = _parse_clause(clause)
        if not found:
            continue
        kind, limit = found
        kinds: tuple[Kind, ...] = (kind,) if kind else ("outputs", "loss")
        limits.update(dict.fromkeys(kinds, limit))
        stated.update(kinds)
    if "gradients" in stated and "grad_norm" not in stated:
        limits["grad_norm"] = limits["gradients"]
    return limits


def _parse_clause(clause: str) -> tuple[Kind | None, Limit] | None:
    """The kind a clause names (None: all of them) and its limit; None for a clause without a number."""
    steps = re.search(r"(?:\+-|±)\s*(\d+)", clause)
    if steps and "uint8" in clause:
        return "uint8", Limit("absolute", float(steps[1]))
    bare = re.sub(r"\([^)]*\)?", " ", clause)
    number = re.search(rf"{_NUMBER}\s*(relative|abs)", bare)
    if not number:
        return None
    kind: Kind | None = next((kind for word, kind in _SUBJECTS if word in bare), None)
    limit = Limit("relative" if number[2] == "relative" else "absolute", float(number[1]))
    largest = re.search(rf"and\s+{_NUMBER}\s*max abs", clause)
    return kind, replace(limit, max_abs=float(largest[1])) if largest else limit


def kind_of(name: str, numel: int) -> Kind:
    """Which clause of a tolerance sentence speaks about the output of this name."""
    last = name.rsplit(".", 1)[-1]
    if name.startswith("grad.") or ".grad." in name:
        return "gradients"
    if name.startswith("after."):
        return "parameters"
    if last == "grad_norm":
        return "grad_norm"
    if last == "d_weight":
        return "d_weight"
    if numel == 1 and ("loss" in name or "logits_" in last):
        return "loss"
    return "uint8" if "uint8" in name else "outputs"


def limits_of_case(spec: Mapping[str, Any]) -> dict[Kind, Limit]:
    """Limits of every kind of output for a parsed case."""
    source = spec.get("source") or {}
    return parse_tolerance(str(spec.get("tolerance") or ""), str(source.get("cls", "")))
