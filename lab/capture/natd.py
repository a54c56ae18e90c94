"""What IKE says about NAT: detection hashes and the vendor ids that name a NAT-T version."""

from __future__ import annotations

import hashlib
import ipaddress

Address = str | ipaddress.IPv4Address | ipaddress.IPv6Address

NAT_D_PAYLOADS = {20: "RFC 3947", 130: "drafts 00-03", 15: "drafts 04-08"}
"""IKEv1 NAT-D payload types and the versions that use them."""

NAT_DETECTION_SOURCE_IP = 16388
NAT_DETECTION_DESTINATION_IP = 16389

_NAMES = (
    "RFC 3947",
    "draft-ietf-ipsec-nat-t-ike",
    *(f"draft-ietf-ipsec-nat-t-ike-{number:02d}" for number in range(9)),
    "draft-ietf-ipsec-nat-t-ike-02\n",
    "draft-stenberg-ipsec-nat-traversal-01",
    "draft-stenberg-ipsec-nat-traversal-02",
    "ESPThruNAT",
)

NAT_T_VENDOR_IDS: dict[bytes, str] = {
    hashlib.md5(name.encode(), usedforsecurity=False).digest(): name for name in _NAMES
}
"""Octets of a vendor id payload → the text they are the MD5 of (draft 02 also exists with a newline)."""


def nat_d_hash_v1(cookie_i: bytes, cookie_r: bytes, address: Address, port: int, hash_name: str) -> bytes:
    """NAT-D hash of IKEv1: HASH(CKY-I | CKY-R | IP | port) (RFC 3947 §3.2).

    Cookies are 8 octets each, `hash_name` is the hash negotiated in phase 1 as hashlib calls it (md5, sha1,
    sha256, …). Returns the whole digest. Raises ValueError naming the argument that is wrong.
    """
    try:
        digest = hashlib.new(hash_name, usedforsecurity=False)
    except ValueError as error:
        raise ValueError(f"hash_name: no such hash here: {hash_name!r}") from error
    digest.update(_hash_input(cookie_i, cookie_r, address, port))
    return digest.digest()


def nat_detection_hash(spi_i: bytes, spi_r: bytes, address: Address, port: int) -> bytes:
    """Data of NAT_DETECTION_SOURCE_IP / _DESTINATION_IP: SHA-1(SPIi | SPIr | IP | port) (RFC 7296 §2.23).

    SPIs are 8 octets each, as in the header of the message that carries the notify: the responder's is zero
    in an IKE_SA_INIT request. Returns 20 octets. Raises ValueError naming the argument that is wrong.
    """
    return nat_d_hash_v1(spi_i, spi_r, address, port, "sha1")


def _hash_input(spi_i: bytes, spi_r: bytes, address: Address, port: int) -> bytes:
    for name, spi in (("initiator", spi_i), ("responder", spi_r)):
        if len(spi) != 8:
            raise ValueError(f"{name} cookie: want 8 octets, got {len(spi)}")
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port: want 0-65535, got {port}")
    return spi_i + spi_r + ipaddress.ip_address(address).packed + port.to_bytes(2, "big")
