"""Trackers beside the journal: TensorBoard's event files, Weights & Biases.

Both are told what the journal was told, by the thread that writes it; the journal stays the truth. An event file is a sequence of
TFRecords (length, its masked CRC-32C, data, its masked CRC-32C; little-endian), each an `Event` message
(tensorflow/core/util/event.proto).
"""

import importlib
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osplan.domain.errors import UserError

MASK_DELTA = 0xA282EAD8
SESSION_START = 1
LARGEST_FLOAT = 3.4028234663852886e38


def open_trackers(names: Sequence[str], run: Path, run_id: str, attempt: int, stage: Mapping[str, Any]) -> list["Tracker"]:
    """The trackers a stage names in `reportTo`.

    Raises UserError TRACKER_MISSING for one whose package is not installed, before anything is trained.
    """
    makers = {
        "tensorboard": lambda: EventFile(run / "tensorboard", attempt),
        "wandb": lambda: WeightsAndBiases(run, run_id, stage),
    }
    return [makers[name]() for name in names]


def scalars(event: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event worth a curve, by name; empty for an event that measures nothing."""
    if event == "step":
        names = ("loss", "learning_rate", "gradient_norm", "seconds_per_step")
        found = {f"train/{name}": fields.get(name) for name in names}
        found |= {f"extra/{name}": value for name, value in (fields.get("extra") or {}).items()}
        found |= {f"seconds/{name}": value for name, value in (fields.get("split") or {}).items()}
        return {name: float(value) for name, value in found.items() if value is not None}
    if event == "heldOut":
        sides = {"raw": fields.get("raw"), "ema": fields.get("ema")}
        return {f"held_out/{name}": float(side["loss"]) for name, side in sides.items() if side is not None}
    return {}


class EventFile:
    """An event file of one attempt. A continued run opens another, which tells TensorBoard to forget the steps that are done again."""

    def __init__(self, folder: Path, attempt: int) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{os.getpid()}.{attempt:04d}"
        self.file = open(self.path, "ab")  # noqa: SIM115 - it stays open as long as the run
        self._put(_number(1, 0.0) + _bytes(3, b"brain.Event:2"))

    def write(self, event: str, ts: float, fields: Mapping[str, Any]) -> None:
        """Takes the numbers of an event; the start of an attempt ends what comes after its step."""
        if event == "started":
            self._put(_number(1, ts) + _integer(2, int(fields["step"]) + 1) + _bytes(7, _integer(1, SESSION_START)))
            return
        values = b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in scalars(event, fields).items())
        if values:
            self._put(_number(1, ts) + _integer(2, int(fields["step"])) + _bytes(5, values))

    def _put(self, message: bytes) -> None:
        head = struct.pack("<Q", len(message))
        self.file.write(head + struct.pack("<I", masked_crc(head)) + message + struct.pack("<I", masked_crc(message)))

    def flush(self) -> None:
        """Hands everything to the file."""
        self.file.flush()

    def close(self) -> None:
        """Ends the file."""
        self.file.close()


class WeightsAndBiases:
    """A run of Weights & Biases under the id of ours; a continued run goes on with it. `WANDB_MODE=offline` needs no server."""

    def __init__(self, run: Path, run_id: str, stage: Mapping[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as cause:
            raise UserError(
                "TRACKER_MISSING",
                "reportTo wandb: expected the package wandb, got none",
                "install it into the Python environment (pip install wandb), or take wandb out of reportTo",
            ) from cause
        project = os.environ.get("WANDB_PROJECT", "stagewright")
        self.run = wandb.init(project=project, id=run_id, name=run_id, dir=str(run), resume="allow", config=dict(stage))

    def write(self, event: str, ts: float, fields: Mapping[str, Any]) -> None:
        """Takes the numbers of an event."""
        found = {name: value for name, value in scalars(event, fields).items() if math.isfinite(value)}
        if found:
            self.run.log(found, step=int(fields["step"]))

    def flush(self) -> None:
        """Nothing: its own process sends."""

    def close(self) -> None:
        """Ends the run there."""
        self.run.finish()


Tracker = EventFile | WeightsAndBiases


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
        table.append(crc)
    return table


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C of some bytes (RFC 3720, appendix B.4) in the form TFRecords keep it in."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append((value & 0x7F) | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _number(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    fits = abs(value) <= LARGEST_FLOAT or not math.isfinite(value)
    return _varint(field << 3 | 5) + struct.pack("<f", value if fits else math.copysign(math.inf, value))


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
