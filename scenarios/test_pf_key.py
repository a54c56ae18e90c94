"""PF_KEY: what a key manager says of SAs behind NATs, and what it is told."""

import struct
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.key_socket import KeyAnswer
from lab.peers.peer import MANUAL, TRANSPORT
from lab.peers.xfrm import Type, read_mapping
from lab.scenario import scenario
from scenarios.decapsulated import decapsulated, transport_checksum_fits
from scenarios.expected import at_right, without
from scenarios.inner import came_before_now, inner_sink, send_inner, send_packet
from scenarios.key_octets import (
    DESTINATION,
    HOST,
    NAT_T_DPORT,
    NAT_T_FRAG,
    NAT_T_OA,
    NAT_T_SPORT,
    NAT_T_TYPE,
    SA,
    SOURCE,
    add_extension,
    extensions,
    head,
    with_extension,
)

PF_KEY: dict[str, Any] = {
    "versions": (MANUAL,),
    "esp": "aes-cbc-hmac-sha1",
    "pf_key": "linux",
    "pairs": at_right("kernel"),
}
DIALECTS = ("linux", "netbsd", "freebsd")


def dialects(cell: Cell) -> tuple[str, ...]:
    """Those that the right peer speaks."""
    return DIALECTS if cell.spec.right == "natt" else ("linux",)


def inbound(cell: Cell) -> dict[str, Any]:
    """The one inbound SA of the right peer as nattd lists it."""
    sa: dict[str, Any]
    (sa,) = [sa for sa in cell.right.sas() if sa["direction"] == "in"]
    return sa


def rebind(cell: Cell) -> tuple[int, KeyAnswer]:
    """Connect, let the NAT give the left peer another port; the port, and what the right end is told."""
    cell.up()
    cell.ping()
    cell.right.key_socket.register()
    cell.network.nat("nat").remap()
    with inner_sink(cell) as sink:
        assert came_before_now(cell, sink) == []
    port = cell.seen.on("wan").esp_in_udp.to(cell.endpoint("right").address).last.sport
    assert port is not None
    assert port != 4500
    return port, cell.right.key_socket.notice("X_NAT_T_NEW_MAPPING")


def netlink_is_told_first(cell: Cell, port: int) -> None:
    """Linux tells of every packet from the new port, and whoever listens over netlink, to nobody else."""
    right, manager = cell.endpoint("right"), cell.right.key_socket
    manager.told("X_NAT_T_NEW_MAPPING")
    with inner_sink(cell) as sink, cell.right.listen(Type.MAPPING) as listener:
        assert came_before_now(cell, sink) == []
        told = read_mapping(listener.told(Type.MAPPING))
    assert told == (cell.right.inbound_spi(), (right.remote, 4500), (right.remote, port))
    assert manager.told("X_NAT_T_NEW_MAPPING") == []


def follow(cell: Cell, port: int) -> None:
    """Move both SAs of the right peer to the other end's new port, as its key manager would."""
    for direction in ("in", "out"):
        moved = cell.right.key_statement(direction, remote_port=port)
        assert cell.right.key_socket.say(moved, "UPDATE").error == ""


@scenario("ENC-22", **PF_KEY)
def sequence_goes_on_at_the_new_port(cell: Cell) -> None:
    port, _ = rebind(cell)
    cell.recorder.sync()
    follow(cell, port)
    cell.ping(2)
    for sender in (cell.endpoint("left").address, cell.endpoint("right").address):
        near = "lan" if sender == cell.endpoint("left").address else "wan"
        expect(cell.seen.on(near).esp_in_udp.sent_by(sender)).at_least(3).sequence_numbers_count_from(1)
    answers = cell.seen.on("wan").esp_in_udp.sent_by(cell.endpoint("right").address)
    expect(answers[:1]).each_field(dport=4500, seq=1)
    expect(answers[1:]).at_least(2).each_field(dport=port, sport=4500)
    expect(cell.seen.native_esp).none()


@scenario("PFK-01", **PF_KEY)
def setkey_sas_dump_with_their_ports(cell: Cell) -> None:
    cell.up()
    right = cell.endpoint("right")
    near, far = f"{right.address}[4500]", f"{right.remote}[4500]"
    dumped = [line.split()[:4] for line in cell.right.key_socket.dump()]
    assert sorted(dumped) == sorted([["add", far, near, "esp-udp"], ["add", near, far, "esp-udp"]])
    for sa in cell.right.sas():
        assert (sa["encap"], sa["sport"], sa["dport"]) == ("espinudp", 4500, 4500)
    cell.ping(3)
    cell.transfer()
    expect(cell.seen.esp_in_udp).at_least(12).each_field(sport=4500, dport=4500)


@scenario("PFK-02", **PF_KEY)
def add_is_aligned_and_its_ports_are_in_network_order(cell: Cell) -> None:
    cell.start("right", child=False)
    manager = cell.right.key_socket
    sent = manager.octets(cell.right.key_statement("in", spi=0x5001, remote_port=61001))
    for octets in (sent, manager.ask(sent).octets):
        found = extensions(octets)
        assert found[SA][4:8] == bytes.fromhex("00005001")
        assert found[NAT_T_TYPE] == head(NAT_T_TYPE) + bytes((2, 0, 0, 0))
        assert found[NAT_T_SPORT] == head(NAT_T_SPORT) + bytes.fromhex("ee490000")
        assert found[NAT_T_DPORT] == head(NAT_T_DPORT) + bytes.fromhex("11940000")
        assert found[SOURCE][12:16] == bytes((203, 0, 113, 1))
    assert (inbound(cell)["spi"], inbound(cell)["sport"], inbound(cell)["dport"]) == (0x5001, 61001, 4500)


@scenario("PFK-03", **PF_KEY, mode=TRANSPORT)
def original_addresses_are_kept(cell: Cell) -> None:
    if cell.spec.right == "natt":
        freebsd_tells_and_uses_them(cell)
        cell.right.stop()
    # Linux takes the address and tells of none: a racoon on Linux sends it all the same.
    cell.start("right", pf_key="linux")
    right = cell.endpoint("right")
    assert NAT_T_OA in extensions(cell.right.key_socket.octets(cell.right.key_statement("in")))
    assert inbound(cell)["spi"] == cell.right.inbound_spi()
    told = cell.right.key_socket.say(f"get {right.remote} {right.address} esp {cell.right.inbound_spi()} ;")
    assert told.error == ""
    assert "X_NAT_T_OAI" not in told.extensions


def freebsd_tells_and_uses_them(cell: Cell) -> None:
    cell.up(pf_key="freebsd")
    left, right = cell.endpoint("left"), cell.endpoint("right")
    told = cell.right.key_socket.say(f"get {right.remote} {right.address} esp {cell.right.inbound_spi()} ;")
    assert told.extensions["X_NAT_T_OAI"].sockaddr.address == left.address
    with inner_sink(cell) as sink, decapsulated(cell) as device:
        send_inner(cell, sink, b"datagram")
        assert came_before_now(cell, sink) == [b"datagram"]
        packets = device.packets()
    assert len(packets) == 2
    assert all(transport_checksum_fits(packet) for packet in packets)


@scenario("PFK-04", **PF_KEY)
def update_follows_a_rebinding(cell: Cell) -> None:
    port, _ = rebind(cell)
    follow(cell, port)
    ends = {sa["direction"]: (sa["sport"], sa["dport"]) for sa in cell.right.sas()}
    assert ends == {"in": (port, 4500), "out": (4500, port)}
    before = len(cell.seen)
    cell.ping(3)
    cell.transfer()
    since = cell.seen[before:].on("wan").esp_in_udp
    expect(since.sent_by(cell.endpoint("right").address)).at_least(5).each_field(sport=4500, dport=port)
    expect(since.to(cell.endpoint("right").address)).at_least(5).each_field(sport=port, dport=4500)


@scenario("PFK-05", **PF_KEY)
def getspi_takes_nat_traversal(cell: Cell) -> None:
    for dialect in dialects(cell):
        cell.start("right", pf_key=dialect, child=False)
        manager, right = cell.right.key_socket, cell.endpoint("right")
        reserved = manager.say(f"getspi {right.remote}[61001] {right.address}[4500] esp-udp 0 ;")
        assert reserved.error == "", dialect
        spi = reserved.extensions["SA"].spi
        assert spi > 255
        assert cell.right.sas() == []
        again = manager.say(f"getspi {right.remote}[61001] {right.address}[4500] esp-udp {spi:#x} ;")
        assert again.error == NO_SPI_LEFT[dialect]
        mature = manager.say(cell.right.key_statement("in", spi=spi, remote_port=61001), "UPDATE")
        assert mature.error == "", dialect
        assert (inbound(cell)["spi"], inbound(cell)["sport"]) == (spi, 61001)
        cell.right.stop()


NO_SPI_LEFT = {"linux": "ENOENT", "netbsd": "EINVAL", "freebsd": "EINVAL"}
"""GETSPI of an SPI that is taken. Only NetBSD makes anything of the ports: they are part of its index."""


@scenario("PFK-06", **PF_KEY)
def new_mapping_names_both_ends(cell: Cell) -> None:
    port, told = rebind(cell)
    right = cell.endpoint("right")
    found = extensions(told.octets)
    assert set(found) == {SA, SOURCE, NAT_T_SPORT, DESTINATION, NAT_T_DPORT}
    assert int.from_bytes(found[SA][4:8], "big") == cell.right.inbound_spi()
    nat = bytes(map(int, right.remote.split(".")))
    assert found[SOURCE][12:16] == nat, "the old address"
    assert found[DESTINATION][12:16] == nat, "the new address"
    assert int.from_bytes(found[NAT_T_SPORT][4:6], "big") == 4500
    assert int.from_bytes(found[NAT_T_DPORT][4:6], "big") == port
    assert (told.pid, told.error) == (0, "")
    # The kernel half moves nothing by itself.
    assert inbound(cell)["sport"] == 4500
    if cell.spec.right == "kernel":
        netlink_is_told_first(cell, port)
    else:
        assert inbound(cell)["heard"] == f"{right.remote}:{port}"


@scenario("PFK-08", **{**PF_KEY, "pairs": without("kernel")})
def fragment_size_is_the_bsds(cell: Cell) -> None:
    cell.start("right")
    spi = cell.right.inbound_spi()
    for dialect in DIALECTS:
        cell.start("left", pf_key=dialect)
        manager, left = cell.left.key_socket, cell.endpoint("left")
        # Only NetBSD looks at the ports.
        gone = f"delete {left.address}[4500] {left.remote}[4500] esp-udp {spi} ;"
        assert manager.say(gone).error == ""
        plain = manager.octets(cell.left.key_statement("out"))
        limited = add_extension(plain, head(NAT_T_FRAG) + struct.pack(HOST + "HH", 552, 0))
        answer = manager.ask(limited)
        if dialect == "linux":
            # There number 25 is SADB_X_EXT_KMADDRESS, which is longer.
            assert (answer.error, [sa["direction"] for sa in cell.left.sas()]) == ("EINVAL", ["in"])
        else:
            assert (answer.error, extensions(answer.octets)[NAT_T_FRAG]) == ("", limited[-8:])
        if dialect != "freebsd":
            cell.left.stop()
    with inner_sink(cell) as sink:
        payload = send_packet(cell, sink, 1300, dont_fragment=False)
        assert came_before_now(cell, sink) == [payload]
    limit = 20 + cell.connection.suites[0].udp_length(552)
    expect(cell.seen.on("wan").esp_in_udp).exactly(4).each(
        "is not above the limit", lambda p: p.ip_length <= limit
    )
    expect(cell.seen.fragments).none()


@scenario("PFK-09", **PF_KEY)
def a_dump_loads_again_as_it_was(cell: Cell) -> None:
    for dialect in dialects(cell):
        cell.start("right", pf_key=dialect)
        manager = cell.right.key_socket
        manager.load(
            cell.right.key_statement("in", spi=0x5001, remote_port=61001, options="-lh 3600 -ls 3000")
        )
        manager.load(
            cell.right.key_statement("out", spi=0x5002, remote_port=61001, options="-u 7 -bh 9000000")
        )
        dumped, listed = manager.dump(), by_spi(cell)
        assert len(dumped) == 4
        manager.load("flush ;")
        assert manager.dump() == []
        manager.load("\n".join(dumped))
        # Linux lists the newest first, so that loading turns the order round.
        assert (sorted(manager.dump()), by_spi(cell)) == (sorted(dumped), listed), dialect
        cell.right.stop()


def by_spi(cell: Cell) -> list[dict[str, Any]]:
    return sorted(cell.right.sas(), key=lambda sa: sa["spi"])


@scenario("PFK-10", **PF_KEY)
def delete_tells_sas_apart_by_port(cell: Cell) -> None:
    if cell.spec.right == "natt":
        netbsd_deletes_by_port(cell)
        cell.right.stop()
    for dialect in set(dialects(cell)) - {"netbsd"}:
        cell.start("right", pf_key=dialect)
        twin = cell.right.key_statement("in", remote_port=61001)
        assert cell.right.key_socket.say(twin).error == "EEXIST", "ports are no part of the index there"
        cell.right.stop()


def netbsd_deletes_by_port(cell: Cell) -> None:
    cell.up(pf_key="netbsd")
    manager, right = cell.right.key_socket, cell.endpoint("right")
    twin = cell.right.key_statement("in", remote_port=61001)
    assert manager.say(twin).error == ""
    assert inbound_ports(cell) == [4500, 61001]
    spi = cell.right.inbound_spi()
    gone = f"delete {right.remote}[61001] {right.address}[4500] esp-udp {spi} ;"
    assert manager.say(gone).error == ""
    assert inbound_ports(cell) == [4500]
    assert manager.say(gone).error == "ENOENT"
    cell.ping(3)


def inbound_ports(cell: Cell) -> list[int]:
    return sorted(sa["sport"] for sa in cell.right.sas() if sa["direction"] == "in")


@scenario("PFK-11", **{**PF_KEY, "pairs": (("natt", "natt"), ("kernel", "natt"))})
def acquire_and_expire(cell: Cell) -> None:
    cell.up()
    left = cell.endpoint("left")
    manager = cell.left.key_socket
    manager.register()
    gone = f"delete {left.address} {left.remote} esp {cell.right.inbound_spi()} ;"
    assert manager.say(gone).error == ""
    with inner_sink(cell) as sink:
        send_inner(cell, sink, b"without an SA")
        wanted = manager.notice("ACQUIRE")
        assert wanted.extensions["ADDRESS_SRC"].sockaddr.address == left.address
        assert wanted.extensions["ADDRESS_DST"].sockaddr.address == left.remote
        assert wanted.seq
        # The answer to an ACQUIRE is an SA that lasts for two datagrams.
        brief = cell.left.key_statement("out", options="-bs 30 -bh 70")
        assert manager.say(brief).error == ""
        if cell.spec.left == "kernel":
            # It looks at the lifetime before it counts the packet.
            send_inner(cell, sink, bytes(20))
        for kind, payload in (("LIFETIME_SOFT", b"soft"), ("LIFETIME_HARD", bytes(40))):
            # Linux tells the sender of the packet that outlives the SA, too.
            is_refused = (cell.spec.left, kind) == ("kernel", "LIFETIME_HARD")
            with pytest.raises(OSError, match="Invalid argument") if is_refused else nullcontext():
                send_inner(cell, sink, payload)
            expired = manager.notice("EXPIRE").extensions
            assert kind in expired
            assert expired["SA"].spi == cell.right.inbound_spi()
            assert (expired["X_NAT_T_SPORT"].port, expired["X_NAT_T_DPORT"].port) == (4500, 4500)
    assert [sa["direction"] for sa in cell.left.sas()] == ["in"]


@scenario("PFK-07", **PF_KEY)
def invalid_combinations_leave_no_sa(cell: Cell) -> None:
    for dialect in dialects(cell):
        taken = TAKEN[dialect] if cell.spec.right == "natt" else TAKEN_BY_KERNEL
        cell.start("right", pf_key=dialect, child=False)
        manager = cell.right.key_socket
        plain = manager.octets(cell.right.key_statement("in"))
        for name, change in INVALID.items():
            answer = manager.ask(change(plain))
            made = [sa["encap"] for sa in cell.right.sas()]
            if name in taken:
                assert (answer.error, made) == ("", [taken[name]]), (dialect, name)
                manager.load("flush ;")
            else:
                assert (answer.error, made) == ("EINVAL", []), (dialect, name)
        manager.load(cell.right.key_statement("in"))
        cell.right.stop()


@scenario("PFK-12", **{**PF_KEY, "pairs": (("natt", "kernel"),)})
def engines_answer_alike(cell: Cell) -> None:
    cell.start(child=False)
    right = cell.endpoint("right")
    add, other = cell.right.key_statement("in"), cell.right.key_statement("out")
    named = f"{right.remote} {right.address} esp {cell.right.inbound_spi():#x} ;"
    nowhere = f"{right.remote} {right.address} esp 0x7777 ;"
    policy = "spdadd 10.10.0.1/32 10.20.0.1/32 any -P in ipsec esp/tunnel/"
    policy += f"{right.remote}-{right.address}/require ;"
    requests = [
        (add, ""),
        (add, ""),
        (add, "UPDATE"),
        (other, "UPDATE"),
        (other, ""),
        (f"get {named}", ""),
        (f"get {nowhere}", ""),
        (f"delete {nowhere}", ""),
        ("dump ;", ""),
        (f"delete {named}", ""),
        (f"delete {named}", ""),
        ("flush ;", ""),
        ("dump ;", ""),
        (policy, ""),
        (policy, ""),
        ("spddump ;", ""),
        ("spdflush ;", ""),
    ]
    for number, (text, type) in enumerate(requests):
        said = {}
        for peer in (cell.left, cell.right):
            answers = peer.key_socket.ask_for_all(peer.key_socket.octets(text, type))
            said[peer.name] = [
                (one.type, one.error, frozenset(one.extensions))
                for one in answers
                if not _is_of_a_socket(one)
            ]
        assert said["natt"] == said["kernel"], f"{number}: {type} {text}"


def _is_of_a_socket(told: KeyAnswer) -> bool:
    """Whether it lists one of the policies that a kernel peer's sockets have of their own: natt has none."""
    source = told.extensions.get("ADDRESS_SRC")
    return told.type == "X_SPDDUMP" and source is not None and source.sockaddr.address == "0.0.0.0"


def with_type(message: bytes, number: int, words: int = 1) -> bytes:
    content = bytes((number, *bytes(8 * words - 5)))
    return with_extension(message, NAT_T_TYPE, head(NAT_T_TYPE, words) + content)


def with_satype(message: bytes, satype: int) -> bytes:
    return message[:3] + bytes((satype,)) + message[4:]


AH = 2
ADDRESS_OF_SIX = head(DESTINATION, 5) + bytes((0, 128, 0, 0)) + struct.pack(HOST + "H", 10) + bytes(30)
"""sadb_address with Linux's sockaddr_in6."""

INVALID: dict[str, Callable[[bytes], bytes]] = {
    "type without ports": lambda m: with_extension(with_extension(m, NAT_T_SPORT, b""), NAT_T_DPORT, b""),
    "type 0": lambda m: with_type(m, 0),
    "type 1": lambda m: with_type(m, 1),
    "type 9": lambda m: with_type(m, 9),
    "type of two words": lambda m: with_extension(
        m, NAT_T_TYPE, head(NAT_T_TYPE, 2) + bytes((2,) + 11 * (0,))
    ),
    "AH": lambda m: with_satype(m, AH),
    "port 0": lambda m: with_extension(m, NAT_T_SPORT, head(NAT_T_SPORT) + bytes(4)),
    "IPv6 destination": lambda m: with_extension(m, DESTINATION, ADDRESS_OF_SIX),
}
TAKEN = {
    "linux": {"type 1": "espinudp-non-ike"},
    "netbsd": {"type 1": "espinudp-non-ike", "type without ports": "none"},
    "freebsd": {"type without ports": "none"},
}
"""What is no mistake there, and the encapsulation of the SA it makes. A BSD heeds the type only beside both
ports. Linux has not known type 1 since 6.10; nattd carries it itself."""
TAKEN_BY_KERNEL = {
    "type without ports": "espinudp",
    "type 1": "espinudp-non-ike",
    "type of two words": "espinudp",
    "port 0": "espinudp",
}
"""Linux 6.1 takes ports of 0, as from a message without them, and an extension longer than it need be;
nattd refuses SAs that it could not send by."""
