"""ESP packets: header, padding, trailer (RFC 4303 section 2), and their sizes."""

from __future__ import annotations

from .transforms import IntegrityError, Sizes, Transform
from .wire import ESP_HEADER_LENGTH, Encap

DUMMY = 59
"""Next header of a dummy packet, to be discarded silently (RFC 4303 section 2.6)."""

_TRAILERS = [bytes(range(1, length + 1)) + bytes((length,)) for length in range(256)]
_OCTETS = [bytes((value,)) for value in range(256)]

__all__ = ["DUMMY", "Esp", "EspError", "IntegrityError", "largest_inner", "outer_length"]


class EspError(Exception):
    """An ESP packet that is too short, misaligned or wrongly padded."""


class Esp:
    """ESP of one SA: seals and opens packets, keeps no sequence state.

    `check_padding` verifies the default pad octets 1, 2, 3 … (RFC 4303 section 2.4, SHOULD).
    """

    __slots__ = ("_block", "_least", "_spi", "check_padding", "esn", "transform")

    def __init__(self, spi: int, transform: Transform, esn: bool = False, check_padding: bool = True) -> None:
        self._spi = spi.to_bytes(4, "big")
        self.transform = transform
        self.esn = esn
        self.check_padding = check_padding
        self._block = transform.block
        self._least = ESP_HEADER_LENGTH + transform.iv_length + transform.block + transform.icv_length

    def seal(
        self, sequence: int, payload: bytes, next_header: int, *, tfc: int = 0, iv: bytes | None = None
    ) -> bytes:
        """The ESP packet of `payload`; `sequence` is the whole number, `tfc` counts octets of TFC padding.

        `iv` fixes the IV for test vectors.
        """
        if tfc:
            payload += bytes(tfc)
        plaintext = payload + (_TRAILERS[-(len(payload) + 2) % self._block] + _OCTETS[next_header])
        header = self._spi + (sequence & 0xFFFFFFFF).to_bytes(4, "big")
        high = (sequence >> 32).to_bytes(4, "big") if self.esn else b""
        return self.transform.seal(header, high, sequence, plaintext, iv)

    def open(self, packet: bytes, sequence: int) -> tuple[bytes, int]:
        """Payload (TFC padding still on it) and next header of an ESP packet.

        `sequence` is the whole number the replay window inferred. EspError for bad form, IntegrityError for a
        wrong ICV.
        """
        excess = len(packet) - self._least
        if excess < 0:
            raise EspError(f"{len(packet)} octets, the algorithms need {self._least}")
        if excess % self._block:
            raise EspError(f"ciphertext is no multiple of {self._block} octets")
        high = (sequence >> 32).to_bytes(4, "big") if self.esn else b""
        plaintext = self.transform.open(packet, high)
        pad_length = plaintext[-2]
        end = len(plaintext) - 2 - pad_length
        if end < 0:
            raise EspError(f"pad length {pad_length} in {len(plaintext)} octets")
        if self.check_padding and plaintext[end:-1] != _TRAILERS[pad_length]:
            raise EspError("pad octets are not 1, 2, 3 …")
        return plaintext[:end], plaintext[-1]


def largest_inner(
    path_mtu: int, sizes: Sizes, encap: Encap, *, outer_header: int = 20, transport: bool = False
) -> int:
    """Octets of the largest inner packet whose outer packet fits `path_mtu`.

    Tunnel mode: the whole inner packet. Transport mode: the packet with its own IP header of `outer_header`
    octets. `outer_header` is 20 for IPv4 and 40 for IPv6.
    """
    fixed = outer_header + encap.overhead + ESP_HEADER_LENGTH + sizes.iv_length + sizes.icv_length
    room = path_mtu - fixed
    inner = room - room % sizes.block - 2
    return inner + outer_header if transport else inner


def outer_length(payload: int, sizes: Sizes, encap: Encap, *, outer_header: int = 20) -> int:
    """Octets of the outer packet around `payload` octets (tunnel: inner packet, transport: upper layer)."""
    padded = payload + 2 + -(payload + 2) % sizes.block
    fixed = outer_header + encap.overhead + ESP_HEADER_LENGTH + sizes.iv_length + sizes.icv_length
    return fixed + padded
