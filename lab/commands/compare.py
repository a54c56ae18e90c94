"""`nattlab compare`: what changed between two runs; a gate for CI."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from lab.commands.subcommands import Subcommands
from lab.report.comparison import GROUPS, Comparison, compare, fails, read
from lab.report.junit import JUnitError
from lab.report.results import ResultsError

_EPILOG = (
    "exit status: 0 nothing of what --fail-on names, 1 some of it, 2 misuse or a file that cannot be read"
)


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "compare",
        help="what changed between two runs: new failures, fixed, flaky",
        description="Compares two runs cell by cell: JUnit XML, results.json or folders of reports.",
        epilog=_EPILOG,
    )
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument(
        "--fail-on", default="new-failures", metavar="GROUP[,GROUP…]", type=_groups,
        help=f"groups that make the exit status 1, of {', '.join(GROUPS)}; none for never "
             "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_compare)


def _groups(text: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in text.split(",")) if text != "none" else ()
    for name in chosen:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"no group {name!r}; there are {', '.join(GROUPS)}, none")
    return chosen


def _compare(options: argparse.Namespace) -> int:
    try:
        old, new = read(options.old), read(options.new)
    except (JUnitError, ResultsError) as error:
        print(f"nattlab: {error}", file=sys.stderr)
        return 2
    found = compare(old, new)
    print(json.dumps(asdict(found), indent=1) if options.json else _text(found))
    return 1 if fails(found, options.fail_on) else 0


def _text(found: Comparison) -> str:
    lines = []
    for name, changes in found.groups():
        if changes:
            lines.append(f"{name.replace('-', ' ')} ({len(changes)}):")
            lines += [f"  {change}" for change in changes]
    counts = ", ".join(f"{len(changes)} {name.replace('-', ' ')}" for name, changes in found.groups())
    return "\n".join([*lines, f"{counts}, {found.unchanged} unchanged"])
