"""The trainer's half of the protocol; `src/domain/protocol.ts` is the other and both change together.

A journal line is one JSON object: `seq`, `ts` (seconds since 1970), `attempt`, `event`, then the event's fields in
camelCase. A number that JSON cannot hold is `{"$f": "nan" | "inf" | "-inf"}`.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

PROTOCOL_VERSION = 1
FORMAT_VERSION = 1
MAX_LINE_BYTES = 1_048_576

END_REASONS = (
    "completed",
    "stopped",
    "paused",
    "data-exhausted",
    "plateau",
    "non-finite",
    "incident",
    "out-of-memory",
    "disk-full",
    "failed",
    "killed",
    "lost",
)


def camel(name: str) -> str:
    """`gradient_norm` → `gradientNorm`."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def snake(name: str) -> str:
    """`gradientNorm` → `gradient_norm`."""
    return re.sub(r"(?<!^)([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def tagged(value: Any) -> Any:
    """The value with every non-finite number replaced by its tag."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$f": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, Mapping):
        return {key: tagged(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [tagged(inner) for inner in value]
    return value


def encode_line(head: Mapping[str, Any], event: str, fields: Mapping[str, Any]) -> bytes:
    """One journal line. A line over the limit keeps its head and says what was left out."""
    body = {**head, "event": event, **{camel(key): tagged(value) for key, value in fields.items()}}
    line = json.dumps(body, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode() + b"\n"
    if len(line) <= MAX_LINE_BYTES:
        return line
    longest = max(fields, key=lambda key: len(json.dumps(tagged(fields[key]))))
    shorter: dict[str, Any] = {**fields, longest: _stand_in(fields[longest])}
    return encode_line(head, event, {**shorter, "left_out": longest})


def _stand_in(value: Any) -> Any:
    if isinstance(value, str):
        return value[:1000] + "…"
    if isinstance(value, list | tuple):
        return []
    return {} if isinstance(value, Mapping) else None
