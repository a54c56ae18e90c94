"""Inner addresses from the responder's pool (RFC 7296 section 2.19)."""

import ipaddress

from lab.capture.expect import expect
from lab.cell import Cell
from lab.net.rules import nat_rules
from lab.peers.peer import FORCE, IKEV2, KERNEL, NAT_T_PORT
from lab.peers.traffic import ping
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.mapping import nat, outside

SAME = (("natt", "natt"), ("strongswan", "strongswan"))
POOL = "10.30.0.0/28"
KEEPS_LEASE = {"natt": False, "strongswan": False}
"""Whether a client that comes back without INITIAL_CONTACT gets the lease that its old SA still has."""


@scenario("MUL-17", topologies=("two_clients", "clients-4"), versions=(IKEV2,), features=("ike",), pool=POOL)
def addresses_of_a_pool_are_unique(cell: Cell) -> None:
    cell.up_all()
    expect_own_leases(cell)


def expect_own_leases(cell: Cell) -> None:
    """Every client has an address of the pool for itself, and what is sent to it comes to it alone."""
    leases = {name: cell.peer(name).lease for name in cell.clients}
    assert len(set(leases.values())) == len(leases), leases
    assert all(ipaddress.ip_address(lease) in ipaddress.ip_network(POOL) for lease in leases.values()), leases
    for name in cell.clients:
        cell.ping(side=name)
        last = cell.seen[-1]
        cell.ping_back(side=name)
        others = {cell.endpoint(other).address for other in cell.clients if other != name}
        expect(cell.seen.after(last).esp_in_udp.to(*others)).none()
        expect(cell.seen.after(last).esp_in_udp.to(cell.endpoint(name).address)).some()
    expect(cell.seen.native_esp).none()


@scenario("MUL-09", topologies=("two_clients@symmetric",), versions=(IKEV2,), features=("ike",), pool=POOL)
def two_clients_with_one_secret(cell: Cell) -> None:
    cell.up_all()
    expect_own_leases(cell)
    # Nothing but the port tells the server whose IKE this is: one address, one secret.
    right = cell.endpoint("right").address
    floated = cell.seen.on("wan").marked_ike.to(right)
    assert len({packet.src for packet in floated}) == 1
    assert len({packet.sport for packet in floated}) == len(cell.clients)
    assert len(cell.right.inbound_spis()) == len(cell.clients)


@scenario("MUL-03", topologies=("equal_clients",), versions=(IKEV2,), features=("ike",), pairs=SAME)
def equal_inner_addresses_need_a_lease(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping()
    cell.peer("left2").connect()
    cell.ping(side="left2")
    # One selector, two SAs: what goes back to both goes to the one that came last.
    last = cell.seen[-1]
    cell.ping_back(side="left2")
    expect(cell.seen.on("lan").after(last).esp_in_udp).none()
    cell.stop_peers()
    cell.start("right", *cell.clients, pool=POOL)
    for name in cell.clients:
        cell.peer(name).connect()
    expect(cell.seen.native_esp).none()
    leases = [cell.peer(name).lease for name in cell.clients]
    assert len(set(leases)) == 2
    for name in (*cell.clients, *cell.clients):
        cell.ping(side=name)
        cell.ping_back(side=name)


@scenario("MUL-19", versions=(IKEV2,), features=("ike",), pool=POOL, encapsulation=FORCE)
def the_nat_itself_is_a_client(cell: Cell) -> None:
    address, right = cell.endpoint("right").remote, cell.endpoint("right")
    for first, second in (("nat", "left"), ("left", "nat")):
        cell.start("right", "left")
        cell.start_on("nat", address)
        if cell.peer("nat").engine == KERNEL:
            nat(cell).load(sparing_ipsec(nat_rules(nat(cell).config)))
        for name in (first, second):
            cell.peer(name).connect()
        ways = {"left": cell.endpoint("left").node, "nat": cell.network.nodes["nat"]}
        last = cell.seen[-1]
        for name in (first, second, first):
            ping(ways[name], cell.peer(name).lease, right.inner)
            ping(right.node, right.inner, cell.peer(name).lease)
        sent = cell.seen.after(last).esp_in_udp.to(right.address)
        forwarded = {packet.payload for packet in sent.on("lan")}
        ports = {
            name: {p.sport for p in sent.on("wan") if (p.payload in forwarded) is (name == "left")}
            for name in ways
        }
        assert ports[first] == {NAT_T_PORT}
        assert len(ports[second]) == 1
        assert NAT_T_PORT not in ports[second]
        expect(cell.seen.native_esp).none()
        cell.stop_peers()
        nat(cell).forget()


def sparing_ipsec(rules: str) -> str:
    """Rules of a NAT that neither translate what its kernel will encrypt nor filter what it decrypted."""
    lines = []
    for line in rules.splitlines():
        for chain, way in (("POSTROUTING", "out"), ("INPUT", "in")):
            exempt = f"-A {chain} -m policy --dir {way} --pol ipsec -j ACCEPT"
            if line.startswith(f"-A {chain} ") and exempt not in lines:
                lines.append(exempt)
        lines.append(line)
    return "\n".join([*lines, ""])


@scenario("REB-14", topologies=("one_nat@symmetric",), versions=(IKEV2,), features=("ike",), pool=POOL)
def a_client_comes_back_from_a_new_port(cell: Cell) -> None:
    cell.up()
    cell.ping()
    for says_so in (True, False):
        old, port, lease = cell.right.inbound_spis(), outside(cell)[1], cell.left.lease
        cell.left.kill()
        nat(cell).forget()
        cell.restart("left", initial_contact=says_so)
        cell.left.connect()
        cell.ping()
        cell.ping_back()
        assert outside(cell)[1] != port
        new = cell.left.lease
        if says_so:
            wait_until(lambda old=old: not cell.right.inbound_spis() & old, "the old SA to go")  # type: ignore[misc]
            assert new == lease
            assert len(cell.right.inbound_spis()) == 1
        else:
            assert old < cell.right.inbound_spis()
            assert len(cell.right.inbound_spis()) == 2
            assert (new == lease) is KEEPS_LEASE[cell.spec.right]
