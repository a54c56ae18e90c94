"""From what a cell is called to a cell that runs: network, self-proof, capture; and down again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from lab.capture.recorder import CapturePoint, Recorder
from lab.capture.seen import Ports
from lab.cell import Cell, needs_of
from lab.net import topology_file
from lab.net.errors import EngineError
from lab.nodes.network import Network
from lab.nodes.places import EVERYTHING_HERE, Places
from lab.nodes.proof import prove
from lab.peers.peer import IKE_PORT, NAT_T_PORT, UnsupportedError
from lab.peers.registry import PEERS, driver
from lab.probe import UnavailableError, require
from lab.scenario import CellSpec

BASE_NEEDS = ("root", "netns", "pidns")


@contextlib.contextmanager
def opened(spec: CellSpec, scratch: Path, seed: int = 0, places: Places = EVERYTHING_HERE) -> Iterator[Cell]:
    """Build the cell's network, let it prove itself, capture on every link; take all of it down after.

    `seed` is that of Cell.random; `places` says which nodes are containers.

    Raises UnsupportedError, UnavailableError, BrokenLabError before anything of the scenario has run.
    """
    spec.check_support()
    connection = spec.make_connection()
    topology = topology_file.load(spec.topology)
    drivers = [driver(name, spec.version) for name in (spec.left, spec.right)]
    wanted = [need for each in drivers for need in needs_of(each, connection, places)]
    require(*BASE_NEEDS, *wanted, *spec.needs, *topology.needs)
    peers = topology.peers
    for side in set(places.containers(topology, spec.left, spec.right)).intersection(peers):
        chosen = driver(spec.peer_at(side), spec.version)
        if chosen.refuses_containers:
            raise UnsupportedError(chosen.name, f"a container: {chosen.refuses_containers}")
    own_device = [side for side in peers if PEERS[spec.peer_at(side)].owns_inner]
    with built(spec, scratch, own_device, seed, places) as cell:
        yield cell


@contextlib.contextmanager
def built(
    spec: CellSpec,
    scratch: Path,
    inner_left_to: Collection[str] = (),
    seed: int = 0,
    places: Places = EVERYTHING_HERE,
) -> Iterator[Cell]:
    """The same whatever the peers support; those named put their inner addresses on devices of their own.

    Raises UnavailableError, BrokenLabError, NetworkError, TopologyError.
    """
    connection = spec.make_connection()
    topology = topology_file.load(spec.topology)
    require(*BASE_NEEDS, *topology.needs)
    containers = places.containers(topology, spec.left, spec.right)
    try:
        network = Network.build(topology, scratch, inner_left_to=inner_left_to, containers=containers)
    except EngineError as error:
        raise UnavailableError("container", str(error)) from error
    with network:
        prove(network)
        network.impair_as_declared()
        points = [CapturePoint(p.link, p.interface, p.namespace) for p in network.capture_points()]
        ports = Ports(ike=(IKE_PORT,), nat_t=(NAT_T_PORT, connection.nat_t_port))
        with contextlib.ExitStack() as held:
            watches = {nat.name: held.enter_context(contextlib.closing(nat.watch())) for nat in network.nats}
            recorder = held.enter_context(Recorder(points, ports, listeners=watches.values()))
            cell = Cell(spec, network, recorder, seed, watches, places)
            try:
                yield cell
            finally:
                cell.stop_peers()
