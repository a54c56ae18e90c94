"""What scapy's IKEv2 layers lack (RFC 7296 section 3).

Proposals and transforms are lists here, as in lab.ike.ikev1.layers. Attributes of a transform, identities and
the data of a notify stay octets: scapy takes any attribute for a key length, fails over an address of the
wrong length, and reads on where a REDIRECT ends. Selectors of an unknown type end where their length says.
"""

from __future__ import annotations

from typing import Any

from scapy.contrib.ikev2 import (
    IKEv2_IDi,
    IKEv2_Notify,
    IKEv2_Proposal,
    IKEv2_SA,
    IKEv2_Transform,
    IKEv2_TSi,
    IPv4TrafficSelector,
    IPv6TrafficSelector,
    TrafficSelector,
)
from scapy.fields import ByteField, PacketListField, ShortField, XStrLenField

from ..layer import Element

_MOST = 255
"""Elements in a list: their count is one octet."""


class Transform(Element, IKEv2_Transform):  # type: ignore[misc]
    """One transform of a proposal."""

    name = "transform"
    fields_desc = [  # noqa: RUF012
        *IKEv2_Transform.fields_desc[:2],
        ShortField("length", None),
        *IKEv2_Transform.fields_desc[3:5],
        ShortField("transform_id", 0),
        XStrLenField("attributes", b"", length_from=lambda x: x.length - 8),
    ]


class Proposal(Element, IKEv2_Proposal):  # type: ignore[misc]
    """One proposal and its transforms."""

    name = "proposal"
    fields_desc = [  # noqa: RUF012
        *IKEv2_Proposal.fields_desc[:-1],
        PacketListField(
            "trans", [], Transform, length_from=lambda x: x.length - 8 - x.SPIsize, max_count=_MOST
        ),
    ]


class SecurityAssociation(IKEv2_SA):  # type: ignore[misc]
    """An SA payload and its proposals."""

    name = "SA payload"
    fields_desc = [  # noqa: RUF012
        *IKEv2_SA.fields_desc[:-1],
        PacketListField("prop", [], Proposal, length_from=lambda x: x.length - 4, max_count=_MOST),
    ]


class Identification(IKEv2_IDi):  # type: ignore[misc]
    """An IDi or IDr payload."""

    name = "ID payload"
    fields_desc = [  # noqa: RUF012
        *IKEv2_IDi.fields_desc[:-1],
        XStrLenField("ID", b"", length_from=lambda x: x.length - 8),
    ]


class Notification(IKEv2_Notify):  # type: ignore[misc]
    """A notify payload of any type."""

    name = "notify payload"
    fields_desc = [  # noqa: RUF012
        *IKEv2_Notify.fields_desc[:7],
        XStrLenField("notify", b"", length_from=lambda x: x.length - 8 - x.SPIsize),
    ]


class UnknownSelector(TrafficSelector):  # type: ignore[misc]
    """A traffic selector of another type than an address range."""

    name = "unknown traffic selector"
    fields_desc = [  # noqa: RUF012
        ByteField("TS_type", 0),
        ByteField("IP_protocol_ID", 0),
        ShortField("length", None),
        XStrLenField("load", b"", length_from=lambda x: x.length - 4),
    ]


_SELECTORS = {7: IPv4TrafficSelector, 8: IPv6TrafficSelector}


def _selector(octets: bytes) -> Any:
    return _SELECTORS.get(octets[0], UnknownSelector)(octets)


class TrafficSelectors(IKEv2_TSi):  # type: ignore[misc]
    """A TSi or TSr payload."""

    name = "TS payload"
    fields_desc = [  # noqa: RUF012
        *IKEv2_TSi.fields_desc[:-1],
        PacketListField(
            "traffic_selector", [], _selector, length_from=lambda x: x.length - 8, max_count=_MOST
        ),
    ]
