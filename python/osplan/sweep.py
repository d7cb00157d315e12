"""Optuna asked and told: the search strategy and the pruner of a sweep, over one storage file in the sweep's folder.

Every question names the whole study, so the process that answers may die between two of them. A question that was answered before is
answered the same: `ask` knows the trial by its number, `report` a step by its number, `tell` an end that is there already. The caller
is the only writer of the file. Values are losses: lower is better.
"""

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osplan.domain.errors import UserError

STUDY_NAME = "sweep"
"""Hyperband draws a trial's bracket from the name of its study: one name, so that equal sweeps prune equally."""

_storages: dict[str, tuple[Any, tuple[int, int]]] = {}


def ask(study: Mapping[str, Any], number: int, space: Sequence[Mapping[str, Any]], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The point of a number: that of the storage where it is there already, else the sampler's, with `given` values as they are.

    `space` lists axes in the order of their conditions; an axis whose condition fails is left out.
    Raises UserError SWEEP_STORAGE where earlier points are missing from the storage.
    """
    import optuna

    opened = _open(study, number)
    trials = opened.get_trials(deepcopy=False)
    if number > len(trials):
        raise UserError(
            "SWEEP_STORAGE", f"{study['path']}: expected {number} points, got {len(trials)}", "restore the file, or fork the sweep"
        )
    if number == len(trials):
        if given is not None:
            opened.enqueue_trial({axis["path"]: _choice(axis, given[axis["path"]]) for axis in space if axis["path"] in given})
        trial = opened.ask()
    else:
        known = trials[number]
        trial = opened.ask() if known.state == optuna.trial.TrialState.WAITING else optuna.trial.Trial(opened, known._trial_id)
    values: dict[str, Any] = {}
    for axis in space:
        if _is_active(axis, values):
            values[axis["path"]] = _suggest(trial, axis)
    _flush(study)
    return {"number": number, "values": values}


def report(study: Mapping[str, Any], number: int, step: int, value: Any, decide: bool, visible: Sequence[int] | None) -> dict[str, Any]:
    """Takes in a held-out loss and says whether the point is to be given up, with the losses it was compared with.

    `visible` are the points a decision may see; None is all of them.
    """
    opened = _open(study, number)
    trial = opened.get_trials(deepcopy=False)[number]
    loss = _number(value)
    if step not in trial.intermediate_values:
        opened._storage.set_trial_intermediate_value(trial._trial_id, step, loss)
    others = _seen(opened, None if visible is None else {*visible, number})
    trial = opened.get_trials()[number]
    at_step = {
        other.number: other.intermediate_values[step] for other in others.get_trials(deepcopy=False) if step in other.intermediate_values
    }
    compared = [{"point": point, "value": other} for point, other in sorted(at_step.items()) if point != number]
    prune = decide and (bool(opened.pruner.prune(others, trial)) if math.isfinite(loss) else True)
    _flush(study)
    return {"prune": prune, "reason": _reason(study["pruner"], step, loss, compared) if prune else None, "compared": compared}


def tell(study: Mapping[str, Any], number: int, state: str, value: Any) -> dict[str, Any]:
    """Ends a point as `done` with its loss, `pruned` or `failed`; a point that has ended stays as it is."""
    import optuna

    opened = _open(study, number)
    states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
    loss = _number(value) if state == "done" else None
    if loss is not None and not math.isfinite(loss):
        state, loss = "failed", None
    opened.tell(number, loss, state=states[state], skip_if_finished=True)
    _flush(study)
    return {"state": state}


def importance(study: Mapping[str, Any]) -> dict[str, Any]:
    """Share of the loss's variation each axis explains; none under 4 points.

    By fANOVA where scikit-learn is installed, else by PED-ANOVA.
    """
    import optuna

    opened = _open(study, 0)
    complete = opened.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 4:
        return {"method": None, "importance": {}}
    seed = int(study["seed"])
    try:
        method, evaluator = "fanova", optuna.importance.FanovaImportanceEvaluator(seed=seed)
    except ImportError:
        method, evaluator = "ped-anova", optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(opened, evaluator=evaluator)
        except (ValueError, RuntimeError):
            return {"method": None, "importance": {}}
    return {"method": method, "importance": dict(found)}


SAMPLER_PACKAGES: dict[str, tuple[str, ...]] = {
    "grid": (), "random": (), "tpe": (), "qmc": ("scipy",), "gp": ("scipy", "torch"), "cmaes": ("cmaes",),
}  # fmt: skip


def _missing(packages: Sequence[str]) -> str | None:
    from importlib.util import find_spec

    return next((name for name in packages if find_spec(name) is None), None)


def _open(study: Mapping[str, Any], number: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _storage(str(study["path"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = {"sampler": _sampler(study["sampler"], int(study["seed"]), number), "pruner": _pruner(study["pruner"])}
        try:
            return optuna.load_study(study_name=STUDY_NAME, storage=storage, **parts)
        except KeyError:
            return optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="minimize", **parts)


def _storage(path: str) -> Any:
    """The storage of a file, replayed once; again where another file was put in its place."""
    import optuna

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    identity = _identity(path)
    known = _storages.get(path)
    if known is None or known[1] != identity:
        _cut_torn_line(path)
        known = (optuna.storages.JournalStorage(_backend(path)), _identity(path))
        _storages[path] = known
    return known[0]


def _identity(path: str) -> tuple[int, int]:
    """Device and inode: a file that was put in the place of another is another."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _cut_torn_line(path: str) -> None:
    """What a killed writer left of its last line would otherwise be the beginning of the next one."""
    try:
        with open(path, "rb+") as file:
            text = file.read()
            end = text.rfind(b"\n") + 1
            if end < len(text):
                file.truncate(end)
    except FileNotFoundError:
        return


def _backend(path: str) -> Any:
    """Optuna's file without its lock and its flush of each line.

    The sweep's own lock lets one process write, and a lock file would outlive a killed one. A question is flushed as a whole, at its end.
    """
    from optuna.storages.journal import JournalFileBackend

    class Backend(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with open(path, "ab") as file:
                file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())

    return Backend(path)


def _flush(study: Mapping[str, Any]) -> None:
    """What a question changed survives a power cut before it is answered."""
    file = os.open(str(study["path"]), os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _seed(seed: int, number: int) -> int:
    """A seed per point: a sampler made anew for each draws the same whether or not the process was replaced in between."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _sampler(settings: Mapping[str, Any], seed: int, number: int) -> Any:
    import optuna

    name, own = settings["name"], _seed(seed, number)
    lacking = _missing(SAMPLER_PACKAGES[name])
    if lacking is not None:
        raise UserError(
            "SAMPLER_MISSING",
            f"sampler {name}: expected the package {lacking}, got none",
            f"{sys.executable} -m pip install {lacking}, or use tpe",
        )
    startup = int(settings["startup"])
    makers: dict[str, Callable[[], Any]] = {
        "grid": lambda: optuna.samplers.RandomSampler(seed=own),
        "random": lambda: optuna.samplers.RandomSampler(seed=own),
        "tpe": lambda: optuna.samplers.TPESampler(seed=own, n_startup_trials=startup),
        "qmc": lambda: optuna.samplers.QMCSampler(scramble=True, seed=seed, independent_sampler=optuna.samplers.RandomSampler(seed=own)),
        "gp": lambda: optuna.samplers.GPSampler(seed=own, n_startup_trials=startup, deterministic_objective=False),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False),
    }
    return makers[name]()


def _pruner(settings: Mapping[str, Any]) -> Any:
    import optuna

    pruners = optuna.pruners
    first = max(1, int(settings["warmupSteps"]))
    makers: dict[str, Callable[[], Any]] = {
        "none": pruners.NopPruner,
        "median": lambda: pruners.MedianPruner(
            n_startup_trials=settings["startup"], n_warmup_steps=settings["warmupSteps"], n_min_trials=max(1, settings["minPoints"])
        ),
        "asha": lambda: pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=settings["reduction"]),
        "hyperband": lambda: pruners.HyperbandPruner(
            min_resource=first, max_resource=max(first, settings["maxSteps"]), reduction_factor=settings["reduction"]
        ),
        "patience": lambda: pruners.PatientPruner(None, patience=settings["patience"], min_delta=settings["minDelta"]),
        "threshold": lambda: pruners.ThresholdPruner(
            upper=settings["upper"], lower=settings["lower"], n_warmup_steps=settings["warmupSteps"]
        ),
    }
    return makers[settings["name"]]()


def _reason(settings: Mapping[str, Any], step: int, loss: float, compared: Sequence[Mapping[str, Any]]) -> str:
    if not math.isfinite(loss):
        return f"the held-out loss at step {step} is {loss}"
    others = sorted(entry["value"] for entry in compared)
    among = f"{loss:.6g} at step {step}, rank {sum(value < loss for value in others) + 1} of {len(others) + 1}"
    match settings["name"]:
        case "median":
            return f"median: {among}; the others' median is {_median(others):.6g}"
        case "asha" | "hyperband":
            return f"{settings['name']}: {among}; the best 1/{settings['reduction']} go on"
        case "patience":
            return f"patience: {loss:.6g} at step {step}; no gain of {settings['minDelta']:g} over {settings['patience']} measurements"
        case _:
            limits = f"{settings['lower']} to {settings['upper']}"
            return f"threshold: {loss:.6g} at step {step} lies outside {limits}"


def _median(values: Sequence[float]) -> float:
    middle = len(values) // 2
    if not values:
        return math.nan
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _is_active(axis: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(path in values and values[path] in allowed for path, allowed in axis["when"].items())


def _suggest(trial: Any, axis: Mapping[str, Any]) -> Any:
    path = axis["path"]
    if axis["kind"] == "choice":
        return json.loads(trial.suggest_categorical(path, [_text(value) for value in axis["values"]]))
    if axis["kind"] == "integer":
        return trial.suggest_int(path, axis["min"], axis["max"], step=axis["step"] or 1, log=axis["log"])
    return trial.suggest_float(path, axis["min"], axis["max"], step=axis["step"], log=axis["log"])


def _choice(axis: Mapping[str, Any], value: Any) -> Any:
    return _text(value) if axis["kind"] == "choice" else value


def _text(value: Any) -> str:
    """Optuna keeps scalars alone; lists and records travel as text, and one rule for all of them is enough."""
    return json.dumps(value, sort_keys=True)


def _number(value: Any) -> float:
    if isinstance(value, dict):
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value["$f"]]
    return math.nan if value is None else float(value)


def _seen(study: Any, numbers: set[int] | None) -> Any:
    """The study with only the points of some numbers in it; None is all of them."""
    import optuna

    class Seen(optuna.study.Study):
        def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[Any]:
            found = super().get_trials(deepcopy=deepcopy, states=states)
            return [trial for trial in found if numbers is None or trial.number in numbers]

    return Seen(STUDY_NAME, study._storage, study.sampler, study.pruner)
