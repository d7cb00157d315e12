"""Reading the values of an upstream config.json, with errors that name the key."""

from collections.abc import Mapping
from typing import Any

from osplan.domain.errors import UserError


def whole_number(raw: Mapping[str, Any], key: str, absent: int | None = None) -> int:
    """A whole number of at least 1; `absent` stands in where the key is missing or null.

    Raises UserError MODEL_CONFIG.
    """
    value = raw.get(key)
    value = absent if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError("MODEL_CONFIG", f"{key}: expected a whole number of at least 1, got {value!r}")
    return value


def number(raw: Mapping[str, Any], key: str, absent: float) -> float:
    """A number above 0, or 0 itself where `absent` is 0.

    Raises UserError MODEL_CONFIG.
    """
    value = raw.get(key)
    value = absent if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or value == absent == 0):
        raise UserError("MODEL_CONFIG", f"{key}: expected a number above 0, got {value!r}")
    return float(value)


def one_of(raw: Mapping[str, Any], key: str, allowed: tuple[str, ...], absent: str) -> str:
    """One of a few words.

    Raises UserError MODEL_CONFIG.
    """
    value = raw.get(key)
    value = absent if value is None else value
    if value not in allowed:
        raise UserError("MODEL_CONFIG", f"{key}: expected one of {', '.join(allowed)}, got {value!r}")
    return value


def refuse_unless(raw: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses settings that are built in one way only; a missing key or null is that way.

    Raises UserError MODEL_CONFIG.
    """
    for key, value in expected.items():
        if raw.get(key) is not None and raw[key] != value:
            raise UserError("MODEL_CONFIG", f"{key}: expected {value!r}, the only one built here, got {raw[key]!r}")


def latent_size(raw: Mapping[str, Any]) -> tuple[int, int, int]:
    """Latent frames, height and width a model was made for, however the config spells them; 1 where it does not say.

    Upstream writes `sample_size_h` and `sample_size_w` as a number each or both as the pair, v1.2 `sample_size` as either.
    """
    whole = raw.get("sample_size")
    height = raw.get("sample_size_h") if whole is None else whole
    wide = raw.get("sample_size_w") if whole is None else whole
    height = height[0] if isinstance(height, list | tuple) else height
    wide = wide[-1] if isinstance(wide, list | tuple) else wide
    frames = raw.get("sample_size_t") or 1
    for key, value in (("sample_size_t", frames), ("sample_size_h", height), ("sample_size_w", wide)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError("MODEL_CONFIG", f"{key}: expected a whole number of at least 1, got {value!r}")
    return frames, height or 1, wide or 1
