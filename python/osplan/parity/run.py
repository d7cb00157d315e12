"""The parity command: runs cases through our own modules and says how far they are from the reference.

    python -m osplan.parity CASE.json… [--json]

Exit 0: every case agrees. Exit 1: one does not. Exit 2: a case could not be run (missing, malformed, unknown model).
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from osplan.domain.errors import UserError
from osplan.parity.case import Case, Handler, load_case
from osplan.parity.compare import Report, compare

HANDLER_MODULES = ("autoencoders", "transformers", "objectives", "sampling", "conditions", "datasets")


def known_handlers() -> dict[str, Handler]:
    """Handlers of every kind of case, by the class or function that starts the case's `source.cls`."""
    handlers: dict[str, Handler] = {}
    for name in HANDLER_MODULES:
        module = f"osplan.parity.{name}"
        if find_spec(module) is not None:
            handlers.update(import_module(module).HANDLERS)
    return handlers


def find_handler(case: Case, handlers: dict[str, Handler]) -> Handler:
    """The handler whose key starts the case's source class; the longest key wins.

    A key counts only where it ends at a word's end, so `LatteT2V` does not answer for `LatteT2VPlus`.

    Raises UserError CASE_MODEL_UNKNOWN.
    """
    source = str((case.spec.get("source") or {}).get("cls", ""))
    keys = [key for key in handlers if re.match(re.escape(key) + r"(?!\w)", source)]
    if not keys:
        known = ", ".join(sorted(handlers))
        raise UserError("CASE_MODEL_UNKNOWN", f"{case.name}: expected a source.cls this project builds, got {source!r}", f"known: {known}")
    return handlers[max(keys, key=len)]


def run_case(path: Path, handlers: dict[str, Handler]) -> Report:
    """Reads a case, computes its outputs with our modules and compares them.

    Raises UserError CASE_INVALID where the case lacks what its handler needs.
    """
    case = load_case(path)
    handler = find_handler(case, handlers)
    try:
        outputs = handler(case)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as cause:
        raise UserError("CASE_INVALID", f"{path}: expected a complete {case.name} case, got {type(cause).__name__}: {cause}") from cause
    return compare(case, outputs)


def _number(value: float) -> Any:
    """A number as JSON; what JSON cannot say travels tagged."""
    if math.isfinite(value):
        return value
    return {"$f": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """The reports in the command's JSON format."""
    return {
        "formatVersion": 1,
        "cases": [
            {
                "name": report.name,
                "passed": report.passed,
                "outputs": [
                    {"name": each.name, "maxAbs": _number(each.max_abs), "maxRel": _number(each.max_rel), "tolerance": each.tolerance}
                    for each in report.outputs
                ],
            }
            for report in reports
        ],
    }


def to_text(reports: Sequence[Report]) -> str:
    """The reports as a person reads them, one output a line."""
    lines = []
    for report in reports:
        lines.append(f"{report.name}: {'pass' if report.passed else 'FAIL'}")
        for each in report.outputs:
            verdict = "pass" if each.passed else "FAIL"
            note = f"  {each.note}" if each.note else ""
            lines.append(f"  {verdict}  abs {each.max_abs:9.2e}  rel {each.max_rel:9.2e}  limit {each.tolerance:7.0e}  {each.name}{note}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="osplan.parity", description="Compare our modules with reference cases.")
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.json", help="a case; its .safetensors lies beside it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        handlers = known_handlers()
        reports = [run_case(path, handlers) for path in options.cases]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    print(json.dumps(to_json(reports)) if options.json else to_text(reports))
    return 0 if all(report.passed for report in reports) else 1
