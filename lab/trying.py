"""How a cell is tried: here or in a guest, and once more if it went wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import guests
from lab.cell_item import GUESTS, ON_FAILURE, PLACES, CellItem
from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.peers.registry import PEERS
from lab.probe import UnavailableError
from lab.report.clock import utc
from lab.report.judgement import agree
from lab.scenario import CellSpec
from lab.standing.on_failure import Reports, in_child


def is_ours(item: pytest.Item) -> bool:
    """Whether run() runs an item: a cell, or whatever there is when all is to run in guests."""
    return isinstance(item, CellItem) or item.config.stash[GUESTS].runs_all


def run(item: pytest.Item, nextitem: pytest.Item | None) -> Reports:
    """Run an item where it can be run, and return its reports."""
    chosen = item.config.stash[GUESTS]
    if not isinstance(item, CellItem):
        return _in_guest(item)
    if chosen.runs_all:
        return _cell_in_guest(item, nextitem)
    reports = _here(item, nextitem)
    if item.lacking is not None and chosen.can_have(item.lacking.missing):
        return _where_possible(item, nextitem, item.lacking)
    return reports


def _in_guest(item: pytest.Item) -> Reports:
    """Run a test that is no cell in a guest."""
    try:
        return item.config.stash[GUESTS].run(item.nodeid)
    except (GuestDiedError, GuestError) as error:
        return [pytest.TestReport(item.nodeid, item.location, {}, "failed", str(error), "call")]


def _cell_in_guest(item: CellItem, nextitem: pytest.Item | None) -> Reports:
    """Run a cell in a guest, and tell it here when that came to nothing."""
    try:
        return item.config.stash[GUESTS].run(item.nodeid)
    except GuestError as error:
        item.instead = UnavailableError("guest", str(error))
    except GuestDiedError as error:
        item.instead = error
    return _here(item, nextitem)


def _where_possible(item: CellItem, nextitem: pytest.Item | None, lacking: UnavailableError) -> Reports:
    """Run a cell in a guest that may have what this host lacks; the reason says why one has not."""

    def cells() -> Iterator[CellSpec]:
        return (other.spec for other in item.session.items if isinstance(other, CellItem))

    if item.config.stash[GUESTS].is_left_out(item.spec, cells):
        item.instead = guests.unavailable(lacking, "a guest may have it: name this cell to run it there")
        return _here(item, nextitem)
    reports = _cell_in_guest(item, nextitem)
    if isinstance(item.instead, UnavailableError):
        item.instead = guests.unavailable(lacking, item.instead.reason)
        reports = _here(item, nextitem)
    return reports


def _here(item: CellItem, nextitem: pytest.Item | None) -> Reports:
    """Run a cell; try one that went wrong a second time, so that a flake is told from a failure."""
    if item.instead is not None:
        item.trial.attempts.clear()
    item.tell(started=utc(time.time()))
    reports = _attempt(item, nextitem)
    is_tried_once = item.config.getoption("--no-retry") or item.config.stash[ON_FAILURE].is_wanted
    if item.trial.current.verdict.is_bad and not is_tried_once and item.instead is None:
        reports = _attempt(item, nextitem)
    result = item.trial.result()
    path, line = item.reportinfo()[:2]
    agree(reports, result, (str(path), (line or 0) + 1))
    places = item.config.stash[PLACES]
    properties: list[tuple[str, object]] = [
        *result.as_properties(),
        ("left_release", places.images.get(item.spec.left) or PEERS[item.spec.left].release()),
        ("right_release", places.images.get(item.spec.right) or PEERS[item.spec.right].release()),
    ]
    for report in reports:
        report.user_properties = properties
    return reports


def _attempt(item: CellItem, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    item.has_crashed, item.lacking = False, None
    item.trial.begin()
    is_kept = item.config.stash[ON_FAILURE].keeps
    reports = in_child(item, lambda send: item.run(None, send)) if is_kept else item.run(nextitem)
    item.trial.finish(item.spec.known_failure, item.has_crashed)
    return reports
