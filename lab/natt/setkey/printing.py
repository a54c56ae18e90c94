"""Messages of a dump as setkey(8) statements that, loaded again, make the same entries."""

from __future__ import annotations

from ..pfkey.extensions import Address, Key, Limits, Sa
from ..pfkey.kame import IpsecRequest, NatTPort, NatTType, Policy, Sa2
from ..pfkey.message import Message
from ..pfkey.numbers import Ext, IpsecMode, Level, MessageType, PolicyType, SaType
from ..pfkey.sockaddr import Sockaddr
from ..wire import Encap
from .policies import SATYPE_WORDS, protocol_word
from .words import (
    AUTHENTICATION,
    DIRECTIONS,
    ENCRYPTION,
    ESP_UDP,
    ESP_UDP_NON_IKE,
    LEVELS,
    MODES,
    POLICIES,
    UPPER,
    word_of,
)


def statement(message: Message) -> str:
    """One line for an SA (GET, DUMP) or a policy (X_SPDGET, X_SPDDUMP); ValueError for anything else.

    What setkey cannot say, such as current lifetimes, follows as a comment.
    """
    if message.type in (MessageType.GET, MessageType.DUMP, MessageType.ADD, MessageType.UPDATE):
        return _sa(message)
    if message.type in (MessageType.X_SPDGET, MessageType.X_SPDDUMP, MessageType.X_SPDADD):
        return _policy(message)
    raise ValueError(f"message type {message.type} is no entry")


def _need(message: Message, kind: Ext, form: type[Address]) -> Address:
    found = message.find(kind, form)
    if found is None:
        raise ValueError(f"an entry without {kind.name}")
    return found


def _end(sockaddr: Sockaddr, port: int) -> str:
    return f"{sockaddr.address}[{port}]" if port else sockaddr.address


def _sa(message: Message) -> str:
    sa = message.find(Ext.SA, Sa)
    if sa is None:
        raise ValueError("an entry without SA")
    source, destination = (_need(message, kind, Address) for kind in (Ext.ADDRESS_SRC, Ext.ADDRESS_DST))
    nat = message.find(Ext.X_NAT_T_TYPE, NatTType)
    sport, dport = (message.find(kind, NatTPort) for kind in (Ext.X_NAT_T_SPORT, Ext.X_NAT_T_DPORT))
    words = ["add", _end(source.sockaddr, sport.port if sport else 0)]
    words.append(_end(destination.sockaddr, dport.port if dport else 0))
    if nat is None:
        words.append(SATYPE_WORDS[SaType(message.satype)])
    else:
        words.append(ESP_UDP if nat.type == Encap.ESPINUDP.value else ESP_UDP_NON_IKE)
        original = message.find(Ext.X_NAT_T_OAI, Address)
        if original is not None:
            words.append(original.sockaddr.address)
    words.append(f"{sa.spi:#010x}")
    two = message.find(Ext.X_SA2, Sa2)
    if two is not None:
        words += ["-m", word_of(dict(MODES), two.mode) or "any"]
        words += ["-u", str(two.reqid)] if two.reqid else []
    words += ["-r", str(sa.replay)] if sa.replay else []
    for kind, age, size in ((Ext.LIFETIME_HARD, "-lh", "-bh"), (Ext.LIFETIME_SOFT, "-ls", "-bs")):
        limits = message.find(kind, Limits)
        if limits is not None:
            words += [age, str(limits.addtime)] if limits.addtime else []
            words += [size, str(limits.octets)] if limits.octets else []
    words += _algorithm("-E", ENCRYPTION, sa.encrypt, message.find(Ext.KEY_ENCRYPT, Key))
    words += _algorithm("-A", AUTHENTICATION, sa.auth, message.find(Ext.KEY_AUTH, Key))
    return f"{' '.join(words)} ;{_current(message)}"


def _algorithm(option: str, table: dict[str, int], number: int, key: Key | None) -> list[str]:
    if not number:
        return []
    word = word_of(table, number)
    if word is None:
        raise ValueError(f"no word for algorithm {number} of {option}")
    return [option, word] + ([f"0x{key.octets.hex()}"] if key is not None and key.octets else [])


def _current(message: Message) -> str:
    current = message.find(Ext.LIFETIME_CURRENT, Limits)
    if current is None:
        return ""
    return f" # {current.allocations} packets, {current.octets} octets"


def _policy(message: Message) -> str:
    policy = message.find(Ext.X_POLICY, Policy)
    if policy is None:
        raise ValueError("an entry without X_POLICY")
    source, destination = (_need(message, kind, Address) for kind in (Ext.ADDRESS_SRC, Ext.ADDRESS_DST))
    words = ["spdadd", *(_selector(end) for end in (source, destination))]
    words += [word_of(UPPER, source.proto) or str(source.proto), "-P"]
    words.append(word_of(dict(DIRECTIONS), policy.direction) or str(policy.direction))
    words += ["prio", str(policy.priority)] if policy.priority else []
    words.append(word_of(dict(POLICIES), policy.type) or "none")
    if policy.type == PolicyType.IPSEC:
        words += [_request(request) for request in policy.requests]
    return f"{' '.join(words)} ;"


def _selector(end: Address) -> str:
    port = f"[{end.sockaddr.port or 'any'}]"
    return f"{end.sockaddr.address}/{end.prefixlen}{port}"


def _request(request: IpsecRequest) -> str:
    ends = "-".join(_end(end, end.port) for end in request.ends or ())
    level = word_of(dict(LEVELS), request.level) or "default"
    if request.level == Level.UNIQUE and request.reqid:
        level = f"unique:{request.reqid}"
    protocol = protocol_word(request.proto) or str(request.proto)
    mode = word_of(dict(MODES), request.mode) or IpsecMode.ANY.name.lower()
    return f"{protocol}/{mode}/{ends}/{level}"
