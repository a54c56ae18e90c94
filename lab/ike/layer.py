"""Bodies of payloads and scapy's layers, which have the generic header as fields of their own."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from scapy.error import Scapy_Exception

from .chain import GENERIC_SIZE, octets_of
from .errors import MalformedError


def pack_body(layer: Any) -> bytes:
    """What a payload's layer writes after its generic header."""
    return octets_of(layer)[GENERIC_SIZE:]


def read_body(layer: Any, body: bytes) -> Any:
    """`body` as a packet of the class `layer`, all of it. MalformedError names the layer.

    Lists inside it are to be asked for with `elements`: scapy takes what it cannot read for raw octets.
    """
    try:
        packet = layer(bytes(2) + struct.pack("!H", GENERIC_SIZE + len(body)) + body)
    except (struct.error, Scapy_Exception) as error:
        raise MalformedError(f"{layer.name}: {len(body)} octets do not hold its fields") from error
    if packet.payload:
        raise MalformedError(f"{layer.name}: {len(packet.payload)} octets after its fields")
    return packet


class Element:
    """Makes a packet one of a list: what follows it is the next one."""

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """Nothing is inside, all is behind."""
        return b"", s


def elements(owner: Any, field: str) -> list[Any]:
    """The packets of a list field that have a length field each. MalformedError if one of these lies."""
    found: list[Any] = list(owner.getfieldval(field))
    for number, element in enumerate(found):
        if getattr(element, "length", None) != len(element):
            start = bytes(element)[:16].hex()
            raise MalformedError(f"{owner.name}: element {number} is not as long as it says: {start}…")
    return found


def linked(found: Iterable[Any], kind: int) -> list[Any]:
    """The elements of a list, each but the last saying that one of `kind` follows."""
    listed = list(found)
    for element in listed:
        element.explicit = 1
    for element in listed[:-1]:
        element.next_payload = kind
    return listed


def chained(owner: Any, field: str, kind: int) -> list[Any]:
    """As `elements`, at least one, linked by next-payload fields. MalformedError if these say otherwise."""
    found = elements(owner, field)
    if not found:
        raise MalformedError(f"{owner.name}: its list is empty")
    following = [element.next_payload for element in found]
    if following != [kind] * (len(found) - 1) + [0]:
        raise MalformedError(f"{owner.name}: next payloads {following} in a list of payload {kind}")
    return found
