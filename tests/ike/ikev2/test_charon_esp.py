"""The keys are right: an ESP packet made with ours is answered by a live charon's ESP. Scapy does the ESP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation

from lab.ike.association import ChildSa, EspSa, Selector
from lab.ike.ikev2.config import Child, Config
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.ikev2.suites import EspSuite
from lab.ike.runner import Runner
from lab.ike.transport import Endpoint
from lab.net import topology_file
from lab.nodes.network import Network
from lab.peers.peer import IKEV2, Connection
from lab.peers.peer import Endpoint as PeerEnd
from lab.peers.strongswan import StrongSwan
from lab.wait import wait_until

LEFT, NAT, RIGHT = "10.1.0.2", "203.0.113.1", "203.0.113.2"
INNER_LEFT, INNER_RIGHT = "10.10.0.1", "10.20.0.1"


@pytest.fixture
def network(needs_charon: None, tmp_path: Path) -> Iterator[Network]:
    with Network.build(topology_file.load("one_nat"), tmp_path) as made:
        yield made


def scapy_sa(sa: EspSa) -> SecurityAssociation:
    gcm = sa.encryption == "aes-gcm-16"
    return SecurityAssociation(
        ESP, sa.spi,
        crypt_algo="AES-GCM" if gcm else "AES-CBC", crypt_key=sa.encryption_key,
        auth_algo=None if gcm else "SHA2-256-128", auth_key=None if gcm else sa.integrity_key,
        tunnel_header=IP(src=sa.source.address, dst=sa.destination.address),
        nat_t_header=UDP(sport=sa.source.port, dport=sa.destination.port),
    )  # fmt: skip


def echo(child: ChildSa, opened: socket.socket, number: int) -> IP:
    """Ping through the SAs with this sequence number and identifier; the decrypted answer."""
    request = IP(src=INNER_LEFT, dst=INNER_RIGHT) / ICMP(id=number, seq=1) / b"through ESP"
    sealed = scapy_sa(child.outbound).encrypt(request, seq_num=number)
    opened.sendto(bytes(sealed[ESP]), child.outbound.destination)
    got: list[bytes] = []

    def arrived() -> bool:
        try:
            got.append(opened.recv(2048))
        except BlockingIOError:
            return False
        return got[-1][:4] == child.inbound.spi.to_bytes(4, "big")

    wait_until(arrived, lambda: f"charon's ESP; there came {got}")
    inbound = child.inbound
    outer = IP(src=inbound.source.address, dst=inbound.destination.address)
    packet = outer / UDP(sport=4500, dport=4500) / got[-1]
    opened_packet = scapy_sa(inbound).decrypt(IP(bytes(packet)))
    return IP(bytes(opened_packet))


@pytest.mark.parametrize(
    ("esp", "suite"), [("aes-gcm-16", "aes128gcm16"), ("aes-cbc-hmac-sha2-256", "aes128-sha256")]
)
def test_ping_through_negotiated_sas(network: Network, esp: str, suite: str) -> None:
    connection = Connection(version=IKEV2, mobike=False, esp=esp)
    end = PeerEnd(
        name="right", node=network.nodes["right"], address=RIGHT, remote=NAT, inner=INNER_RIGHT,
        remote_inner=INNER_LEFT, behind_nat=False, remote_behind_nat=True, remote_own=LEFT, reached_as=RIGHT,
    )  # fmt: skip
    peer = Ikev2Peer(
        Config(
            Endpoint.of(LEFT, 500), Endpoint.of(RIGHT, 500), Identity.of("left.test"),
            connection.secret.encode(),
            child=Child(
                (EspSuite.of(suite),), "tunnel", (Selector.of(INNER_LEFT),), (Selector.of(INNER_RIGHT),)
            ),
        )
    )  # fmt: skip
    right = StrongSwan(end, connection)
    with network.nodes["left"].socket() as ike, network.nodes["left"].socket() as natt:
        ike.bind((LEFT, 500))
        natt.bind((LEFT, 4500))
        try:
            right.start()
            with Runner(peer, [ike, natt]) as runner:
                runner.do(peer.initiate)
                orders = (None, peer.rekey_child, peer.rekey_ike, peer.rekey_child)
                for number, order in enumerate(orders, 1):
                    if order is not None:
                        runner.do(order)
                    runner.run_until(lambda: _settled(peer), f"the SAs after {order}")
                    sa = peer.established
                    assert sa is not None
                    (made,) = sa.children.values()
                    answer = echo(made.child, natt, number)
                    assert (answer.src, answer.dst) == (INNER_RIGHT, INNER_LEFT)
                    assert (answer[ICMP].type, answer[ICMP].id) == (0, number)
                    assert bytes(answer[ICMP].payload) == b"through ESP"
        finally:
            right.stop()


def _settled(peer: Ikev2Peer) -> bool:
    sas = peer.sas
    return len(sas) == 1 and sas[0].pending is None and len(sas[0].children) == 1
