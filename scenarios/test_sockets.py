"""The socket option: natt's flag beside UDP_ENCAP of the running kernel."""

import platform
import re
import sys
from typing import Any

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.marked_socket import ESPINUDP, ESPINUDP_NON_IKE, NOT_ENCAPSULATED, UDP_ENCAP, MarkedSocket
from lab.peers.natt import UNPRIVILEGED
from lab.peers.peer import IKEV2, MANUAL, PeerError
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.demultiplexing import (
    IKE_HEADER,
    KERNEL_PORT,
    NON_ESP_MARKER,
    NON_IKE_ROWS,
    PEER_PORT,
    agree,
    send,
    through_natt_and_kernel,
)
from scenarios.expected import without
from scenarios.forging import SUITE, esp_by_hand
from scenarios.reckoning import Reckoning

SOCKETS: dict[str, Any] = {
    "versions": (MANUAL,),
    "needs": ("UDP_ENCAP",),
    "pairs": without("kernel"),
}
UNKNOWN = bytes.fromhex("c0ffee01") + bytes(36)
"""ESP of an SPI that nobody has."""
MARKED = NON_ESP_MARKER + IKE_HEADER
FENCE = NON_ESP_MARKER + b"fence"


def kernel_delivers(cell: Cell, kernel: MarkedSocket, *datagrams: bytes) -> list[bytes]:
    """What this kernel hands to the reader of `kernel` of `datagrams` sent to it through the NAT."""
    send(cell, kernel.address[1], *datagrams, FENCE)
    return kernel.delivered_until(FENCE)


def encap_of_natt(cell: Cell) -> str:
    """The flag of natt's ESP socket on the right, as it tells it."""
    listed = {entry["socket"]: entry["encap"] for entry in cell.right.control.ask("sockets")["sockets"]}
    return str(listed[cell.right.socket_name])


@scenario("SOC-01", **SOCKETS)
def option_reads_back(cell: Cell) -> None:
    cell.start("right")
    right = cell.endpoint("right")
    with MarkedSocket(right.node, right.address, KERNEL_PORT) as kernel:
        for value, word in ((ESPINUDP, "espinudp"), (NOT_ENCAPSULATED, "none"), (ESPINUDP, "espinudp")):
            kernel.encap = value
            cell.right.control.ask("set-encap", socket=cell.right.socket_name, encap=word)
            assert (kernel.encap, encap_of_natt(cell)) == (value, word)


@scenario("SOC-02", **SOCKETS, esp=SUITE)
def non_ike_option_is_gone_from_the_kernel_and_not_from_natt(cell: Cell) -> None:
    cell.start("right")
    right = cell.endpoint("right")
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    with MarkedSocket(right.node, right.address, KERNEL_PORT) as kernel:
        if release >= (6, 10):
            with pytest.raises(OSError, match="Protocol not available"):
                kernel.encap = ESPINUDP_NON_IKE
            assert kernel.encap == NOT_ENCAPSULATED
        else:
            kernel.encap = ESPINUDP_NON_IKE
            delivered = [datagram for datagram, is_for_ike in NON_IKE_ROWS.items() if is_for_ike]
            assert kernel_delivers(cell, kernel, *NON_IKE_ROWS) == delivered
    name = cell.right.socket_name
    cell.right.control.ask("set-encap", socket=name, encap="espinudp-non-ike")
    assert encap_of_natt(cell) == "espinudp-non-ike"
    watching = cell.right.watch()
    send(cell, PEER_PORT, *NON_IKE_ROWS, FENCE)
    events = watching.events_until(lambda event: event.get("payload") == FENCE.hex())[:-1]
    watching.close()
    rows = [event["event"] == "delivered" for event in events]
    assert dict(zip(NON_IKE_ROWS, rows, strict=True)) == NON_IKE_ROWS
    with Reckoning(cell.right) as reckoning:
        send(cell, PEER_PORT, bytes(8) + UNKNOWN, bytes(8) + esp_by_hand(cell, 1, bytes(20)), IKE_HEADER)
    reckoning.expect(XfrmInNoStates=1, XfrmInStateMismatch=1, NattInToSocket=1)
    with pytest.raises(PeerError, match="'l2tpinudp' is none of none, espinudp-non-ike, espinudp"):
        cell.right.control.ask("set-encap", socket=name, encap="l2tpinudp")


@scenario("SOC-04", **SOCKETS)
def option_takes_effect_at_once(cell: Cell) -> None:
    cell.start("right")
    right = cell.endpoint("right")
    with (
        MarkedSocket(right.node, right.address, KERNEL_PORT + 1, ESPINUDP) as before_bind,
        MarkedSocket(right.node, right.address, KERNEL_PORT + 2) as after_bind,
        MarkedSocket(right.node, right.address, KERNEL_PORT + 3) as after_traffic,
    ):
        after_bind.encap = ESPINUDP
        assert kernel_delivers(cell, before_bind, UNKNOWN) == []
        assert kernel_delivers(cell, after_bind, UNKNOWN) == []
        assert kernel_delivers(cell, after_traffic, UNKNOWN) == [UNKNOWN]
        after_traffic.encap = ESPINUDP
        assert kernel_delivers(cell, after_traffic, UNKNOWN) == []
        for kernel in (before_bind, after_bind, after_traffic):
            kernel.encap = NOT_ENCAPSULATED
            assert kernel_delivers(cell, kernel, UNKNOWN) == [UNKNOWN]
    assert encap_of_natt(cell) == "espinudp", "set before the bind, by configuration"
    for marked in (True, False, True):
        agree(cell, UNKNOWN, delivered=not marked, marked=marked)


@scenario("SOC-05", **SOCKETS)
def of_two_sockets_the_flow_chooses(cell: Cell) -> None:
    cell.start("right")
    left, right = cell.endpoint("left"), cell.endpoint("right")
    with pytest.raises(OSError, match="Address already in use"):
        MarkedSocket(right.node, right.address, PEER_PORT, ESPINUDP, shared=True)
    flows = range(41000, 41024)
    with (
        MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP, shared=True) as marked,
        MarkedSocket(right.node, right.address, KERNEL_PORT, shared=True) as plain,
    ):
        for flow in flows:
            with left.node.socket() as sock:
                sock.bind((left.address, flow))
                for payload in (UNKNOWN + b"%d" % flow, FENCE + b"%d" % flow):
                    sock.sendto(payload, (left.remote, KERNEL_PORT))
        got: dict[MarkedSocket, list[bytes]] = {marked: [], plain: []}

        def fences() -> dict[MarkedSocket, set[int]]:
            for sock, payloads in got.items():
                payloads += sock.waiting()
            return {sock: _flows(FENCE, payloads) for sock, payloads in got.items()}

        wait_until(lambda: sum(map(len, fences().values())) == len(flows), lambda: f"all fences; got {got}")
        chosen = fences()
    assert chosen[marked], "the flow's hash never chose the marked socket"
    assert chosen[plain], "the flow's hash never chose the plain socket"
    assert _flows(UNKNOWN, got[marked]) == set()
    assert _flows(UNKNOWN, got[plain]) == chosen[plain]


def _flows(beginning: bytes, payloads: list[bytes]) -> set[int]:
    return {int(payload.removeprefix(beginning)) for payload in payloads if payload.startswith(beginning)}


@scenario("SOC-06", **SOCKETS)
def esp_is_taken_at_the_bound_address_only(cell: Cell) -> None:
    cell.start("right")
    right, other = cell.endpoint("right"), "203.0.113.3"
    right.node.run(["ip", "address", "add", f"{other}/24", "dev", "wan"]).check()
    with (
        MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP) as own,
        MarkedSocket(right.node, "127.0.0.1", KERNEL_PORT + 1, ESPINUDP),
    ):
        with Reckoning(cell.right) as reckoning:
            send(cell, PEER_PORT, UNKNOWN)
            send(cell, PEER_PORT, UNKNOWN, to=other)
            _unreachable(cell, other)
        reckoning.expect(XfrmInNoStates=1)
        # IKE asks the kernel, because without its ESP it answers unknown SPIs with ICMP errors, too.
        send(cell, KERNEL_PORT, MARKED, to=other)
        send(cell, KERNEL_PORT + 1, MARKED)
        assert kernel_delivers(cell, own, MARKED) == [MARKED]
        _unreachable(cell, other, other, right.address)
        assert kernel_delivers(cell, own, UNKNOWN) == []
    cell.restart("right", wildcard=True)
    with (
        MarkedSocket(right.node, "0.0.0.0", KERNEL_PORT, ESPINUDP) as anywhere,
        Reckoning(cell.right) as reckoning,
    ):
        for port in (PEER_PORT, KERNEL_PORT):
            send(cell, port, UNKNOWN, to=other)
        send(cell, PEER_PORT, UNKNOWN)
        assert kernel_delivers(cell, anywhere, UNKNOWN) == []
        reckoning.expect(XfrmInNoStates=2)


def _unreachable(cell: Cell, *senders: str) -> None:
    """Wait for ICMP port unreachable on wan from just these addresses, in this order."""
    cell.until(lambda seen: len(seen.on("wan").icmp) >= len(senders), f"{len(senders)} ICMP errors")
    errors = cell.seen.on("wan").icmp
    expect(errors).exactly(len(senders)).each_field(icmp_type=3, icmp_code=3)
    assert [packet.src for packet in errors] == list(senders)


SET_AND_READ = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    f"s.setsockopt(17, {UDP_ENCAP}, {ESPINUDP}); print(s.getsockopt(17, {UDP_ENCAP}))"
)
KERNEL_SA = (
    "ip xfrm state add src 10.255.255.2 dst 10.255.255.1 proto esp spi 0x1000 mode tunnel"
    " aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128"
)


@scenario("SOC-07", **SOCKETS)
def option_needs_no_privilege_and_the_sa_does(cell: Cell) -> None:
    node = cell.endpoint("right").node
    assert node.run([*UNPRIVILEGED, sys.executable, "-c", SET_AND_READ]).check().stdout.strip() == "2"
    refused = node.run([*UNPRIVILEGED, *KERNEL_SA.split()])
    assert refused.returncode != 0
    assert "Operation not permitted" in refused.stderr
    cell.start("right", privileged=False, child=False)
    outcome = through_natt_and_kernel(cell, UNKNOWN, b"\xff", MARKED)
    assert outcome.kinds() == ["dropped", "keepalive", "delivered"]
    cell.right.stop()
    with pytest.raises(PeerError, match=r"nattd: \[tunnel\]: device natt0: Operation not permitted"):
        cell.start("right", child=True)


@scenario("SOC-08", **SOCKETS, esp=SUITE)
def closed_socket_is_unreachable_and_its_sa_stays(cell: Cell) -> None:
    cell.start("right")
    right = cell.endpoint("right")
    with MarkedSocket(right.node, right.address, KERNEL_PORT, ESPINUDP) as kernel:
        assert kernel_delivers(cell, kernel, MARKED) == [MARKED]
    cell.right.control.ask("close-socket", socket=cell.right.socket_name)
    send(cell, KERNEL_PORT, UNKNOWN)
    send(cell, PEER_PORT, esp_by_hand(cell, 1, bytes(20)))
    _unreachable(cell, right.address, right.address)
    sas = {entry["spi"]: entry["packets"] for entry in cell.right.sas()}
    assert sas == dict.fromkeys(sas, 0)
    assert cell.right.inbound_spi() in sas
    assert cell.right.is_alive()


IN_USE = {
    "natt": r"nattd: \[\[socket\]\] \d: 203\.0\.113\.2:4500: Address already in use",
    "strongswan": r"unable to bind socket: Address already in use\n.*could not open IPv4 NAT-T socket",
    "libreswan": r"Address already in use",
    "openiked": r"udp_bind: failed to bind UDP socket: Address already in use",
    "openiked+natt": r"udp_bind: failed to bind UDP socket: Address already in use",
}
"""natt ends with these words; charon and iked log them and go on without NAT traversal."""


@scenario("SOC-12", pairs=without("kernel"), versions=(MANUAL, IKEV2))
def second_daemon_says_that_the_port_is_taken(cell: Cell) -> None:
    right, words = cell.endpoint("right"), IN_USE[cell.spec.right]
    with MarkedSocket(right.node, "0.0.0.0", PEER_PORT) as first:
        if cell.spec.right == "natt":
            with pytest.raises(PeerError, match=words):
                cell.start("right")
        else:
            cell.start("right")
            said = "\n".join(path.read_text() for path in cell.right.logs())
            assert re.search(words, said), said
        assert kernel_delivers(cell, first, MARKED, UNKNOWN) == [MARKED, UNKNOWN]
    expect(cell.seen.on("wan").sent_by(right.address).udp).none()
    expect(cell.seen.on("wan").sent_by(right.address).ike).none()
