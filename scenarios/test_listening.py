"""Where a daemon listens."""

import ipaddress
import socket
from pathlib import Path

from lab.cell import Cell
from lab.peers.peer import IKE_PORT, IKEV1_MAIN, IKEV2, NAT_T_PORT
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import responders

OWN, ANY = "its own", "every"
BOTH_FAMILIES = frozenset({(4, ANY), (6, ANY)})
LISTENS = {
    "natt": {False: {(4, OWN)}, True: {(4, ANY)}},
    "strongswan": {False: BOTH_FAMILIES, True: BOTH_FAMILIES},
    "openiked": {False: BOTH_FAMILIES, True: BOTH_FAMILIES},
}
"""Families and addresses with a socket for each port, by whether the connection asks for a wildcard.

charon and iked answer at every address of the node, whatever a connection says.
"""


@scenario("FLT-27", pairs=responders(LISTENS), versions=(IKEV1_MAIN, IKEV2), features=("ike",))
def both_ports_have_a_listener_for_each_family(cell: Cell) -> None:
    own = cell.endpoint("right").address
    for wildcard, expected in LISTENS[cell.spec.right].items():
        cell.start("right", wildcard=wildcard)
        due = {
            (family, {OWN: own, ANY: ANY}[where], port)
            for family, where in expected
            for port in (IKE_PORT, NAT_T_PORT)
        }
        wait_until(
            lambda due=due: listeners(cell) == due,  # type: ignore[misc]
            lambda due=due: f"sockets {sorted(due)}; there are {sorted(listeners(cell))}",  # type: ignore[misc]
        )
        if not wildcard:
            cell.start("left", wildcard=False)
            cell.connect()
            cell.ping()
        cell.stop_peers()
        wait_until(lambda: not listeners(cell), "the sockets to go with the daemon")


def listeners(cell: Cell) -> set[tuple[int, str, int]]:
    """Family, address and port of each UDP socket of IKE on the right node (proc_net_udp(5))."""
    found = set()
    with cell.endpoint("right").node.entered():
        for name, family in (("udp", 4), ("udp6", 6)):
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
                address, port = line.split()[1].split(":")
                found.add((family, spoken(address), int(port, 16)))
    return {item for item in found if item[2] in (IKE_PORT, NAT_T_PORT)}


def spoken(octets: str) -> str:
    """An address of /proc/net/udp, words in the host's order; ANY for the wildcard."""
    words = [int(octets[start : start + 8], 16) for start in range(0, len(octets), 8)]
    address = ipaddress.ip_address(b"".join(socket.htonl(word).to_bytes(4, "big") for word in words))
    return ANY if address.is_unspecified else str(address)
