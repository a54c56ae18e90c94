"""Classic BPF programs (Linux `struct sock_filter`): an assembler with labels. Pure."""

from __future__ import annotations

import struct

_INSTRUCTION = struct.Struct("=HBBI")
_MOST_INSTRUCTIONS = 4096
_FARTHEST = 255

LOAD_WORD = 0x20
"""BPF_LD | BPF_W | BPF_ABS: a big-endian word of a packet, a host-order one of a system call."""
LOAD_OCTET = 0x30
LOAD_LENGTH = 0x80
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06


class Assembler:
    """Instructions in order. Jumps go forward to labels that are set later."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def load(self, what: int, offset: int = 0) -> None:
        """Load the accumulator: LOAD_WORD, LOAD_OCTET at an offset in octets, or LOAD_LENGTH."""
        self._code.append((what, "", "", offset))

    def jump_if_equal(self, value: int, then: str = "", otherwise: str = "") -> None:
        """Go to a label if the accumulator is `value`, to another if not; an empty label is the next line."""
        self._code.append((_JUMP_EQUAL, then, otherwise, value))

    def jump_if_greater(self, value: int, then: str = "", otherwise: str = "") -> None:
        """The same if the accumulator is above `value`, unsigned."""
        self._code.append((_JUMP_GREATER, then, otherwise, value))

    def jump_if_any_bit(self, bits: int, then: str = "", otherwise: str = "") -> None:
        """The same if the accumulator has one of `bits`."""
        self._code.append((_JUMP_ANY_BIT, then, otherwise, bits))

    def give(self, value: int) -> None:
        """End with this value."""
        self._code.append((_RETURN, "", "", value))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def octets(self) -> bytes:
        """The program as an array of `struct sock_filter`; ValueError for jumps BPF cannot make."""
        if len(self._code) > _MOST_INSTRUCTIONS:
            raise ValueError(f"{len(self._code)} instructions, at most {_MOST_INSTRUCTIONS}")
        return b"".join(
            _INSTRUCTION.pack(code, self._distance(at, then), self._distance(at, otherwise), value)
            for at, (code, then, otherwise, value) in enumerate(self._code)
        )

    def _distance(self, at: int, label: str) -> int:
        if not label:
            return 0
        if label not in self._labels:
            raise ValueError(f"label {label!r} is nowhere")
        distance = self._labels[label] - at - 1
        if not 0 <= distance <= _FARTHEST:
            raise ValueError(
                f"label {label!r} is {distance} instructions away, 0 to {_FARTHEST} are possible"
            )
        return distance
