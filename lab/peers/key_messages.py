"""What a key manager tells nattd of SAs and policies: PF_KEY messages, most in the words of setkey. Pure."""

from __future__ import annotations

import itertools

from lab.ike.association import ESP_IN_UDP_NON_IKE, INBOUND, NO_ENCAPSULATION, TUNNEL, ChildSa, EspSa
from lab.natt.pfkey.extensions import Address, Extension
from lab.natt.pfkey.kame import NatTPort, NatTType
from lab.natt.pfkey.message import Message
from lab.natt.pfkey.numbers import Dialect, Ext
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.setkey.statements import parse
from lab.natt.wire import Encap

_INTEGRITIES = {
    "hmac-md5-96": "hmac-md5",
    "hmac-sha1-96": "hmac-sha1",
    "hmac-sha2-256-128": "hmac-sha2-256",
    "hmac-sha2-384-192": "hmac-sha2-384",
    "hmac-sha2-512-256": "hmac-sha2-512",
}
_WINDOW = 64
_NOT_MOVED = (Ext.X_NAT_T_TYPE, Ext.X_NAT_T_SPORT, Ext.X_NAT_T_DPORT, Ext.KEY_AUTH, Ext.KEY_ENCRYPT)
"""What the UPDATE of a live SA has other values of, or must not name: FreeBSD refuses its keys."""
_PROTOCOLS = {0: "any", 1: "icmp", 6: "tcp", 17: "udp"}


def add_message(sa: EspSa, reqid: int, dialect: Dialect) -> Message:
    """The ADD of an SA."""
    words = [f"add {_ends(sa)} {sa.spi:#x} -m {sa.mode} -u {reqid} -r {_WINDOW} -E {sa.encryption}"]
    if sa.encryption_key:
        words.append(f"0x{sa.encryption_key.hex()}")
    if sa.integrity in _INTEGRITIES:
        words.append(f"-A {_INTEGRITIES[sa.integrity]} 0x{sa.integrity_key.hex()}")
    (statement,) = parse(f"{' '.join(words)};", "key manager")
    # Linux has one NAT-OA and ignores it.
    more = [] if dialect is Dialect.LINUX else _original_addresses(sa)
    return statement.message._replace(extensions=(*statement.message.extensions, *more))


def moving(request: Message, new: EspSa) -> tuple[Extension, ...]:
    """What names an SA as it is, with FreeBSD's extensions for where it goes."""
    kept = [extension for extension in request.extensions if extension.kind not in _NOT_MOVED]
    moved = (
        _host(Ext.X_NEW_ADDRESS_SRC, new.source.address),
        _host(Ext.X_NEW_ADDRESS_DST, new.destination.address),
    )
    if new.encapsulation == NO_ENCAPSULATION:
        return (*kept, *moved)
    in_udp = (
        NatTType(Encap.ESPINUDP),
        NatTPort(Ext.X_NAT_T_SPORT, new.source.port),
        NatTPort(Ext.X_NAT_T_DPORT, new.destination.port),
    )
    return (*kept, *in_udp, *moved)


def delete_statement(sa: EspSa) -> str:
    """The statement that deletes an SA."""
    return f"delete {_ends(sa)} {sa.spi:#x};"


def policy_statements(verb: str, child: ChildSa, reqid: int) -> list[str]:
    """Of a pair of SAs the policies for its traffic; `verb` is ``spdadd``, ``spdupdate`` or ``spddelete``."""
    statements = []
    inbound = (child.remote, child.local, "in", child.inbound)
    for sources, destinations, direction, sa in ((child.local, child.remote, "out", child.outbound), inbound):
        ends = f"{sa.source.address}-{sa.destination.address}" if child.mode == TUNNEL else ""
        rule = "" if verb == "spddelete" else f"ipsec esp/{child.mode}/{ends}/unique:{reqid}"
        for source, destination in itertools.product(sources, destinations):
            upper = _PROTOCOLS.get(source.protocol, str(source.protocol))
            pairs = itertools.product(source.prefixes, destination.prefixes)
            statements += [f"{verb} {a} {b} {upper} -P {direction} {rule};" for a, b in pairs]
    return statements


def _ends(sa: EspSa) -> str:
    if sa.encapsulation == NO_ENCAPSULATION:
        return f"{sa.source.address} {sa.destination.address} esp"
    protocol = "esp-udp-nonike" if sa.encapsulation == ESP_IN_UDP_NON_IKE else "esp-udp"
    return f"{sa.source.address}[{sa.source.port}] {sa.destination.address}[{sa.destination.port}] {protocol}"


def _original_addresses(sa: EspSa) -> list[Extension]:
    """NAT-OA of what arrives: the addresses its sender computed checksums with (RFC 3948 section 3.1.2).

    The difference takes both; with one alone, as drafts before 05 tell it, nattd must compute anew (b).
    """
    if sa.direction != INBOUND or sa.encapsulation == NO_ENCAPSULATION:
        return []
    if sa.original_source is None or sa.original_destination is None:
        return []
    return [_host(Ext.X_NAT_T_OAI, sa.original_source), _host(Ext.X_NAT_T_OAR, sa.original_destination)]


def _host(kind: Ext, address: str) -> Extension:
    return Address(kind, Sockaddr(address), 128 if ":" in address else 32)
