"""The encrypted payload and its fragments (RFC 7296 section 3.14, RFC 5282, RFC 7383)."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field

from scapy.contrib.ikev2 import IKEv2_Encrypted, IKEv2_Encrypted_Fragment

from ..chain import GENERIC_SIZE, HEADER_SIZE, Header, Message, octets_of, pack_chain, parse_chain
from ..crypto import INTEGRITIES, cbc_decrypt, cbc_encrypt, gcm_decrypt, gcm_encrypt, icv
from ..errors import AuthenticationError, CryptoError, MalformedError
from ..layer import read_body
from .keymat import IkeKeys
from .numbers import P

_FRAGMENT = 4
MAX_FRAGMENTS = 255


def seal(message: Message, keys: IkeKeys, by_initiator: bool) -> bytes:
    """A whole message with all its payloads in one encrypted payload; `by_initiator` is the original one."""
    first, chain = pack_chain(message.payloads)
    return _sealed(message, keys, by_initiator, first, chain)


def seal_fragments(message: Message, keys: IkeKeys, by_initiator: bool, limit: int) -> list[bytes]:
    """The same in fragments of at most `limit` octets of message each, or in one piece if that fits.

    CryptoError if `limit` leaves no room or more than 255 fragments would be needed.
    """
    first, chain = pack_chain(message.payloads)
    kind = keys.suite.encryption.kind
    if len(whole := _sealed(message, keys, by_initiator, first, chain)) <= limit:
        return [whole]
    tag = kind.icv_length or INTEGRITIES[keys.suite.integrity].icv_length
    room = limit - HEADER_SIZE - GENERIC_SIZE - _FRAGMENT - kind.iv_length - tag
    room = room // kind.block * kind.block - 1
    if room < 1:
        raise CryptoError(f"fragmentation: {limit} octets leave no room for data")
    parts = [chain[offset : offset + room] for offset in range(0, len(chain), room)]
    if len(parts) > MAX_FRAGMENTS:
        raise CryptoError(f"fragmentation: {len(parts)} fragments are more than {MAX_FRAGMENTS}")
    return [
        _sealed(message, keys, by_initiator, first if number == 1 else 0, part, (number, len(parts)))
        for number, part in enumerate(parts, 1)
    ]


def _sealed(
    message: Message,
    keys: IkeKeys,
    by_initiator: bool,
    first: int,
    chain: bytes,
    fragment: tuple[int, int] | None = None,
) -> bytes:
    """`chain` in an encrypted payload, or in an encrypted fragment of this number and total."""
    suite = keys.suite
    sizes = suite.encryption.kind
    key = keys.sk_ei if by_initiator else keys.sk_er
    pad = -(len(chain) + 1) % sizes.block
    plaintext = chain + bytes(pad) + bytes((pad,))
    tag = sizes.icv_length or INTEGRITIES[suite.integrity].icv_length
    length = GENERIC_SIZE + sizes.iv_length + len(plaintext) + tag
    if fragment is None:
        kind, head = P.SK, IKEv2_Encrypted(next_payload=first, length=length)
    else:
        length += _FRAGMENT
        number, total = fragment
        kind = P.SKF
        head = IKEv2_Encrypted_Fragment(
            next_payload=first, length=length, frag_number=number, frag_total=total
        )
    clear = message.header(kind, HEADER_SIZE + length).pack() + octets_of(head)
    iv = os.urandom(sizes.iv_length)
    if suite.encryption.is_aead:
        return clear + iv + gcm_encrypt(key, iv, plaintext, clear)
    octets = clear + iv + cbc_encrypt(suite.encryption.name, key, iv, plaintext)
    return octets + icv(suite.integrity, keys.sk_ai if by_initiator else keys.sk_ar, octets)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in one encrypted payload: octets of a chain, and of which fragment they are."""

    header: Header
    first: int
    chain: bytes
    number: int = 1
    total: int = 1

    def message(self) -> Message:
        """The message in clear; MalformedError if the chain is broken. Only for an unfragmented one."""
        return Message.of(self.header, parse_chain(self.first, self.chain))


def open_sealed(octets: bytes, keys: IkeKeys, by_initiator: bool) -> Opened:
    """Verify and decrypt a message of encrypted payload or fragment.

    AuthenticationError if the checksum is wrong, MalformedError if there is no such payload or its lengths
    or padding are wrong. `by_initiator` says that the original initiator sent it.
    """
    header = Header.parse(octets)
    payloads = parse_chain(header.next_payload, octets[HEADER_SIZE:], last=(P.SK, P.SKF))
    if not payloads or payloads[-1].type not in (P.SK, P.SKF):
        raise MalformedError("no encrypted payload")
    sealed = payloads[-1]
    suite = keys.suite
    sizes = suite.encryption.kind
    number = total = 1
    prefix = 0
    if sealed.type == P.SKF:
        prefix = _FRAGMENT
        fragment = read_body(IKEv2_Encrypted_Fragment, sealed.body)
        number, total = fragment.frag_number, fragment.frag_total
    tag = sizes.icv_length or INTEGRITIES[suite.integrity].icv_length
    if len(sealed.body) < prefix + sizes.iv_length + tag + 1:
        raise MalformedError(f"encrypted payload: {len(sealed.body)} octets")
    start = len(octets) - len(sealed.body) + prefix
    clear, data = octets[:start], octets[start:]
    iv, data = data[: sizes.iv_length], data[sizes.iv_length :]
    key = keys.sk_ei if by_initiator else keys.sk_er
    if suite.encryption.is_aead:
        plaintext = gcm_decrypt(key, iv, data, clear)
    else:
        expected = icv(suite.integrity, keys.sk_ai if by_initiator else keys.sk_ar, octets[:-tag])
        if not hmac.compare_digest(expected, octets[-tag:]):
            raise AuthenticationError(f"{suite.integrity}: the checksum does not match")
        try:
            plaintext = cbc_decrypt(suite.encryption.name, key, iv, data[:-tag])
        except CryptoError as error:
            raise MalformedError(f"encrypted payload: {error}") from None
    if not plaintext or plaintext[-1] + 1 > len(plaintext):
        raise MalformedError("encrypted payload: pad length exceeds the data")
    if not 1 <= number <= total:
        raise MalformedError(f"encrypted fragment {number} of {total}")
    following = sealed.following or 0
    return Opened(header, following, plaintext[: -1 - plaintext[-1]], number, total)


@dataclass
class Reassembly:
    """Fragments of one message until all have come (RFC 7383 section 2.6)."""

    _parts: dict[int, Opened] = field(default_factory=dict)
    _total: int = 0

    def add(self, opened: Opened) -> Message | None:
        """The whole message once the last missing part is there. MalformedError if its chain is broken."""
        if opened.total == 1:
            return opened.message()
        if opened.total < self._total:
            return None
        if opened.total > self._total:
            # The sender has begun anew with smaller fragments.
            self._parts.clear()
            self._total = opened.total
        self._parts.setdefault(opened.number, opened)
        if len(self._parts) < self._total:
            return None
        chain = b"".join(self._parts[number].chain for number in range(1, self._total + 1))
        whole = Message.of(opened.header, parse_chain(self._parts[1].first, chain))
        self._parts.clear()
        return whole
