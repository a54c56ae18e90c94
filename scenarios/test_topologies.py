"""Controls: the networks are what they claim, and without a NAT nothing of NAT traversal shows."""

from socket import IPPROTO_TCP

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers import traffic
from lab.peers.peer import IKEV2, MANUAL
from lab.scenario import scenario


@scenario("TOP-01", topologies=("direct",), encapsulation="off")
def control_without_nat(cell: Cell) -> None:
    cell.up()
    cell.ping(3)
    cell.ping_back(3)
    expect(cell.seen.native_esp).at_least(6).sequence_numbers_count_from(1)
    expect(cell.seen.esp_in_udp).none()
    expect(cell.seen.keepalives).none()


@scenario("TOP-02", versions=(MANUAL, IKEV2))
def nat_translates_before_ipsec(cell: Cell) -> None:
    left, right = cell.endpoint("left"), cell.endpoint("right")
    nat_address = str(cell.topology.seen_as("left", "right"))
    traffic.ping(left.node, left.address, right.address)
    traffic.transfer(left.node, left.address, right.node, right.address)
    expect(cell.seen.on("wan").tcp.to(right.address)).each_field(src=nat_address)
    expect(cell.seen.on("lan").tcp.to(right.address)).each_field(src=left.address)
    expect(cell.seen.on("wan").icmp.to(right.address)).each_field(src=nat_address)
    entries = cell.network.nat("nat").conntrack()
    mapped = [e for e in entries if e.protocol == IPPROTO_TCP and str(e.original.target) == right.address]
    assert [str(entry.reply.target) for entry in mapped] == [nat_address], entries
