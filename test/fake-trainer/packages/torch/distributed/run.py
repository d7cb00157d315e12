"""Starts ranks as torchrun does: each in a session of its own, all ended when one fails, the first to fail named on stderr."""

import os
import signal
import subprocess
import sys
import time


def main(arguments: list[str]) -> int:
    """`--nproc-per-node=N … -m MODULE ARGUMENT…`; 1 where a rank failed or TERM came, else 0."""
    count, nodes, node = (number(arguments, name) for name in ("nproc-per-node", "nnodes", "node-rank"))
    module = arguments[arguments.index("-m") :]
    ranks = [start(local, node * count + local, nodes * count, module) for local in range(count)]
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    while not asked and any(rank.poll() is None for rank in ranks) and not failed(ranks):
        time.sleep(0.01)
    for rank in failed(ranks)[:1]:
        print(f"  exitcode  : {rank.returncode} (pid: {rank.pid})", file=sys.stderr, flush=True)
    bad = bool(asked or failed(ranks))
    for rank in ranks:
        if bad and rank.poll() is None:
            rank.terminate()
    for rank in ranks:
        rank.wait()
    return 1 if bad else 0


def number(arguments: list[str], name: str) -> int:
    return next((int(word.partition("=")[2]) for word in arguments if word.startswith(f"--{name}=")), 0)


def start(local: int, rank: int, count: int, module: list[str]) -> subprocess.Popen:
    place = {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(count)}
    return subprocess.Popen([sys.executable, "-S", *module], env={**os.environ, **place}, start_new_session=True)


def failed(ranks: list[subprocess.Popen]) -> list[subprocess.Popen]:
    return [rank for rank in ranks if rank.poll() not in (None, 0)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
