"""Keeping a lab: the process that holds its namespaces, programs, capture and peers until it is told to end.

`python -m lab.standing.keeper` makes one from a request on its standard input and tells how far it is on its
standard output, a JSON object a line: `step`, then `up` with what came of it, or `error` with `status`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.building import BASE_NEEDS, built, opened
from lab.capture.account import looks_wrong
from lab.cell import Cell
from lab.net import scratch, topology_file
from lab.net.errors import NetworkError
from lab.net.keeper import die_with_parent, outlive_parent
from lab.net.model import TopologyError
from lab.nodes.proof import BrokenLabError
from lab.peers.peer import UnsupportedError
from lab.peers.registry import PEERS
from lab.probe import UnavailableError, require
from lab.scenario import CellSpec, Scenario, ScenarioError
from lab.standing.registry import LOG, SOCKET, Claim, LabError, Record
from lab.standing.request import Request
from lab.standing.server import Server
from lab.standing.service import Service
from lab.standing.ways import ways

MISUSE, CANNOT, FAILED = 2, 3, 1
KEPT_FRAMES = 200_000
"""Frames a lab remembers; a lab may stand for days."""


@contextmanager
def listed(cell: Cell, claim: Claim, *, left: str, right: str, of_cell: str = "") -> Iterator[Service]:
    """Put a running lab on the list and answer requests for the block; then it is off the list."""
    record = Record(
        name=claim.name,
        topology=cell.spec.topology,
        left=left,
        right=right,
        version=cell.version,
        cell=of_cell,
        since=time.time(),
        nodes=tuple(node.name for node in cell.topology.nodes),
        nats=cell.topology.nats,
    )
    service = Service(cell, record)
    with Server(claim.folder / SOCKET, service):
        nodes = cell.network.nodes
        claim.publish(record, {name: nodes[name].namespace_path for name in record.nodes})
        try:
            yield service
        finally:
            claim.release()


def end_when_told(service: Service) -> None:
    """Return once somebody asks the lab to go down, or this process to end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: service.ended.set())
    service.ended.wait()


def let_go(log: Path, *descriptors: int) -> None:
    """Hold somebody's terminal or pipes no more; what is still said there goes to `log`."""
    # Also read from: a descriptor 0 that cannot be written to is nothing to care about.
    sink = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for descriptor in descriptors:
        os.dup2(sink, descriptor)
    os.close(sink)


def _spec(request: Request) -> CellSpec:
    """The cell a request comes to; where there is no peer, a name stands in that nobody starts."""
    scenario = Scenario(
        "up", (request.topology,), (request.version,), frozenset(), (), connection=request.connection
    )
    anyone = next(iter(PEERS))
    return CellSpec(
        scenario, request.left or anyone, request.right or anyone, request.topology, request.version
    )


def _connect(cell: Cell, request: Request) -> dict[str, Any]:
    """Start the peers asked for and connect them if there are two; what came of it."""
    sides = [side for side, peer in (("right", request.right), ("left", request.left)) if peer]
    try:
        cell.start(*sides)
        if len(sides) == 2:
            cell.connect()
            if cell.connection.child:
                cell.ping()
    except AssertionError as error:
        seen = cell.seen
        return {"failure": str(error), "ways": ways(seen), "findings": looks_wrong(seen)}
    return {"ways": ways(cell.seen), "connected": len(sides) == 2}


def _keep(request: Request) -> None:
    require(*BASE_NEEDS)
    if request.left or request.right:
        _spec(request).check_support()
    folder = scratch.directory(request.topology.partition("@")[0])
    topology = topology_file.load(request.topology)
    nodes = [node.name for node in topology.nodes]
    wanted = request.name or request.topology.partition("@")[0]
    claim = Claim.take(wanted, nodes, scratch.process_directory(), numbered=not request.name)
    try:
        # What it starts would hold them, too, and whoever waits for their end would wait for the lab's.
        log = claim.folder / LOG
        let_go(log, 0, 2)
        _tell(step=f"lab {claim.name}: building {request.topology}, which then proves itself")
        has_peers = bool(request.left or request.right)
        with opened(_spec(request), folder) if has_peers else built(_spec(request), folder) as cell:
            cell.recorder.keep_last(KEPT_FRAMES)
            with listed(cell, claim, left=request.left, right=request.right) as service:
                if has_peers:
                    _tell(step=f"starting {' and '.join(filter(None, (request.left, request.right)))}")
                outcome = _connect(cell, request) if has_peers else {}
                outlive_parent()
                _tell(up=claim.name, **outcome)
                let_go(log, 1)
                end_when_told(service)
    finally:
        claim.release()
        shutil.rmtree(folder, ignore_errors=True)


def _tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


_STATUS: dict[type[Exception], int] = {
    LabError: MISUSE,
    TopologyError: MISUSE,
    ScenarioError: MISUSE,
    UnsupportedError: MISUSE,
    UnavailableError: CANNOT,
    NetworkError: CANNOT,
    BrokenLabError: FAILED,
}


def main() -> int:
    """Make the lab that standard input asks for, and keep it."""
    die_with_parent()
    request = Request(**json.load(sys.stdin))
    try:
        _keep(request)
    except tuple(_STATUS) as error:
        _tell(error=str(error), status=_STATUS[type(error)])
        return _STATUS[type(error)]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        _tell(error=f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})", status=FAILED)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
