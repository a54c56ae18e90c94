"""Numbers of ISAKMP and the IPsec DOI (RFC 2407, RFC 2408, IANA isakmp-registry and ipsec-registry)."""

from __future__ import annotations

import enum

VERSION = 0x10
ENCRYPTED = 1
DOI_IPSEC = 1
PADDING = 3
"""Octets that may follow the payloads of a message in clear: some peers make its length a multiple of 4."""


class ExchangeType(enum.IntEnum):
    """Exchange types (RFC 2408 section 3.1, RFC 2409 appendix A)."""

    MAIN = 2
    AGGRESSIVE = 4
    INFORMATIONAL = 5
    TRANSACTION = 6
    QUICK = 32


class PayloadType(enum.IntEnum):
    """Payload types that no NAT-T version changes; NAT-D and NAT-OA are in lab.ike.versions."""

    SA = 1
    KE = 4
    ID = 5
    HASH = 8
    NONCE = 10
    NOTIFY = 11
    DELETE = 12
    VENDOR_ID = 13
    FRAGMENT = 132


class NotifyType(enum.IntEnum):
    """Notify message types used here (RFC 2408 section 3.14.1, RFC 2407 section 4.6.3, RFC 3706)."""

    INVALID_EXCHANGE_TYPE = 7
    NO_PROPOSAL_CHOSEN = 14
    PAYLOAD_MALFORMED = 16
    INVALID_ID_INFORMATION = 18
    INVALID_HASH_INFORMATION = 23
    AUTHENTICATION_FAILED = 24
    RESPONDER_LIFETIME = 24576
    REPLAY_STATUS = 24577
    INITIAL_CONTACT = 24578
    R_U_THERE = 36136
    R_U_THERE_ACK = 36137


PROTO_ISAKMP = 1
PROTO_AH = 2
PROTO_ESP = 3

DPD_VENDOR_ID = bytes.fromhex("afcad71368a1f1c96b8696fc77570100")
"""RFC 3706 section 5.1."""

FRAGMENTATION_VENDOR_ID = bytes.fromhex("4048b7d56ebce88525e7de7f00d6c2d3")
"""MD5 of FRAGMENTATION; up to four octets of flags may follow."""


def name_of(kind: type[enum.IntEnum], number: int) -> str:
    """``NO_PROPOSAL_CHOSEN`` or, for a number without a name here, ``8192``."""
    try:
        return kind(number).name
    except ValueError:
        return str(number)
