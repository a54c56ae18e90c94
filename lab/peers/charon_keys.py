"""The keys charon writes at its highest log level, as tables for Wireshark.

Debian's charon has no save-keys plugin. The log is one of lines ``13[CHD] text``: number of the thread and
subsystem; a dump of octets follows its heading on lines of offset, octets and characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.ike import keys
from lab.ike.association import EspSa
from lab.ike.crypto import NO_INTEGRITY, Encryption
from lab.ike.transport import Endpoint

LEVELS = {"default": -1, "cfg": 1, "chd": 4, "enc": 1, "ike": 4, "mgr": 2}
"""What charon must log for the tables: level by subsystem."""
_ENCRYPTIONS = {"AES_CBC": "aes-cbc", "AES_GCM_16": "aes-gcm-16", "3DES_CBC": "3des-cbc"}
_INTEGRITIES = {
    "HMAC_MD5_96": "hmac-md5-96",
    "HMAC_SHA1_96": "hmac-sha1-96",
    "HMAC_SHA2_256_128": "hmac-sha2-256-128",
    "HMAC_SHA2_384_192": "hmac-sha2-384-192",
    "HMAC_SHA2_512_256": "hmac-sha2-512-256",
}
_LINE = re.compile(r"(\d+)\[(\w+)\] (.*)")
_HEADING = re.compile(r"(.+?) => (\d+) bytes @ ")
_DUMP = re.compile(r" *\d+: ((?:[0-9A-F]{2} ){1,16})")
_SPIS = re.compile(r"checkin IKEv(\d) SA .* with SPIs ([0-9a-f]{16})_i ([0-9a-f]{16})_r")
_SA = re.compile(r"  SPI 0x([0-9a-f]+), src \S+ dst (\S+)")
_USING = re.compile(r"  using (\S+) for (encryption|integrity)")


@dataclass
class _Thread:
    """What one thread of charon has told so far of the exchange it is at."""

    is_initiator: bool = False
    proposal: str = ""
    encryption: str = ""
    integrity: str = ""
    direction: str = ""
    octets: dict[str, bytes] = field(default_factory=dict)
    """Heading of a dump → its octets, and while they come, what there is of them."""
    heading: str = ""
    left: int = 0


def tables(log: Iterable[str]) -> dict[str, str]:
    """Name of each Wireshark table that has any line → its text, from the lines of a log with LEVELS.

    Algorithms for which Wireshark has no name are left out.
    """
    threads: dict[str, _Thread] = {}
    found: dict[str, dict[str, None]] = {}
    ike_seen: set[str] = set()
    for line in log:
        match = _LINE.match(line)
        if match is None:
            continue
        number, _, text = match.groups()
        thread = threads.setdefault(number, _Thread())
        for table, row in _read(thread, text, ike_seen):
            found.setdefault(table, {})[row] = None
    return {table: "".join(f"{row}\n" for row in rows) for table, rows in found.items()}


def _read(thread: _Thread, text: str, ike_seen: set[str]) -> list[tuple[str, str]]:
    if thread.left:
        dump = _DUMP.match(text)
        if dump is not None:
            octets = bytes.fromhex(dump[1])[: thread.left]
            thread.octets[thread.heading] += octets
            thread.left -= len(octets)
            return []
        thread.left = 0
    if heading := _HEADING.match(text):
        thread.heading, thread.left = heading[1], int(heading[2])
        thread.octets[thread.heading] = b""
    elif text.startswith(("parsed ", "generating ")):
        words = text.split()
        # What is parsed tells the role: the initiator parses responses.
        if words[0] == "parsed" and len(words) > 2:
            thread.is_initiator = words[2] == "response"
    elif text.startswith("selected proposal: IKE:"):
        thread.proposal = text.removeprefix("selected proposal: IKE:")
    elif using := _USING.match(text):
        if using[2] == "encryption":
            thread.encryption, thread.integrity = using[1], ""
        else:
            thread.integrity = using[1]
    elif text.startswith(("adding inbound ", "adding outbound ")):
        thread.direction = text.split()[1]
    elif sa := _SA.match(text):
        return _esp(thread, int(sa[1], 16), sa[2])
    elif spis := _SPIS.match(text):
        return _ike(thread, spis[1], spis[2], spis[3], ike_seen)
    return []


def _esp(thread: _Thread, spi: int, destination: str) -> list[tuple[str, str]]:
    by_initiator = thread.is_initiator == (thread.direction == "outbound")
    side = "initiator" if by_initiator else "responder"
    key = thread.octets.get(f"encryption {side} key")
    if key is None or thread.encryption not in _ENCRYPTIONS:
        return []
    here = Endpoint(destination, 0)
    sa = EspSa(
        direction="in" if thread.direction == "inbound" else "out",
        spi=spi,
        source=here,
        destination=here,
        encryption=_ENCRYPTIONS[thread.encryption],
        encryption_key=key,
        integrity=_INTEGRITIES.get(thread.integrity, NO_INTEGRITY),
        integrity_key=thread.octets.get(f"integrity {side} key", b"") if thread.integrity else b"",
    )
    return [(keys.ESP_TABLE, keys.esp_line(sa))]


def _ike(thread: _Thread, version: str, spi_i: str, spi_r: str, ike_seen: set[str]) -> list[tuple[str, str]]:
    if spi_i in ike_seen:
        return []
    octets = thread.octets
    if version == "1" and "encryption key Ka" in octets:
        ike_seen.add(spi_i)
        return [(keys.IKEV1_TABLE, keys.ikev1_line(bytes.fromhex(spi_i), octets.pop("encryption key Ka")))]
    if version == "2" and "Sk_er secret" in octets and spi_r != "0" * 16:
        encryption, integrity = _ikev2_algorithms(thread.proposal)
        ei, er = octets.pop("Sk_ei secret"), octets.pop("Sk_er secret")
        ai, ar = octets.pop("Sk_ai secret", b""), octets.pop("Sk_ar secret", b"")
        if encryption is None:
            return []
        ike_seen.add(spi_i)
        spis = bytes.fromhex(spi_i), bytes.fromhex(spi_r)
        return [(keys.IKEV2_TABLE, keys.ikev2_line(*spis, encryption, integrity, ei, er, ai, ar))]
    return []


def _ikev2_algorithms(proposal: str) -> tuple[Encryption | None, str]:
    """Encryption and integrity out of ``AES_CBC_128/HMAC_SHA2_256_128/PRF_…``, None for one without name."""
    encryption, integrity = None, NO_INTEGRITY
    for word in proposal.split("/"):
        name, _, bits = word.rpartition("_")
        if name in _ENCRYPTIONS and bits.isdigit():
            encryption = Encryption(_ENCRYPTIONS[name], int(bits))
        elif word == "3DES_CBC":
            encryption = Encryption("3des-cbc", 192)
        integrity = _INTEGRITIES.get(word, integrity)
    return encryption, integrity
