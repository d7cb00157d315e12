"""`python -m osplan`: the program a launcher starts. It builds the parts and ends with one recorded reason."""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EXIT_BY_REASON = {"completed": 0, "stopped": 0, "paused": 0, "data-exhausted": 0, "plateau": 0}
PARENT_POLL_SECONDS = 1.0
SPIN_COUNT = "5000"
"""How often a thread of PyTorch looks for the others before it sleeps, some 0.1 ms.

As fast as libgomp's 300,000 where each thread has a core; beside another program, a core goes to the thread that is waited for.
"""


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    # Read by libgomp as it is loaded with PyTorch.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    parser = argparse.ArgumentParser(prog="python -m osplan", description="The Open-Sora-Plan trainer that Stagewright drives.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="one attempt at the stage of a run folder, on every rank torchrun starts")
    train.add_argument("run", type=Path)
    train.add_argument("--attempt", type=int, required=True)
    commands.add_parser("cache", help="fills the caches of a stage; the request comes on stdin, events go to stdout, both as JSON")
    commands.add_parser("decode", help="decodes every clip of a stage; the request comes on stdin, events go to stdout, both as JSON")
    commands.add_parser("sample", help="samples of trained weights; the request comes on stdin, events go to stdout, both as JSON")
    commands.add_parser("probe", help="memory and time of a stage; the request comes on stdin, the answer goes to stdout, both as JSON")
    commands.add_parser(
        "check", help="whether this trainer trains stages; the request comes on stdin, the answer goes to stdout, both as JSON"
    )
    pool = commands.add_parser("pool", help="a parent with everything imported that forks trainers of one process")
    pool.add_argument("socket")
    pool.add_argument("--room", help="long enough for the command line of a child")
    options = parser.parse_args(arguments)
    if options.command == "pool":
        from osplan.pool import serve

        return serve(options.socket, train_run)
    answers = {"check": check_stages, "cache": fill_caches, "decode": decode_clips, "sample": sample_weights, "probe": probe_stage}
    if options.command in answers:
        return answer_request(answers[options.command])
    return train_run(options.run.resolve(), options.attempt)


def check_stages(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Says `trainable` of a request `{stages}` whose every stage this trainer carries out as it is written."""
    from osplan.domain.stage import decode_stage
    from osplan.train.supported import refuse_unsupported

    for stage in request["stages"]:
        refuse_unsupported(decode_stage(stage))
    say("trainable")


def fill_caches(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Fills the caches of a request `{stage, inputs, verify}`; the last event is `filled`."""
    from osplan.domain.stage import decode_stage
    from osplan.train.cache_build import build_caches

    say("filled", **build_caches(decode_stage(request["stage"]), request["inputs"], say, verify=request["verify"]))


def decode_clips(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Decodes the clips of a request `{stage, inputs}` once; the last event is `decoded`."""
    from osplan.data.decode_check import decode_report
    from osplan.domain.stage import decode_stage

    say("decoded", **decode_report(request["inputs"]["data"], decode_stage(request["stage"]), say))


def probe_stage(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Answers a request `{stage, inputs, steps}` with one event: `probed` after some steps, or `estimated` without any."""
    from osplan.domain.stage import decode_stage
    from osplan.train.clips import bucket_counts
    from osplan.train.probe import fits, probe

    stage, inputs = request["stage"], request["inputs"]
    buckets = bucket_counts(decode_stage(stage), inputs) if inputs["data"] is not None else {}
    if request["steps"]:
        say("probed", **probe(stage, inputs, buckets))
    else:
        say("estimated", **fits(stage, inputs, buckets))


def sample_weights(request: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Writes the samples of a request, one event `sample` each; the last event is `sampled`."""
    from osplan.bridge import Silent
    from osplan.train.samples import sample

    written = sample(request, Silent())
    for entry in written:
        say("sample", **entry)
    say("sampled", count=len(written))


def answer_request(work: Callable[[Mapping[str, Any], Callable[..., None]], None]) -> int:
    """Answers the request on stdin with lines of JSON; where a person must mend something the last of them is `failed`."""
    # Libraries may print; stdout carries events alone.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(event: str, **fields: Any) -> None:
        events.write(json.dumps(tagged({"event": event, **fields})) + "\n")
        events.flush()

    from osplan.domain.errors import UserError
    from osplan.domain.protocol import tagged

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        work(json.loads(sys.stdin.read()), say)
        return 0
    except UserError as refused:
        say("failed", code=refused.code, message=refused.message, hint=refused.hint)
        return 2
    except KeyboardInterrupt:
        return 130


def train_run(run: Path, attempt: int) -> int:
    """Trains one attempt; everything that goes wrong ends as a recorded reason, not only as a traceback."""
    from osplan.bridge import Bridge, Silent
    from osplan.domain.errors import UserError
    from osplan.domain.run_files import read_identity, read_stage
    from osplan.trackers import open_trackers

    identity = read_identity(run)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        port: Any = Bridge(run, attempt, identity["socket"], identity["id"]) if is_first else Silent()
    except UserError as refused:
        print(f"{refused}\nhint: {refused.hint}", file=sys.stderr, flush=True)
        return 1
    _end_with_parent(port)
    try:
        if is_first:
            stage, *_ = read_stage(run)
            port.track(open_trackers(stage["reportTo"], run, identity["id"], attempt, stage))
        from osplan.train.assemble import train_attempt

        end = train_attempt(run, identity, attempt, port)
        port.emit("finished", step=end.step, reason=end.reason, message=end.message)
        return EXIT_BY_REASON.get(end.reason, 1)
    except BaseException as cause:
        if is_first or isinstance(cause, UserError):
            _report(run, port, cause, is_first=is_first)
        if isinstance(cause, UserError):
            print(f"{cause}\nhint: {cause.hint}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        return 1
    finally:
        port.close()


def _report(run: Path, port: Any, cause: BaseException, *, is_first: bool) -> None:
    """What went wrong, with the code the supervisor turns into a reason."""
    from osplan.domain.errors import UserError

    rank = int(os.environ.get("RANK", "0"))
    if isinstance(cause, UserError):
        fields = {"code": cause.code, "message": cause.message, "hint": cause.hint}
    else:
        kind = type(cause).__name__
        code = (
            "OUT_OF_MEMORY"
            if kind == "OutOfMemoryError" or isinstance(cause, MemoryError) or "out of memory" in str(cause)
            else "TRAINER_BUG"
        )
        fields = {"code": code, "message": f"{kind}: {cause}", "traceback": "".join(traceback.format_exception(cause))[-20_000:]}
    if is_first:
        port.emit("failed", rank=rank, **fields)
    else:
        (run / "logs" / f"rank-{rank}.failed.txt").write_text(f"{fields['code']}: {fields['message']}\n")


def _end_with_parent(port: Any) -> None:
    """SIGTERM, SIGINT and the launcher's death become a request to end at the next step boundary, with a checkpoint."""
    parent = os.getppid()

    def request(*_: object) -> None:
        port.put({"id": f"signal-{time.time_ns()}", "name": "signal", "silent": True})

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        request()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, request)
    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
