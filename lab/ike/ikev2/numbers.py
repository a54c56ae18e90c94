"""IANA's numbers of IKEv2, by the names the RFCs use."""

from __future__ import annotations

from enum import IntEnum

VERSION = 0x20
FLAG_INITIATOR = 0x08
FLAG_RESPONSE = 0x20

PROTOCOL_NONE = 0
PROTOCOL_IKE = 1
PROTOCOL_ESP = 3

AUTH_SHARED_KEY = 2


class Exchange(IntEnum):
    """Exchange types (RFC 7296 section 3.1)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37


class P(IntEnum):
    """Payload types (RFC 7296 section 3.2, RFC 7383)."""

    SA = 33
    KE = 34
    IDI = 35
    IDR = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR = 43
    TSI = 44
    TSR = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53


KNOWN_PAYLOADS = frozenset(P)


class N(IntEnum):
    """Notify message types; below 16384 they are errors (RFC 7296 section 3.10.1)."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    UNACCEPTABLE_ADDRESSES = 40
    UNEXPECTED_NAT_DETECTED = 41
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    INITIAL_CONTACT = 16384
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    REDIRECT_SUPPORTED = 16406
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    CHILDLESS_IKEV2_SUPPORTED = 16418
    IKEV2_FRAGMENTATION_SUPPORTED = 16430


FIRST_STATUS = 16384


def notify_name(number: int) -> str:
    """``NO_PROPOSAL_CHOSEN``, or ``notify 12345`` for a number without a name here."""
    try:
        return N(number).name
    except ValueError:
        return f"notify {number}"


def exchange_name(number: int) -> str:
    """``IKE_AUTH``, or ``exchange 99``."""
    try:
        return Exchange(number).name
    except ValueError:
        return f"exchange {number}"


class T(IntEnum):
    """Transform types (RFC 7296 section 3.3.2)."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    DH = 4
    ESN = 5


ATTRIBUTE_KEY_LENGTH = 14

ENCRYPTION_IDS = {"3des-cbc": 3, "aes-cbc": 12, "aes-gcm-16": 20}
PRF_IDS = {"hmac-md5": 1, "hmac-sha1": 2, "hmac-sha2-256": 5, "hmac-sha2-384": 6, "hmac-sha2-512": 7}
INTEGRITY_IDS = {
    "hmac-md5-96": 1,
    "hmac-sha1-96": 2,
    "hmac-sha2-256-128": 12,
    "hmac-sha2-384-192": 13,
    "hmac-sha2-512-256": 14,
}
NO_ESN = 0
"""Transform id of type ESN: 32-bit sequence numbers; 1 is extended ones."""
