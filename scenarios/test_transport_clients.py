"""Transport mode through a NAT, where the server knows every client by the NAT's address."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.ike.association import Selector
from lab.peers.peer import FORCE, IKEV1_MAIN, IKEV2, TRANSPORT
from lab.peers.traffic import TrafficError
from lab.scenario import scenario

SAME = (("natt", "natt"), ("strongswan", "strongswan"))


@scenario("MUL-16", versions=(IKEV2,), features=("ike",), pairs=SAME, mode=TRANSPORT)
def the_server_has_the_nats_address_for_selector(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.transfer()
    left, right = cell.endpoint("left"), cell.endpoint("right")
    if cell.spec.right == "natt":
        (child,) = cell.right.manager.children
        assert child.remote == (Selector.of(right.remote),)
        assert child.local == (Selector.of(right.address),)
        assert child.inbound.original_source == left.address
    esp = cell.seen.on("wan").esp_in_udp
    expect(esp.sent_by(right.remote)).some().each_field(dst=right.address)
    expect(cell.seen.native_esp).none()


@scenario(
    "B34",
    topologies=("direct",),
    versions=(IKEV1_MAIN, IKEV2),
    features=("ike",),
    pairs=SAME,
    mode=TRANSPORT,
    encapsulation=FORCE,
)
def forced_encapsulation_changes_no_selectors(cell: Cell) -> None:
    cell.up()
    cell.ping()
    cell.ping_back()
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(4)
    expect(cell.seen.native_esp).none()


@scenario(
    "MUL-04", topologies=("two_clients",), versions=(IKEV2,), features=("ike",), pairs=SAME, mode=TRANSPORT
)
def the_second_captures_replies(cell: Cell) -> None:
    cell.start("right", *cell.clients)
    cell.connect()
    cell.ping()
    cell.peer("left2").connect()
    cell.ping(side="left2")
    last = cell.seen[-1]
    with pytest.raises(TrafficError):
        cell.ping(deadline=1)
    right = cell.endpoint("right").address
    answers = cell.seen.after(last).esp_in_udp.sent_by(right)
    expect(answers.on("lan1")).none()
    expect(answers.on("lan2")).some()


@scenario(
    "MUL-05",
    topologies=("two_clients",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    mode=TRANSPORT,
    bind_flows=True,
)
def marked_flows_live_side_by_side(cell: Cell) -> None:
    cell.up_all()
    with session(cell, "left", 40001) as first, session(cell, "left2", 40002) as second:
        for _ in range(2):
            for one, text in ((first, b"of the first"), (second, b"of the second")):
                one.sendall(text)
                assert one.recv(100) == text
    for name in cell.clients:
        cell.ping(side=name)
    right, answers = cell.endpoint("right").address, cell.seen.esp_in_udp
    for name, link in (("left", "lan1"), ("left2", "lan2")):
        spis = cell.peer(name).inbound_spis()
        expect(answers.on(link).sent_by(right)).at_least(4).each("its own", lambda p, own=spis: p.spi in own)  # type: ignore[misc]


L2TP = 1701
"""RFC 2661 section 8.1."""


@scenario(
    "MUL-06",
    topologies=("two_clients",),
    versions=(IKEV2,),
    features=("ike",),
    pairs=SAME,
    mode=TRANSPORT,
    bind_flows=True,
)
def l2tp_clients_have_ports_of_their_own(cell: Cell) -> None:
    cell.up_all()
    server = cell.endpoint("right")
    with contextlib.ExitStack() as held:
        lns = held.enter_context(server.node.socket())
        lns.bind((server.address, L2TP))
        clients = {}
        for name, port in (("left", L2TP), ("left2", L2TP + 1)):
            end = cell.endpoint(name)
            clients[name] = held.enter_context(end.node.socket())
            clients[name].bind((end.address, port))
            clients[name].connect((end.remote, L2TP))
        for sock in (lns, *clients.values()):
            sock.settimeout(5)
        for text in (b"SCCRQ", b"SCCCN", b"Hello"):
            # Both have asked before either is answered.
            for sock in clients.values():
                sock.send(text)
            for source in [lns.recvfrom(100)[1] for _ in clients]:
                assert source[0] == server.remote
                lns.sendto(b"%s to %d" % (text, source[1]), source)
            assert {name: sock.recv(100) for name, sock in clients.items()} == {
                "left": b"%s to %d" % (text, L2TP),
                "left2": b"%s to %d" % (text, L2TP + 1),
            }
    answers = cell.seen.esp_in_udp.sent_by(server.address)
    for name, link in (("left", "lan1"), ("left2", "lan2")):
        spis = cell.peer(name).inbound_spis()
        expect(answers.on(link)).at_least(3).each("its own", lambda p, own=spis: p.spi in own)  # type: ignore[misc]
    expect(cell.seen.where(lambda packet: L2TP in (packet.sport, packet.dport), "with port 1701")).none()


@contextlib.contextmanager
def session(cell: Cell, side: str, port: int) -> Iterator[socket.socket]:
    """A TCP connection from that port of a client to an echo at the server, as a login would be."""
    client, server = cell.endpoint(side), cell.endpoint("right")
    kind = socket.SOCK_STREAM
    with server.node.socket(type=kind) as listener, client.node.socket(type=kind) as sock:
        listener.bind((server.address, 0))
        listener.listen(1)
        for each in (listener, sock):
            each.settimeout(5)
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        sock.bind((client.address, port))
        sock.connect((client.remote, listener.getsockname()[1]))
        yield sock


def echo(listener: socket.socket) -> None:
    """Send back what the first who comes sends, until that ends."""
    accepted, _ = listener.accept()
    with accepted:
        while octets := accepted.recv(100):
            accepted.sendall(octets)
