"""The few rtnetlink requests a TUN device needs, in the network namespace of the caller."""

from __future__ import annotations

import os
import socket
import struct

from .spd import Network

_RTM_NEWLINK = 16
_RTM_NEWADDR = 20
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_NEWRULE = 32
_RTM_DELRULE = 33
_NLM_F_REQUEST = 1
_NLM_F_ACK = 4
_NLM_F_CREATE = 0x400
_NLM_F_EXCL = 0x200
_NLMSG_ERROR = 2
_IFF_UP = 1
_IFLA_MTU = 4
_IFLA_AF_SPEC = 26
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_NONE = 1
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_F_NODAD = 2
_RTA_DST = 1
_RTA_OIF = 4
_RTA_TABLE = 15
_RTPROT_STATIC = 4
_SCOPE_LINK = 253
_RTN_UNICAST = 1
_RTN_THROW = 9
_SCOPE_UNIVERSE = 0
_FRA_PRIORITY = 6
_FRA_FWMARK = 10
_FRA_TABLE = 15
_FR_ACT_TO_TBL = 1
_FIB_RULE_INVERT = 2
MAIN_TABLE = 254


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _family(network: Network) -> int:
    return socket.AF_INET6 if len(network.address) == 16 else socket.AF_INET


class Rtnetlink:
    """One rtnetlink socket. Every request waits for the kernel's answer; OSError carries its errno."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sequence = 0

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def _request(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._sequence += 1
        flags |= _NLM_F_REQUEST | _NLM_F_ACK
        header = struct.pack("=IHHII", 16 + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            answer = self._socket.recv(65536)
            _, kind, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            if kind == _NLMSG_ERROR and sequence == self._sequence:
                break
        (error,) = struct.unpack_from("=i", answer, 16)
        if error:
            raise OSError(-error, f"{what}: {os.strerror(-error)}")

    def set_up(self, index: int, mtu: int, link_local: bool) -> None:
        """Bring a link up with an MTU; without `link_local` it gets no IPv6 address of its own."""
        if not link_local and os.path.exists("/proc/net/if_inet6"):
            # A request of its own: the kernel applies this attribute after the flags of the same request.
            mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes((_ADDR_GEN_NONE,)))
            body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
            body += _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET6, mode))
            self._request(_RTM_NEWLINK, 0, body, "no IPv6 address of its own")
        body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
        body += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
        self._request(_RTM_NEWLINK, 0, body, f"link up, mtu {mtu}")

    def add_address(self, index: int, address: bytes, length: int) -> None:
        """Give a link an address with a prefix length."""
        family = socket.AF_INET6 if len(address) == 16 else socket.AF_INET
        flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        body = struct.pack("=BBBBi", family, length, flags, 0, index)
        body += _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
        what = f"address {socket.inet_ntop(family, address)}/{length}"
        self._request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, body, what)

    def add_route(self, network: Network, index: int | None, table: int = MAIN_TABLE) -> None:
        """Route a network to a link, or with index None have this table know nothing of it (throw)."""
        self._route(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, network, index, table)

    def delete_route(self, network: Network, index: int | None, table: int = MAIN_TABLE) -> None:
        """Undo `add_route`."""
        self._route(_RTM_DELROUTE, 0, network, index, table)

    def _route(self, kind: int, flags: int, network: Network, index: int | None, table: int) -> None:
        short = table if table < 256 else 0
        body = struct.pack(
            "=BBBBBBBBI",
            _family(network),
            network.length,
            0,
            0,
            short,
            _RTPROT_STATIC,
            _SCOPE_UNIVERSE if index is None else _SCOPE_LINK,
            _RTN_THROW if index is None else _RTN_UNICAST,
            0,
        )
        body += _attribute(_RTA_DST, network.address) if network.length else b""
        body += b"" if index is None else _attribute(_RTA_OIF, struct.pack("=I", index))
        body += _attribute(_RTA_TABLE, struct.pack("=I", table))
        self._request(kind, flags, body, f"route {network}")

    def add_unmarked_rule(self, family: int, mark: int, table: int, priority: int) -> None:
        """Send every packet without `mark` to a routing table first."""
        self._rule(_RTM_NEWRULE, _NLM_F_CREATE | _NLM_F_EXCL, family, mark, table, priority)

    def delete_unmarked_rule(self, family: int, mark: int, table: int, priority: int) -> None:
        """Undo `add_unmarked_rule`."""
        self._rule(_RTM_DELRULE, 0, family, mark, table, priority)

    def _rule(self, kind: int, flags: int, family: int, mark: int, table: int, priority: int) -> None:
        short = table if table < 256 else 0
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, short, 0, 0, _FR_ACT_TO_TBL, _FIB_RULE_INVERT)
        body += _attribute(_FRA_PRIORITY, struct.pack("=I", priority))
        body += _attribute(_FRA_FWMARK, struct.pack("=I", mark))
        body += _attribute(_FRA_TABLE, struct.pack("=I", table))
        self._request(kind, flags, body, f"rule to table {table}")
