"""The ranks a probe is made on: as many of the stage's as this machine has room for, this process the first of them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import osplan
from osplan.domain.stage import Stage
from osplan.parallel.world import World, join_world, leave_world
from osplan.train.machine import cores

WAITS_MINUTES = 5
"""How long ranks wait for each other."""


def local_ranks(stage: Stage) -> int:
    """Ranks of a stage on one machine; 1 where this one has fewer GPUs or cores than that."""
    count = stage.parallel.processes
    has_gpus = torch.cuda.is_available() and stage.memory.device != "cpu"
    return count if count <= (torch.cuda.device_count() if has_gpus else cores()) else 1


@contextmanager
def probing_ranks(stage: Stage, request: Mapping[str, Any]) -> Iterator[World]:
    """Within, the ranks of a probe have met; the first has started the others, which answer the same request and are not heard."""
    count = local_ranks(stage)
    sharded, sequence = stage.parallel.strategy != "ddp", stage.parallel.sequence if count > 1 else 1
    settings = {"sequence": sequence, "grouped": sharded, "timeout_minutes": WAITS_MINUTES}
    threads = stage.memory.threads or max(1, cores() // stage.parallel.processes)
    if count == 1 or "RANK" in os.environ:
        try:
            yield join_world(stage.memory.device, threads, **settings)
        finally:
            leave_world()
        return
    meeting = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    others = [_started(request, {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(1, count)]
    try:
        with patch.dict(os.environ, {**meeting, "RANK": "0", "LOCAL_RANK": "0"}):
            yield join_world(stage.memory.device, threads, **settings)
    finally:
        leave_world()
        for other in others:
            try:
                other.wait(timeout=10)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()


def _started(request: Mapping[str, Any], meeting: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    root = str(Path(osplan.__file__ or "").parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **meeting, "PYTHONPATH": path}
    other = subprocess.Popen([sys.executable, "-m", "osplan", "probe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
    assert other.stdin is not None
    with other.stdin as asked:
        asked.write(json.dumps(request).encode())
    return other


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
