"""The IKE SAs of a capture: versions, what NAT detection found, when the ports floated. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab.capture.natd import NAT_D_PAYLOADS, NAT_T_VENDOR_IDS
from lab.capture.natview import nat_view
from lab.capture.seen import Kind, Seen

_PREFERENCE = (
    "RFC 3947",
    *(f"draft-ietf-ipsec-nat-t-ike-{number:02d}" for number in (8, 7, 6, 5, 4, 3)),
    "draft-ietf-ipsec-nat-t-ike",
    "draft-ietf-ipsec-nat-t-ike-02\n",
    "draft-ietf-ipsec-nat-t-ike-02",
    "draft-ietf-ipsec-nat-t-ike-01",
    "draft-ietf-ipsec-nat-t-ike-00",
    "draft-stenberg-ipsec-nat-traversal-02",
    "draft-stenberg-ipsec-nat-traversal-01",
    "ESPThruNAT",
)
_NO_FLOAT = ("-00", "-01")
"""Ends of the names of versions that stay on port 500."""


@dataclass
class Conversation:
    """One IKE SA as the packets of a capture show it, on all links together."""

    initiator_spi: bytes
    """8 octets; the cookie in IKEv1."""
    ike_version: int
    packets: list[Seen] = field(default_factory=list)
    offered: tuple[str, ...] = ()
    """NAT-T versions whose vendor ids the initiator sent (IKEv1)."""
    echoed: tuple[str, ...] = ()
    """Those the responder sent."""
    nat_d_payloads: tuple[int, ...] = ()
    """Payload types under which NAT-D came (IKEv1)."""
    initiator_is_translated: bool | None = None
    """What the NAT detection hashes say of the initiator's address or port; None where there is no saying."""
    responder_is_translated: bool | None = None
    floated: Seen | None = None
    """The first message behind the non-ESP marker."""

    @property
    def agreed(self) -> str:
        """The NAT-T version of both vendor ids, the best one; empty without (IKEv1)."""
        both = set(self.offered) & set(self.echoed)
        return next((name.strip() for name in _PREFERENCE if name in both), "")

    @property
    def nat_is_found(self) -> bool:
        """Whether a hash told of a NAT before either end."""
        return bool(self.initiator_is_translated or self.responder_is_translated)

    @property
    def may_float(self) -> bool:
        """Whether the version has a second port: all but drafts 00 and 01."""
        return not self.agreed.endswith(_NO_FLOAT)

    @property
    def unmarked(self) -> list[Seen]:
        """Encrypted messages without the non-ESP marker: those that had not floated."""
        return [packet for packet in self.packets if packet.kind is Kind.IKE and _is_encrypted(packet)]

    @property
    def version(self) -> str:
        """The version in words: of IKE, and of NAT traversal."""
        if self.ike_version != 1:
            return f"IKEv{self.ike_version}"
        payloads = ", ".join(f"{number} ({NAT_D_PAYLOADS[number]})" for number in self.nat_d_payloads)
        words = self.agreed or ("no NAT-T version agreed" if self.offered else "no NAT-T vendor ids")
        return f"IKEv1, {words}" + (f", NAT-D payload {payloads}" if payloads else "")

    @property
    def detection(self) -> str:
        """What NAT detection found, in words."""
        ends = {"initiator": self.initiator_is_translated, "responder": self.responder_is_translated}
        if all(value is None for value in ends.values()):
            return "no NAT detection seen"
        behind = [name for name, value in ends.items() if value]
        if not behind:
            return "no NAT found"
        # An end that forces encapsulation sends a false hash: nobody can tell the difference.
        words = "are behind a NAT, or say so" if len(behind) > 1 else "is behind a NAT, or says so"
        return f"{' and '.join(behind)} {words}"

    @property
    def float(self) -> str:
        """When and where the ports floated, in words."""
        if self.floated is None:
            return "never floated"
        return f"floated to {self.floated.sport} → {self.floated.dport} at packet {self.floated.number}"

    def __str__(self) -> str:
        first = self.packets[0]
        ends = f"{first.src}:{first.sport} → {first.dst}:{first.dport}"
        return f"{self.initiator_spi.hex()}: {ends}\n  {self.version}\n  {self.detection}\n  {self.float}"


def conversations(packets: Iterable[Seen]) -> list[Conversation]:
    """The IKE SAs among `packets`, in order of their first message."""
    found: dict[bytes, Conversation] = {}
    for packet in packets:
        message = packet.ike
        if message is None or packet.why:
            continue
        made = found.setdefault(message.initiator_spi, Conversation(message.initiator_spi, message.version))
        made.packets.append(packet)
        from_initiator = _is_initiators(made, packet)
        names = tuple(NAT_T_VENDOR_IDS[vid] for vid in message.vendor_ids if vid in NAT_T_VENDOR_IDS)
        if from_initiator:
            made.offered = tuple(dict.fromkeys((*made.offered, *names)))
        else:
            made.echoed = tuple(dict.fromkeys((*made.echoed, *names)))
        numbers = (nat_d.payload_type for nat_d in message.nat_d)
        made.nat_d_payloads = tuple(dict.fromkeys((*made.nat_d_payloads, *numbers)))
        _detect(made, packet, from_initiator)
        if packet.kind is Kind.IKE_MARKED and made.floated is None:
            made.floated = packet
    return list(found.values())


def _is_initiators(conversation: Conversation, packet: Seen) -> bool:
    """Whether the initiator of the IKE SA sent it: by the flag of IKEv2, else by where the first one went."""
    message = packet.ike
    if message is not None and message.version == 2:
        return bool(message.flags & 0x08)
    return _direction(conversation.packets, packet)


def _direction(packets: Sequence[Seen], packet: Seen) -> bool:
    """Whether `packet` goes the way of the first one on its link, that of the first one on any link."""
    first = next(each for each in packets if each.link == packet.link)
    return packet.src == first.src or packet.dst == first.dst


def _detect(conversation: Conversation, packet: Seen, from_initiator: bool) -> None:
    view = nat_view(packet)
    if view is None:
        return
    sender, receiver = view.sender_is_translated, view.receiver_is_translated
    initiator, responder = (sender, receiver) if from_initiator else (receiver, sender)
    # A copy on the near side of the NAT still is as its sender knew it: one that tells of a NAT is enough.
    conversation.initiator_is_translated = bool(conversation.initiator_is_translated) or initiator
    conversation.responder_is_translated = bool(conversation.responder_is_translated) or responder


def _is_encrypted(packet: Seen) -> bool:
    return packet.ike is not None and packet.ike.encrypted
