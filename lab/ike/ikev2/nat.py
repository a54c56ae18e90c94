"""NAT detection by notifies (RFC 7296 section 2.23) and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from ..chain import Message, Payload
from ..natd import Fake, faked_hash, nat_d_hash
from ..pipeline import Pipeline
from ..transport import Endpoint
from .numbers import N
from .payloads import Notify, parse_notifies


@dataclass(frozen=True, slots=True)
class Nat:
    """Where NATs are; `supported` means that the peer sent hashes of both kinds."""

    supported: bool = False
    local_behind: bool = False
    remote_behind: bool = False

    @property
    def found(self) -> bool:
        """Whether any was found."""
        return self.local_behind or self.remote_behind


def detect(message: Message, source: Endpoint, destination: Endpoint) -> Nat:
    """Compare the hashes of a received message with the endpoints it had on arrival.

    The hash input has the SPIs of the message's own header. A DESTINATION that is not ours means a NAT before
    us; no SOURCE that is the sender's means one before the sender.
    """
    notifies = parse_notifies(message.payloads)
    sources = [notify.data for notify in notifies if notify.type == N.NAT_DETECTION_SOURCE_IP]
    destinations = [notify.data for notify in notifies if notify.type == N.NAT_DETECTION_DESTINATION_IP]
    if not sources or not destinations:
        return Nat()
    spis = message.initiator_spi, message.responder_spi
    return Nat(
        True,
        nat_d_hash("sha1", *spis, destination) not in destinations,
        nat_d_hash("sha1", *spis, source) not in sources,
    )


def announce(
    pipeline: Pipeline, spi_i: bytes, spi_r: bytes, local: Endpoint, remote: Endpoint, faked: bool
) -> list[Payload]:
    """Both notifies for a message from `local` to `remote`; `faked` writes a source nobody will find."""
    source = pipeline.nat_d("source", "sha1", spi_i, spi_r, local)
    if faked and source == nat_d_hash("sha1", spi_i, spi_r, local):
        source = faked_hash(Fake.RANDOM_ADDRESS, "sha1", spi_i, spi_r, local)
    destination = pipeline.nat_d("destination", "sha1", spi_i, spi_r, remote)
    return [
        Notify(N.NAT_DETECTION_SOURCE_IP, source).pack(),
        Notify(N.NAT_DETECTION_DESTINATION_IP, destination).pack(),
    ]
