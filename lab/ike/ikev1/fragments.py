"""IKE fragmentation as Cisco does it in IKEv1: payload 132 around pieces of a whole message.

A fragment is an ISAKMP header with a single payload: fragment id (2 octets, the same in all pieces),
number (from 1), flags (1 on the last), data. The header repeats cookies and exchange; its message id is 0.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from ..chain import GENERIC_SIZE, HEADER_SIZE, Header, Message, Payload
from ..errors import MalformedError
from ..layer import pack_body, read_body
from . import layers
from .numbers import ENCRYPTED, PayloadType

LAST = 1
_OVERHEAD = HEADER_SIZE + GENERIC_SIZE + 4

MAX_FRAGMENTS = 255
MAX_OCTETS = 65535
MAX_SETS = 16


def split(octets: bytes, size: int, fragment_id: int) -> list[bytes]:
    """A message as fragments of at most `size` octets each. MalformedError if that takes more than 255."""
    header = Header.parse(octets)
    step = size - _OVERHEAD
    pieces = [octets[start : start + step] for start in range(0, len(octets), step)]
    if len(pieces) > MAX_FRAGMENTS:
        raise MalformedError(f"fragments: {len(octets)} octets need {len(pieces)} of {size}, not 255")
    outer = replace(header, flags=header.flags & ~ENCRYPTED, message_id=0)
    messages = []
    for number, piece in enumerate(pieces, 1):
        flags = LAST if number == len(pieces) else 0
        fragment = layers.Fragment(fragment_id=fragment_id, number=number, flags=flags, data=piece)
        messages.append(Message.of(outer, [Payload(PayloadType.FRAGMENT, pack_body(fragment))]).pack())
    return messages


@dataclass(slots=True)
class _Set:
    pieces: dict[int, bytes] = field(default_factory=dict)
    last: int | None = None


@dataclass
class Reassembly:
    """Pieces of unfinished messages; the oldest of more than 16 messages are forgotten."""

    _sets: OrderedDict[tuple[bytes, bytes, int], _Set] = field(default_factory=OrderedDict)

    def add(self, header: Header, body: bytes) -> bytes | None:
        """Take a fragment payload's body; the whole message once its last piece is here.

        Repeated pieces change nothing while the message is incomplete. MalformedError.
        """
        fragment = read_body(layers.Fragment, body)
        number = fragment.number
        key = (header.initiator_spi, header.responder_spi, fragment.fragment_id)
        if number == 0 or not fragment.data:
            raise MalformedError(f"fragment payload: number {number}, {len(fragment.data)} octets of data")
        pieces = self._sets.setdefault(key, _Set())
        self._sets.move_to_end(key)
        if number not in pieces.pieces:
            pieces.pieces[number] = fragment.data
        if fragment.flags & LAST:
            pieces.last = number
        while len(self._sets) > MAX_SETS:
            self._sets.popitem(last=False)
        if sum(map(len, pieces.pieces.values())) > MAX_OCTETS:
            del self._sets[key]
            raise MalformedError(f"fragments: more than {MAX_OCTETS} octets")
        if pieces.last is None or any(n not in pieces.pieces for n in range(1, pieces.last + 1)):
            return None
        del self._sets[key]
        return b"".join(pieces.pieces[n] for n in range(1, pieces.last + 1))

    @property
    def unfinished(self) -> int:
        """Messages of which pieces are missing."""
        return len(self._sets)
