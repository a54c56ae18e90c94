import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.net.builder import connect, create_namespaces, tentative, write_sysctl
from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.offload import Offloads, disable_request, wanted_off
from lab.net.plan import plan

SIOCGIFMTU = 0x8921


@pytest.fixture
def namespaces():
    made = create_namespaces(topology_file.load("one_nat"), {})
    yield made
    for namespace in made.values():
        namespace.close()


def test_equal_topologies_share_one_plan():
    assert plan(topology_file.load("one_nat")) is plan(topology_file.load("one_nat"))


def test_settings_links_and_offloads_are_as_planned(namespaces: dict[str, Namespace]):
    connect(topology_file.load("one_nat"), namespaces)
    with namespaces["nat"].entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        assert socket.if_nameindex() == [(1, "lo"), (2, "lan"), (3, "wan")]
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        assert Path("/proc/sys/net/ipv4/conf/lan/rp_filter").read_text() == "0\n"
        for link in ("lan", "wan"):
            left_on = {name for name in Offloads(control).active(link) if wanted_off(name)}
            assert left_on == set()
            assert Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").read_text() == "1\n"
        assert any(wanted_off(name) for name in Offloads(control).active("lo")), "the reading is not blind"
    with namespaces["left"].entered():
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"


def test_the_request_to_disable_names_only_unwanted_bits():
    names = ("tx-scatter-gather", "highdma", *[f"other-{i}" for i in range(31)], "rx-gro")
    assert disable_request(names) == bytes.fromhex("3b0000000200000001000000000000000200000000000000")


def test_transmitted_checksums_are_complete(namespaces: dict[str, Namespace]):
    connect(topology_file.load("one_nat"), namespaces)
    with (
        namespaces["nat"].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sniffer,
        namespaces["left"].socket() as sender,
    ):
        sniffer.bind(("lan", 0x0800))
        sniffer.settimeout(2)
        sender.sendto(b"odd", ("10.1.0.1", 4500))
        packet = sniffer.recv(2048)[14:]
    pseudo = packet[12:20] + b"\0\x11" + packet[24:26]
    data = pseudo + packet[20:] + b"\0" * (len(packet) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF, "UDP checksum on the wire (RFC 768)"


def test_building_twice_into_the_same_namespaces_names_the_link(namespaces: dict[str, Namespace]):
    topology = topology_file.load("one_nat")
    connect(topology, namespaces)
    with pytest.raises(NetworkError, match=r"left: veth lan between left and nat: File exists \(EEXIST\)"):
        connect(topology, namespaces)


def test_a_setting_that_does_not_exist_is_named(namespaces: dict[str, Namespace]):
    with namespaces["nat"].entered():
        with pytest.raises(NetworkError, match="nat: /proc/sys/net/ipv4/no_such does not exist"):
            write_sysctl("nat", "net/ipv4/no_such", "1")
        with pytest.raises(NetworkError, match="nat: cannot write many to /proc/sys/net/ipv4/ip_forward"):
            write_sysctl("nat", "net/ipv4/ip_forward", "many")
        write_sysctl("nat", "net/ipv6/no_such", "1")


def test_failing_midway_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch):
    made = []
    create = Namespace.create

    def fail_at_third(label: str) -> Namespace:
        if len(made) == 2:
            raise NetworkError("no more")
        made.append(create(label))
        return made[-1]

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(Namespace, "create", fail_at_third)
    with pytest.raises(NetworkError, match="no more"):
        create_namespaces(topology_file.load("one_nat"), {})
    assert len(made) == 2
    assert set(os.listdir("/proc/self/fd")) == before


def test_ipv6_addresses_are_usable_at_once_without_autoconfiguration():
    topology = topology_file.load("one_nat66")
    made = create_namespaces(topology, {})
    try:
        connect(topology, made)
        with made["nat"].entered():
            rows = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
            assert Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text() == "1\n"
        assert {(row[0], row[5]) for row in rows} == {
            ("fd010000000000000000000000000001", "lan"),
            ("20010db8000000000000000000000001", "wan"),
            ("00000000000000000000000000000001", "lo"),
            ("fe800000000000000000000000000002", "lan"),
            ("fe800000000000000000000000000001", "wan"),
        }
        for node in ("left", "right"):
            with made[node].entered():
                assert tentative() == []
    finally:
        for namespace in made.values():
            namespace.close()


def test_a_link_has_its_mtu_at_both_ends():
    topology = topology_file.load("small_mtu")
    made = create_namespaces(topology, {})
    try:
        connect(topology, made)
        for node, link, mtu in (("near", "narrow", 1300), ("far", "narrow", 1300), ("near", "wan", 1500)):
            with made[node].socket() as control:
                answer = fcntl.ioctl(control, SIOCGIFMTU, struct.pack("16sI20x", link.encode(), 0))
                assert struct.unpack_from("I", answer, 16) == (mtu,)
    finally:
        for namespace in made.values():
            namespace.close()
