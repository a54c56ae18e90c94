"""Which flows of NAT traversal survive which kind of NAT, found by trying; writes docs/nat-survival.md.

python tests/bench/nat_survival.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from lab.building import opened
from lab.cell import Cell
from lab.net.behaviour import PRESETS
from lab.peers.peer import IKEV2, NAT_T_PORT
from lab.peers.registry import PEERS
from lab.peers.traffic import TrafficError
from lab.probe import kernel
from lab.scenario import CellSpec, Scenario
from lab.wait import DeadlineExceededError, wait_until
from scenarios.inner import came_before_now, inner_sink
from scenarios.mapping import OTHER_ADDRESS, let_in, nat, outside, sent_back

YES, NO = "yes", "–"
LARGE = 1472
"""Octets of an echo whose ESP in UDP does not fit into one packet of 1500."""


def comes_up(cell: Cell, side: str = "left") -> bool:
    """Whether this initiator gets a tunnel that carries an echo both ways."""
    peer = cell.peer(side)
    peer.begin()  # type: ignore[attr-defined]
    return (
        holds(lambda: wait_until(peer.inbound_spis, f"an SA at {side}", 10))
        and holds(lambda: cell.ping(side=side, deadline=3))
        and holds(lambda: cell.ping_back(side=side, deadline=3))
    )


def holds(step: Callable[[], object]) -> bool:
    """Whether a step comes to its end."""
    try:
        step()
    except (DeadlineExceededError, TrafficError):
        return False
    return True


def carries_large_echo(cell: Cell) -> bool:
    """Whether an echo passes that no single packet of ESP in UDP can hold."""
    return holds(lambda: cell.ping(size=LARGE, deadline=3))


def carries_fragments(cell: Cell) -> bool:
    """Whether a large datagram to 4500 passes in IP fragments, as large IKE messages come."""
    end = cell.endpoint("left")
    with end.node.socket() as sock:
        sock.bind((end.address, 0))
        sock.sendto(bytes(2 * LARGE), (end.remote, NAT_T_PORT))
    cell.ping()
    assert cell.seen.on("lan").fragments
    return bool(cell.seen.on("wan").fragments)


def server_is_first(cell: Cell) -> bool:
    """Whether the server's packet gets in after the NAT lost its mappings."""
    nat(cell).forget()
    last = cell.seen[-1]
    sent_back(cell)
    # Whatever the NAT makes of the second, it has made up its mind about the first.
    sent_back(cell)
    return bool(cell.seen.on("lan").after(last).esp_in_udp)


def keeps_its_port(cell: Cell) -> bool:
    """Whether the client's next packet has its old outside port after the NAT lost its mappings."""
    before = outside(cell)
    nat(cell).forget()
    with inner_sink(cell) as sink:
        came_before_now(cell, sink)
    return outside(cell) == before


ONE_CLIENT: dict[str, Callable[[Cell], bool]] = {
    "tunnel in UDP": comes_up,
    "full-size echo": carries_large_echo,
    "IP fragments": carries_fragments,
    "from another port": let_in,
    "from another address": lambda cell: let_in(cell, OTHER_ADDRESS),
    "server first after a reboot": server_is_first,
    "client's port after a reboot": keeps_its_port,
}
SECOND = "second client"


@contextmanager
def cell_on(topology: str, peer: str) -> Iterator[Cell]:
    """A cell of no scenario in particular, with this peer at every end."""
    free = Scenario("TOP-09", (topology,), (IKEV2,), frozenset(), (), connection={"mobike": False})
    with (
        TemporaryDirectory(prefix="survival-nattlab-") as folder,
        opened(CellSpec(free, peer, peer, topology, IKEV2), Path(folder)) as cell,
    ):
        yield cell


def row(preset: str, peer: str) -> list[str]:
    """What came of each flow between two ends of this peer."""
    with cell_on(f"one_nat@{preset}", peer) as cell:
        cell.start()
        flows = iter(ONE_CLIENT.values())
        found = [YES if next(flows)(cell) else NO]
        # Without a tunnel there is nothing to try the others with.
        found += [YES if found[0] == YES and flow(cell) else NO for flow in flows]
    if preset == "static_one_to_one":
        return [*found, "n/a"]
    with cell_on(f"two_clients@{preset}", peer) as cell:
        cell.start("right", *cell.clients)
        is_alone = comes_up(cell)
        both = comes_up(cell, "left2") and holds(lambda: cell.ping(deadline=3))
    return [*found, YES if is_alone and both else NO]


def main() -> int:
    """Try them all and write the table."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs" / "nat-survival.md"
    heads = ["NAT", "peers", *ONE_CLIENT, SECOND]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for preset, behaviour in PRESETS.items():
        for peer in PEERS:
            cells = [f"{preset}: {', '.join(behaviour.words())}", peer, *row(preset, peer)]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    releases = ", ".join(peer.release() for peer in PEERS.values())
    file.parent.mkdir(exist_ok=True)
    file.write_text(TEXT.format(kernel=kernel(), releases=releases, table="\n".join(lines)))
    return 0


TEXT = """# Which flows survive which NAT

Written by `python tests/bench/nat_survival.py` from what came of trying, with IKEv2 without MOBIKE and the
initiator behind one NAT; {kernel}, {releases}.

- tunnel in UDP: IKE floats to 4500, an echo passes each way
- full-size echo: 1472 octets in the tunnel, which needs no IP fragments outside (see no_fragments)
- IP fragments: a datagram of 2944 octets to 4500, as large IKE messages are
- from another port, another address: a datagram of a stranger to the mapping (RFC 4787 section 5)
- server first after a reboot: its ESP gets in though the NAT has lost its mappings
- client's port after a reboot: the next packet has the same outside port, so that nobody has to follow
- second client: it comes up beside the first, which goes on

{table}
"""

if __name__ == "__main__":
    sys.exit(main())
