"""What scapy's ISAKMP layers lack for IKEv1 with NAT traversal (RFC 2408 section 3, RFC 3947 section 5.2).

Proposals, transforms and attributes are lists here, each read to its own length: scapy nests them, takes the
SPI of a proposal for transforms, turns numbers into names, and writes a long attribute in as few octets as
will do, where every daemon writes a lifetime in four. NAT-D of any type (130, 15, 20), KE, hash, nonce and
vendor id are octets alone, scapy's generic payload. Nothing is bound to scapy's own layers: others use them.
"""

from __future__ import annotations

import struct
from typing import Any

from scapy.error import Scapy_Exception
from scapy.fields import (
    ByteField,
    IP6Field,
    IPField,
    MultipleTypeField,
    PacketListField,
    ShortField,
    StrLenField,
    XStrFixedLenField,
    XStrLenField,
)
from scapy.layers.isakmp import (
    ISAKMP_payload,
    ISAKMP_payload_ID,
    ISAKMP_payload_Proposal,
    ISAKMP_payload_SA,
    ISAKMP_payload_Transform,
    ISAKMPTransformSetField,
)

from ..layer import Element

_GENERIC = ISAKMP_payload.fields_desc[:3]
_BASIC = 0x8000
_MOST = 255
"""Proposals and transforms in a list: their count, or their number, is one octet."""


class AttributesField(ISAKMPTransformSetField):  # type: ignore[misc]
    """Attributes as pairs of numbers, type and value; a value of more than 16 bits has four octets."""

    def _get_proto(self, pkt: Any) -> int:
        return 0

    def i2m(self, pkt: Any, i: Any) -> bytes:
        """The octets of pairs."""
        return b"".join(
            self.type2num((kind, value)) if value <= 0xFFFF else struct.pack("!HHL", kind, 4, value)
            for kind, value in i or ()
        )

    def m2i(self, pkt: Any, m: bytes) -> list[tuple[int, int]]:
        """The pairs of octets; Scapy_Exception if one is cut, which scapy reads as far as it goes."""
        offset = 0
        while offset < len(m):
            kind, length = struct.unpack("!HH", m[offset : offset + 4].ljust(4, b"\0"))
            offset += 4 if kind & _BASIC else 4 + length
        if offset != len(m):
            raise Scapy_Exception(f"attributes: the last of {len(m)} octets is cut")
        pairs: list[tuple[int, int]] = super().m2i(pkt, m)
        return pairs


class Transform(Element, ISAKMP_payload_Transform):  # type: ignore[misc]
    """One transform of a proposal."""

    name = "transform"
    fields_desc = [  # noqa: RUF012
        *ISAKMP_payload_Transform.fields_desc[:-1],
        AttributesField("transforms", [], length_from=lambda x: x.length - 8),
    ]


class Proposal(Element, ISAKMP_payload_Proposal):  # type: ignore[misc]
    """One proposal and its transforms."""

    name = "proposal"
    fields_desc = [  # noqa: RUF012
        *ISAKMP_payload_Proposal.fields_desc[:-1],
        PacketListField(
            "trans", [], Transform, length_from=lambda x: x.length - 8 - x.SPIsize, max_count=_MOST
        ),
    ]


class SecurityAssociation(ISAKMP_payload_SA):  # type: ignore[misc]
    """An SA payload and its proposals."""

    name = "SA payload"
    fields_desc = [  # noqa: RUF012
        *ISAKMP_payload_SA.fields_desc[:-1],
        PacketListField("prop", [], Proposal, length_from=lambda x: x.length - 12, max_count=_MOST),
    ]


class Identification(ISAKMP_payload_ID):  # type: ignore[misc]
    """An ID payload whose data stays octets, whatever its type: scapy knows IPv4 addresses alone."""

    name = "ID payload"
    fields_desc = [  # noqa: RUF012
        *ISAKMP_payload_ID.fields_desc[:-1],
        XStrLenField("IdentData", b"", length_from=lambda x: x.length - 8),
    ]


class NatOa(ISAKMP_payload):  # type: ignore[misc]
    """NAT-OA, payload type 131, 16 or 21: an identity type, three reserved octets, an address."""

    name = "NAT-OA payload"
    fields_desc = [  # noqa: RUF012
        *_GENERIC,
        ByteField("IDtype", 1),
        XStrFixedLenField("reserved", bytes(3), 3),
        MultipleTypeField(
            [
                (IPField("address", "0.0.0.0"), lambda x: x.IDtype == 1),
                (IP6Field("address", "::"), lambda x: x.IDtype == 5),
            ],
            StrLenField("address", b"", length_from=lambda x: x.length - 8),
        ),
    ]


class Fragment(ISAKMP_payload):  # type: ignore[misc]
    """A piece of a whole message as Cisco sends it, payload type 132; flag 1 is on the last."""

    name = "fragment payload"
    fields_desc = [  # noqa: RUF012
        *_GENERIC,
        ShortField("fragment_id", 0),
        ByteField("number", 1),
        ByteField("flags", 0),
        XStrLenField("data", b"", length_from=lambda x: x.length - 8),
    ]
