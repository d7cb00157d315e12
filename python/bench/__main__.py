"""`python -m bench --list` and `python -m bench GROUP SCRATCH [--quick]`: JSON for `npm run bench`, a line for each result."""

import argparse
import contextlib
import importlib
import json
import pkgutil
import sys
from pathlib import Path

from bench import groups
from bench.group import Bench, Group, as_json


def group_named(name: str) -> Group:
    """The `GROUP` of a file in `groups/`."""
    return importlib.import_module(f"{groups.__name__}.{name}").GROUP


def main() -> None:
    """Answers on stdout; what modules print goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("group", nargs="?")
    parser.add_argument("scratch", nargs="?", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.list:
        names = [module.name for module in pkgutil.iter_modules(groups.__path__)]
        print(json.dumps({name: [as_json(each) for each in group_named(name).benchmarks] for name in names}))
        return
    if args.group is None or args.scratch is None:
        parser.error("expected a group and a folder, or --list")
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for result in group_named(args.group).measure(Bench(args.scratch, args.quick)):
            print(json.dumps(as_json(result)), flush=True, file=answers)


if __name__ == "__main__":
    main()
