"""PF_KEY messages as octets, taken apart and put together without the encapsulator's own codec."""

import struct
import sys

SA, SOURCE, DESTINATION = 1, 5, 6
NAT_T_TYPE, NAT_T_SPORT, NAT_T_DPORT, NAT_T_OA, NAT_T_FRAG = 20, 21, 22, 23, 25
"""Extensions by number (RFC 2367 section 2.3, and what KAME and Linux added)."""
HOST = "<" if sys.byteorder == "little" else ">"
HEADER = 16


def extensions(octets: bytes) -> dict[int, bytes]:
    """The extensions of a message, whole, by number; lengths are 64-bit words (RFC 2367 section 2.2)."""
    (words,) = struct.unpack_from(HOST + "H", octets, 4)
    assert words * 8 == len(octets)
    found = {}
    at = HEADER
    while at < len(octets):
        length, number = struct.unpack_from(HOST + "HH", octets, at)
        assert length > 0
        assert number not in found
        found[number] = octets[at : at + 8 * length]
        at += 8 * length
    assert at == len(octets)
    return found


def head(number: int, words: int = 1) -> bytes:
    return struct.pack(HOST + "HH", words, number)


def add_extension(message: bytes, extension: bytes) -> bytes:
    """A message with one more extension, its length put right."""
    words = (len(message) + len(extension)) // 8
    return message[:4] + struct.pack(HOST + "H", words) + message[6:] + extension


def with_extension(message: bytes, number: int, extension: bytes) -> bytes:
    """A message with an extension replaced, or left out when `extension` is empty."""
    found = extensions(message)
    found[number] = extension
    body = b"".join(found.values())
    return message[:4] + struct.pack(HOST + "H", (HEADER + len(body)) // 8) + message[6:HEADER] + body
