"""`nattlab diff`: two runs, or two bundles, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lab.commands.subcommands import Subcommands
from lab.report.contrast import Contrast, contrasts
from lab.report.environment import differences
from lab.report.source import Source


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "diff",
        help="two runs or bundles: environment, verdicts, timing, shape of the sequences",
        description="Compares folders of reports, results.json and bundles, in any combination.",
        epilog="exit status: 0 the same verdicts and sequences, 1 others, 2 misuse or none of these files",
    )
    parser.add_argument("old", type=Path, metavar="A")
    parser.add_argument("new", type=Path, metavar="B")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=_diff)


def _diff(options: argparse.Namespace) -> int:
    old, new = Source(options.old), Source(options.new)
    found = contrasts(old.run, new.run, old.shape, new.shape)
    other = differences(old.run, new.run)
    names = {result.cell for result in old.run.results}, {result.cell for result in new.run.results}
    only_old, only_new = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    told = [each for each in found if not each.is_same or each.timing]
    if options.json:
        plain = {"environment": other, "only_in_a": only_old, "only_in_b": only_new}
        print(json.dumps({**plain, "cells": [_plain(each) for each in told]}, indent=1))
    else:
        lines = [f"environment: {line}" for line in other]
        lines += [line for each in told for line in each.lines()]
        lines += [f"only in {options.old}: {cell}" for cell in only_old]
        lines += [f"only in {options.new}: {cell}" for cell in only_new]
        same = sum(each.is_same for each in found)
        print("\n".join([*lines, f"{same} of {len(found)} cells of both came to the same in the same way"]))
    return 1 if only_old or only_new or not all(each.is_same for each in found) else 0


def _plain(contrast: Contrast) -> dict[str, Any]:
    where = contrast.where
    return {
        "cell": contrast.cell,
        "verdicts": [contrast.old.verdict.value, contrast.new.verdict.value],
        "seconds": [contrast.old.seconds, contrast.new.seconds],
        "reason": contrast.new.reason or contrast.old.reason,
        "sequences_part_at": where.index if where is not None else None,
        "then": list(where.then) if where is not None else [],
        "now": list(where.now) if where is not None else [],
    }
