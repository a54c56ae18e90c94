"""What the receiver of an IKE message concludes about NAT from it (RFC 3947 §3.2, RFC 7296 §2.23)."""

from __future__ import annotations

from dataclasses import dataclass

from lab.capture.natd import nat_d_hash_v1
from lab.capture.seen import Seen

_HASH_OF_LENGTH = {16: "md5", 20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}


@dataclass(frozen=True, slots=True)
class NatView:
    """Whose address or port is another than the sender of a message believed.

    True also stands for an end that asks for encapsulation by a false hash: nobody can tell the difference.
    """

    sender_is_translated: bool
    receiver_is_translated: bool

    def __str__(self) -> str:
        ends = [("src", self.sender_is_translated), ("dst", self.receiver_is_translated)]
        return " ".join(name for name, is_translated in ends if is_translated) or "no NAT"


def nat_view(packet: Seen, hash_name: str | None = None) -> NatView | None:
    """Compare the hashes in `packet` with its addresses and ports on the link where it was seen.

    `hash_name` is the hash negotiated in IKEv1 phase 1, told by the length of the hashes when not given;
    IKEv2 always takes SHA-1. None when the packet carries no NAT detection, or hashes of a strange length.
    """
    message = packet.ike
    if message is None or packet.sport is None or packet.dport is None:
        return None
    if message.version == 1:
        receiver = [nat_d.hash for nat_d in message.nat_d[:1]]
        senders = [nat_d.hash for nat_d in message.nat_d[1:]]
    else:
        receiver, senders = list(message.nat_detection_destination), list(message.nat_detection_source)
        hash_name = "sha1"
    if not receiver or not senders:
        return None
    name = hash_name or _HASH_OF_LENGTH.get(len(receiver[0]))
    if name is None:
        return None
    spis = (message.initiator_spi, message.responder_spi)
    return NatView(
        sender_is_translated=nat_d_hash_v1(*spis, packet.src, packet.sport, name) not in senders,
        receiver_is_translated=nat_d_hash_v1(*spis, packet.dst, packet.dport, name) not in receiver,
    )
