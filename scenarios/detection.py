"""NAT detection as it is on the wire: which messages carry hashes, and what the hashes should be."""

from lab.capture.natd import nat_d_hash_v1, nat_detection_hash
from lab.capture.packets import Packets
from lab.capture.seen import Seen


def detecting(packets: Packets) -> list[Seen]:
    """The messages that carry NAT detection payloads in clear, as they left their sender."""
    return [p for p in packets if p.ike is not None and (p.ike.nat_d or p.ike.nat_detection_destination)]


def carried_hashes(packet: Seen) -> list[bytes]:
    """The hash of the destination, then those of the source, that a message carries."""
    assert packet.ike is not None
    if packet.ike.version == 2:
        return [*packet.ike.nat_detection_destination, *packet.ike.nat_detection_source]
    return [natd.hash for natd in packet.ike.nat_d]


def hashes_of_ends(packet: Seen) -> tuple[bytes, bytes]:
    """NAT detection hashes of the source and the destination of `packet` as it is on its link."""
    assert packet.sport is not None
    assert packet.dport is not None
    return hash_of(packet, packet.src, packet.sport), hash_of(packet, packet.dst, packet.dport)


def hash_of(packet: Seen, address: str, port: int) -> bytes:
    """The hash that `packet`, of a phase 1 with SHA-256 or of IKEv2, has to carry for this end."""
    ike = packet.ike
    assert ike is not None
    spis = ike.initiator_spi, ike.responder_spi
    if ike.version == 2:
        return nat_detection_hash(*spis, address, port)
    return nat_d_hash_v1(*spis, address, port, "sha256")
