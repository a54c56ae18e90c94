"""Policy statements of setkey(8): spdadd, spdupdate, spddelete."""

from __future__ import annotations

import re

from ..pfkey.extensions import Address, Extension
from ..pfkey.kame import IpsecRequest, Policy
from ..pfkey.numbers import Ext, IpsecMode, Level, PolicyType, SaType
from ..pfkey.sockaddr import Sockaddr
from ..terms import canonical
from .lexer import Reader
from .words import DIRECTIONS, LEVELS, MODES, POLICIES, UPPER

_PROTOCOLS = {"esp": 50, "ah": 51, "ipcomp": 108}
_ENDPOINT = re.compile(r"(?P<address>[^\[\]/]+)(?P<prefix>/\d+)?(\[(?P<port>[^\[\]]*)\])?")


def endpoint(reader: Reader, what: str) -> Sockaddr:
    """An address with an optional port in brackets: `10.0.0.1[4500]`."""
    sockaddr, prefix = _selector(reader, what)
    if prefix is not None:
        raise reader.error(f"expected {what} without prefix length", back=1)
    return sockaddr


def _selector(reader: Reader, what: str) -> tuple[Sockaddr, int | None]:
    word = reader.take(f"{what} address")
    match = _ENDPOINT.fullmatch(word)
    try:
        if match is None:
            raise ValueError
        address = canonical(match["address"])
        port = match["port"]
        number = 0 if port in (None, "any") else int(port)
        prefix = None if match["prefix"] is None else int(match["prefix"][1:])
    except ValueError:
        raise reader.error(f"expected {what} as ADDRESS or ADDRESS[PORT]", back=1) from None
    if not 0 <= number <= 65535:
        raise reader.error(f"expected a port of {what} in 0..65535", back=1)
    if prefix is not None and prefix > (128 if ":" in address else 32):
        raise reader.error(f"expected a prefix length of {what} that fits its family", back=1)
    return Sockaddr(address, number), prefix


def policy_statement(reader: Reader, *, with_rule: bool) -> tuple[Extension, ...]:
    """`SRC DST UPPER -P DIRECTION RULE…`: policy and selectors, in setkey's order."""
    source, source_prefix = _selector(reader, "source")
    destination, destination_prefix = _selector(reader, "destination")
    upper = _upper(reader)
    if reader.take("-P") != "-P":
        raise reader.error("expected -P", back=1)
    direction = reader.take("a direction")
    if direction not in DIRECTIONS:
        raise reader.error(f"expected one of {', '.join(DIRECTIONS)}", back=1)
    priority = _priority(reader)
    kind, requests = _rule(reader) if with_rule or reader.peek() else (PolicyType.DISCARD, ())
    policy = Policy(kind, DIRECTIONS[direction], priority=priority, requests=requests)
    addresses = (
        (Ext.ADDRESS_SRC, source, source_prefix),
        (Ext.ADDRESS_DST, destination, destination_prefix),
    )
    return (
        policy,
        *(
            Address(ext, sockaddr, _whole(sockaddr) if prefix is None else prefix, upper)
            for ext, sockaddr, prefix in addresses
        ),
    )


def _whole(sockaddr: Sockaddr) -> int:
    return 128 if ":" in sockaddr.address else 32


def _upper(reader: Reader) -> int:
    word = reader.take("an upper protocol")
    if word in UPPER:
        return UPPER[word]
    if word.isdecimal() and int(word) < 256:
        return int(word)
    raise reader.error(f"expected one of {', '.join(UPPER)} or a number below 256", back=1)


def _priority(reader: Reader) -> int:
    if reader.peek() not in ("prio", "priority"):
        return 0
    reader.take("priority")
    word = reader.take("a priority")
    if not re.fullmatch(r"\d+", word) or int(word) > 0xFFFFFFFF:
        raise reader.error("expected a priority as a number", back=1)
    return int(word)


def _rule(reader: Reader) -> tuple[PolicyType, tuple[IpsecRequest, ...]]:
    word = reader.take("a rule")
    if word not in POLICIES:
        raise reader.error(f"expected one of {', '.join(POLICIES)}", back=1)
    if POLICIES[word] is not PolicyType.IPSEC:
        return POLICIES[word], ()
    requests = [_request(reader)]
    while reader.peek():
        requests.append(_request(reader))
    return PolicyType.IPSEC, tuple(requests)


def _request(reader: Reader) -> IpsecRequest:
    """`esp/tunnel/10.0.0.1[4500]-10.0.0.2[4500]/require`, `esp/transport//unique:7`."""
    form = "PROTOCOL/MODE/SRC-DST/LEVEL"
    parts = reader.take(form).split("/")
    if len(parts) != 4:
        raise reader.error(f"expected {form}", back=1)
    protocol, mode, ends, level = parts
    if protocol not in _PROTOCOLS or mode not in MODES:
        raise reader.error(f"expected {form} with one of {', '.join(_PROTOCOLS)}", back=1)
    name, colon, number = level.partition(":")
    if name not in LEVELS or (colon and not number.isdecimal()) or (colon and name != "unique"):
        raise reader.error(f"expected a level of {', '.join(LEVELS)} or unique:N", back=1)
    tunnel = None
    if ends:
        pair = ends.split("-")
        try:
            first, second = (_tunnel_end(end) for end in pair)
        except ValueError:
            raise reader.error("expected the tunnel as SRC-DST", back=1) from None
        tunnel = (first, second)
    if (tunnel is None) is (MODES[mode] is IpsecMode.TUNNEL):
        raise reader.error("a tunnel has ends and transport mode has none", back=1)
    reqid = int(number) if colon else 0
    return IpsecRequest(_PROTOCOLS[protocol], MODES[mode], Level(LEVELS[name]), reqid, tunnel)


def _tunnel_end(text: str) -> Sockaddr:
    match = re.fullmatch(r"([^\[\]]+)(?:\[(\d+)\])?", text)
    if match is None:
        raise ValueError(text)
    return Sockaddr(canonical(match[1]), int(match[2] or 0))


def protocol_word(number: int) -> str | None:
    """`esp` for 50."""
    return next((word for word, known in _PROTOCOLS.items() if known == number), None)


SATYPE_WORDS = {SaType.ESP: "esp", SaType.AH: "ah", SaType.IPCOMP: "ipcomp"}
