"""What an IKEv1 phase 1 says of NAT traversal on the wire: versions offered, answered; NAT-D; the float."""

import contextlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from typing import Any

from lab.capture.expect import expect
from lab.capture.natd import NAT_T_VENDOR_IDS, nat_d_hash_v1
from lab.capture.packets import Packets
from lab.capture.seen import Kind, Seen
from lab.cell import Cell
from lab.ike.action import Event
from lab.ike.deviation import Deviation
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.persona import PLAIN, Persona
from lab.ike.runner import Runner
from lab.ike.versions import VERSIONS, by_name
from lab.peers.peer import AUTO, LIBIPSEC, OFF
from scenarios.scripted import scripted

RFC = "rfc3947"
NAT_D_TYPE = {
    **dict.fromkeys(("draft-00", "draft-01", "draft-02n", "draft-02", "draft-03"), 130),
    **dict.fromkeys(("draft-04", "draft-05", "draft-06", "draft-07", "draft-08"), 15),
    **dict.fromkeys(("unnumbered", RFC), 20),
}
"""Payload type of NAT-D in each version."""
ON_500 = ("draft-00", "draft-01")
"""Versions without a float."""
KNOWN = {
    "natt": tuple(NAT_D_TYPE),
    "strongswan": ("draft-02n", "draft-02", "draft-03", RFC),
    "racoon": ("draft-00", "draft-02n", "draft-02", "draft-03", RFC),
    "libreswan": ("draft-02n", "draft-02", "draft-03", "unnumbered", RFC),
}
"""Versions that each peer agrees to as a responder; the rest it takes for no NAT traversal.

Of racoon 0.9.1 as built with every version; a build of fewer agrees to fewer.
"""
TRIED = {
    "racoon": KNOWN["racoon"],
    "libreswan": ("draft-00", "draft-01", *KNOWN["libreswan"]),
}
"""Versions of which it is known what a peer makes of them, where that is not all of them."""
OFFERED = {
    "natt": [RFC, "draft-03", "draft-02n", "draft-02"],
    "strongswan": [RFC, "draft-02n"],
    "racoon": [RFC]
    + [f"draft-0{number}" for number in range(8, 1, -1)]
    + ["draft-02n", "draft-01", "draft-00"],
    "libreswan": [RFC, "draft-03", "draft-02n", "draft-02"],
}
"""What each peer offers of its own accord, in its order; charon neither draft 03 nor 02 without newline."""
TAKEN_UNOFFERED = {
    "natt": (),
    "strongswan": ("draft-02", "draft-03"),
    "libreswan": ("draft-02", "draft-03"),
}
"""Versions that an initiator speaks if they are answered, though it did not offer them."""
AS_RFC = {"libreswan": ("draft-04", "draft-05", "draft-06", "draft-07", "draft-08")}
"""Versions that a peer agrees to, or takes, and then speaks with the payload types of RFC 3947."""
TRACED = ("natt", "strongswan", "racoon+natt")
"""Peers whose traffic under each version was measured, with their quick modes as Wireshark decrypts them."""
ALWAYS_BOTH = ("strongswan", "libreswan")
"""Peers that send both original addresses in every version, though drafts before 05 know one."""
IN_CLEAR = replace(PLAIN, clear_third_message=True)
"""A persona whose NAT-D payloads can be seen in aggressive mode, too."""
STENBERG = {
    octets: text for octets, text in NAT_T_VENDOR_IDS.items() if text.startswith("draft-stenberg-ipsec")
}
"""Vendor ids of the drafts before the working group's own."""
_NAMES = {version.text: name for name, version in VERSIONS.items()}


class Phase1:
    """The messages of one phase 1 that the left end began, and of what followed under it."""

    def __init__(self, cell: Cell, cookie: bytes) -> None:
        self._cell = cell
        self.cookie = cookie
        """The initiator's."""

    def on(self, link: str) -> Packets:
        """Its messages on `link`."""
        cookie = self.cookie
        return self._cell.seen.on(link).ike.where(lambda p: p.initiator_spi == cookie, "of this phase 1")

    def sent_by(self, side: str) -> Packets:
        """Its messages as they left the end at `side`."""
        links = self._cell.topology.path_links("left", "right")
        near = links[0] if side == "left" else links[-1]
        return self.on(near).sent_by(self._cell.endpoint(side).address)

    @property
    def offered(self) -> list[str]:
        """NAT-T versions in the first message."""
        return nat_t_in(self.sent_by("left").first)

    @property
    def answered(self) -> list[str]:
        """NAT-T versions in the second message."""
        return nat_t_in(self.sent_by("right").first)

    def nat_d_types(self, side: str) -> set[int]:
        """Payload types of the NAT-D payloads that the end at `side` sent in clear."""
        return {natd.payload_type for message in _with_nat_d(self.sent_by(side)) for natd in _nat_d(message)}

    def expect_nat_d(self, *payload_types: int, faked_by: Container[str] = ()) -> None:
        """What both ends sent of NAT-D is of these types and no other, and has the right hashes.

        The ends in `faked_by` hide what they know to be their source, and so make a NAT of none.
        The hashes are recomputed from the addresses and ports of each message as it left its sender. What
        is encrypted is not seen: the third message of aggressive mode, unless it is IN_CLEAR.
        """
        messages = [message for side in ("left", "right") for message in _with_nat_d(self.sent_by(side))]
        types = {natd.payload_type for message in messages for natd in _nat_d(message)}
        assert types == set(payload_types)
        if not messages:
            return
        ike = self.sent_by("right").first.ike
        assert ike is not None
        (name,) = ike.phase1_hashes
        for message in messages:
            assert message.ike is not None
            cookies = message.ike.initiator_spi, message.ike.responder_spi
            ends = ((message.dst, message.dport), (message.src, message.sport))
            due = [nat_d_hash_v1(*cookies, address, port or 0, name) for address, port in ends]
            carried = [natd.hash for natd in _nat_d(message)]
            if self._sender(message) in faked_by:
                assert due.pop() not in carried, f"packet {message.number} was to fake its source hash"
                del carried[1::2]
            assert carried == due * (len(carried) // len(due)), (
                f"packet {message.number} on {message.link} carries {[h.hex() for h in carried]}; "
                f"for its destination and source they are {[h.hex() for h in due]}"
            )

    def _sender(self, message: Seen) -> str:
        return "left" if message.src == self._cell.endpoint("left").address else "right"

    def expect_float(self, version: str | None) -> None:
        """Its messages moved to 4500 behind the marker when `version` says so; None has no float."""
        for link in self._cell.topology.path_links("left", "right"):
            messages = _without_repeats(self.on(link))
            # Main mode floats with its fifth message, aggressive mode with its third (RFC 3947 section 4).
            stays = len(messages)
            if version is not None and version not in ON_500:
                stays = 4 if messages.first.exchange == "main mode" else 2
                expect(messages[stays:]).each("on port 4500 behind the marker", is_marked_on_4500)
            expect(messages[:stays]).each("on port 500, no marker", is_plain_on_500)


@contextlib.contextmanager
def phase1_of_script(cell: Cell, *deviations: Deviation, **options: Any) -> Iterator[tuple[Phase1, Runner]]:
    """A phase 1 that the scripted peer begins at the left end, from its end to its DELETE.

    `options` are those of scripted(); no quick mode follows unless they say so.
    """
    with scripted(cell, *deviations, **{"children": 0, **options}) as runner:
        machine = runner.machine
        assert isinstance(machine, Ikev1Peer)
        runner.run_until(lambda: machine.established, "phase 1")
        yield Phase1(cell, machine.phase1s[-1].channel.cookie_i), runner
        runner.do(machine.delete_phase1)


def told(runner: Runner, name: str) -> list[Event]:
    """The events of this name, so far."""
    return [event for event in runner.events if event.name == name]


def newest_phase1(cell: Cell) -> Phase1:
    """The phase 1 that the left end began last."""
    left = cell.endpoint("left").address
    begun = cell.seen.ike.sent_by(left).where(lambda p: p.responder_spi == bytes(8), "that begin a phase 1")
    return Phase1(cell, begun.last.initiator_spi or b"")


def insistent(version: str) -> Persona:
    """A persona that answers with this version, offered or not, and speaks it."""
    spoken = by_name(version)
    return replace(PLAIN, answer_vendor_ids=(spoken.vendor_id,), speaks=spoken)


def fakers(cell: Cell) -> list[str]:
    """The ends that make the other one believe in a NAT: kernel-libipsec knows no ESP but that in UDP."""
    return [side for side in ("left", "right") if cell.peer(side).engine == LIBIPSEC]


def terms(cell: Cell, side: str, **changes: Any) -> dict[str, Any]:
    """`changes` of Connection for the end at `side` if it is the scripted peer, nothing for a daemon."""
    return changes if (cell.spec.left if side == "left" else cell.spec.right) == "natt" else {}


def versions(*names: str) -> dict[str, Any]:
    """The fields of Connection with which natt offers and accepts these versions; without names, none."""
    return {"nat_t": names, "encapsulation": AUTO if names else OFF}


def nat_t_in(message: Seen) -> list[str]:
    """Names of the NAT-T versions among the vendor ids of a message, in order."""
    assert message.ike is not None
    texts = [NAT_T_VENDOR_IDS[octets] for octets in message.ike.vendor_ids if octets in NAT_T_VENDOR_IDS]
    return [_NAMES.get(text, text) for text in texts]


def is_marked_on_4500(packet: Seen) -> bool:
    """Whether it is IKE of the NAT-T port."""
    return 4500 in (packet.sport, packet.dport) and packet.kind is Kind.IKE_MARKED


def is_plain_on_500(packet: Seen) -> bool:
    """Whether it is IKE of the IKE port."""
    return 500 in (packet.sport, packet.dport) and packet.kind is Kind.IKE


def _nat_d(message: Seen) -> Iterable[Any]:
    return () if message.ike is None else message.ike.nat_d


def _with_nat_d(packets: Packets) -> list[Seen]:
    return [packet for packet in packets if _nat_d(packet)]


def _without_repeats(packets: Packets) -> Packets:
    first: dict[bytes, int] = {}
    for packet in packets:
        first.setdefault(packet.ike_octets, packet.number)
    return packets.where(lambda packet: packet.number in first.values(), "sent for the first time")
