"""The interpreter's questions: text in, text out. It answers what the plan shows and nothing that trains.

One facade crosses the bridge: `invoke(name, json) -> json`. An answer is `{"ok": true, "result": …}` or
`{"ok": false, "error": {"type", "code", "message", "hint", "traceback"}}`; a number that JSON cannot hold is tagged.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from osplan.domain.errors import UserError
from osplan.domain.protocol import tagged

SHOWN_CLIPS = 100_000
"""Clips of a larger data set are looked at in even steps."""


def invoke(name: str, arguments: str) -> str:
    """Answers one question. Never raises: what goes wrong is part of the answer."""
    try:
        if name not in QUESTIONS:
            raise UserError("QUESTION_UNKNOWN", f"expected one of {', '.join(QUESTIONS)}, got {name}")
        result = QUESTIONS[name](**json.loads(arguments))
        return json.dumps({"ok": True, "result": tagged(result)}, allow_nan=False)
    except UserError as refused:
        error = {"type": "UserError", "code": refused.code, "message": refused.message, "hint": refused.hint}
    except BaseException as cause:
        error = {"type": type(cause).__name__, "message": str(cause), "traceback": "".join(traceback.format_exception(cause))[-20_000:]}
    return json.dumps({"ok": False, "error": error})


def _ping() -> dict[str, Any]:
    return {"pid": os.getpid(), "python": sys.version.split()[0]}


def _plan(
    stage: dict[str, Any], source: str | None, weights: str | None = None, vae: str | None = None, cache: str | None = None
) -> dict[str, Any]:
    """Parameters, learning-rate curve, memory, data and caches of one stage; `weights` is where it starts from."""
    from osplan.domain.stage import decode_stage
    from osplan.train.caches import cache_state
    from osplan.train.clips import data_report, split
    from osplan.train.plan import learning_rate_curve, memory, parameters
    from osplan.train.supported import refuse_kind

    decoded = decode_stage(stage)
    refuse_kind(decoded)
    answer: dict[str, Any] = {
        "parameters": parameters(decoded, weights),
        "learningRate": learning_rate_curve(decoded),
        "memory": memory(decoded),
    }
    if source is not None:
        parallel = decoded.parallel
        world = parallel.processes * parallel.nodes // parallel.sequence
        inputs = {"data": source, "vae": vae, "cache": cache}
        training, held_out, selection = split(decoded, inputs)
        report = data_report(decoded, training, held_out, selection, decoded.batch.per_device * decoded.batch.accumulate * world)
        answer["data"] = {_camel(key): value for key, value in report.items()}
        if decoded.data.cache != "off" and decoded.kind != "vae":
            answer["cache"] = cache_state(decoded, inputs, training)
    return answer


def _trainable(stage: dict[str, Any]) -> list[str]:
    """Names of the parameters that train in any phase of a stage."""
    from osplan.domain.stage import decode_stage
    from osplan.train.plan import ever_trainable

    return ever_trainable(decode_stage(stage))


def _data_check(stage: dict[str, Any], source: str) -> dict[str, Any]:
    """What every rule makes of a data set, from its metadata alone."""
    from osplan.data.check import check
    from osplan.domain.stage import decode_stage

    decoded = decode_stage(stage)
    return check(source, decoded, decoded.parallel.processes * decoded.parallel.nodes)


def _data_show(stage: dict[str, Any], source: str, vae: str | None, cache: str | None) -> dict[str, Any]:
    """The clips of a stage, their buckets, and what is kept of them."""
    from osplan.data.check import check
    from osplan.domain.stage import decode_stage
    from osplan.train.caches import cache_state
    from osplan.train.clips import split

    decoded = decode_stage(stage)
    report = check(source, decoded, decoded.parallel.processes * decoded.parallel.nodes)
    if report["empty"]:
        return {**report, "cache": None}
    inputs = {"data": source, "vae": vae, "cache": cache}
    training, _, _ = split(decoded, inputs)
    return {**report, "cache": cache_state(decoded, inputs, training, limit=SHOWN_CLIPS)}


def _data_init(folder: str) -> dict[str, Any]:
    """Writes a list file and an annotation for a folder of clips."""
    from osplan.data.check import write_list_of

    return write_list_of(folder)


def _sweep(question: str) -> Callable[..., Any]:
    """A question of a sweep; Optuna is imported by the first one."""

    def answer(**arguments: Any) -> Any:
        from osplan import sweep

        return getattr(sweep, question)(**arguments)

    return answer


def _monitor(stage: dict[str, Any], journal: str) -> dict[str, Any]:
    """What the rules of the watch say of a run's journal."""
    from pathlib import Path

    from osplan.domain.stage import decode_stage
    from osplan.domain.watch.journal import JournalWatch, events_of
    from osplan.domain.watch.watch import rules_as_json

    decoded = decode_stage(stage)
    watched = JournalWatch(decoded.incidents.watch)
    alerts = [alert.as_json() for event in events_of(Path(journal)) for alert in watched.event(event)]
    return {"alerts": alerts, "steps": watched.steps, "everySteps": decoded.log_every, "rules": rules_as_json()}


def _camel(name: str) -> str:
    from osplan.domain.protocol import camel

    return camel(name)


def _sleep(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


def _echo(value: Any) -> Any:
    return value


def _not_a_number() -> float:
    return float("nan")


def _exit() -> None:
    sys.exit(3)


QUESTIONS: dict[str, Callable[..., Any]] = {
    "ping": _ping,
    "plan": _plan,
    "trainable": _trainable,
    "dataCheck": _data_check,
    "dataShow": _data_show,
    "dataInit": _data_init,
    "monitor": _monitor,
    "sweepAsk": _sweep("ask"),
    "sweepReport": _sweep("report"),
    "sweepTell": _sweep("tell"),
    "sweepImportance": _sweep("importance"),
    "sweepSamplers": _sweep("samplers"),
    "echo": _echo,
    "sleep": _sleep,
    "notANumber": _not_a_number,
    "exit": _exit,
}
