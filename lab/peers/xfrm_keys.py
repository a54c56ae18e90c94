"""Keys of the kernel's ESP SAs, as ``ip xfrm state`` prints them, in Wireshark's form. Pure."""

from __future__ import annotations

import re

from lab.ike import keys
from lab.ike.association import EspSa
from lab.ike.crypto import NO_INTEGRITY
from lab.ike.transport import Endpoint

_SA = re.compile(r"^(?=src )", re.MULTILINE)
_HEAD = re.compile(r"src (\S+) dst (\S+)")
_SPI = re.compile(r"proto esp spi 0x([0-9a-f]+)")
_KEY = re.compile(r"^\s+(auth-trunc|auth|enc|aead) (\S+) 0x([0-9a-f]*)(?: (\d+))?", re.MULTILINE)
_ENCRYPTIONS = {"cbc(aes)": "aes-cbc", "cbc(des3_ede)": "3des-cbc"}
_INTEGRITIES = {
    ("hmac(md5)", 96): "hmac-md5-96",
    ("hmac(sha1)", 96): "hmac-sha1-96",
    ("hmac(sha256)", 128): "hmac-sha2-256-128",
    ("hmac(sha384)", 192): "hmac-sha2-384-192",
    ("hmac(sha512)", 256): "hmac-sha2-512-256",
}


def esp_lines(listing: str) -> list[str]:
    """One line of the table ``esp_sa`` for every SA listed whose algorithms Wireshark has names for."""
    found = (_line(text) for text in _SA.split(listing))
    return [line for line in found if line]


def _line(text: str) -> str:
    ends, spi = _HEAD.match(text), _SPI.search(text)
    algorithms = {match[1]: match for match in _KEY.finditer(text)}
    if ends is None or spi is None:
        return ""
    integrity, integrity_key = NO_INTEGRITY, b""
    if "aead" in algorithms:
        aead = algorithms["aead"]
        encryption, key = {("rfc4106(gcm(aes))", "128"): "aes-gcm-16"}.get((aead[2], aead[4]), ""), aead[3]
    elif "enc" in algorithms and "auth-trunc" in algorithms:
        mac = algorithms["auth-trunc"]
        encryption, key = _ENCRYPTIONS.get(algorithms["enc"][2], ""), algorithms["enc"][3]
        integrity, integrity_key = _INTEGRITIES.get((mac[2], int(mac[4])), ""), bytes.fromhex(mac[3])
    else:
        return ""
    if not encryption or not integrity:
        return ""
    return keys.esp_line(
        EspSa(
            direction="in",
            spi=int(spi[1], 16),
            source=Endpoint(ends[1], 0),
            destination=Endpoint(ends[2], 0),
            encryption=encryption,
            encryption_key=bytes.fromhex(key),
            integrity=integrity,
            integrity_key=integrity_key,
        )
    )
