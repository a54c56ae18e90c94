"""Offloads of an interface, switched off so that captures show the packets and checksums of the wire.

One SIOCETHTOOL per interface: ETHTOOL_SFEATURES with the bits found by name (ethtool(8) -k, linux/ethtool.h).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from functools import lru_cache

from lab.net.errors import NetworkError

SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_GFEATURES = 0x3A
ETHTOOL_SFEATURES = 0x3B
ETH_SS_FEATURES = 4
ETH_GSTRING_LEN = 32

PREFIXES = ("tx-checksum-", "tx-scatter-gather", "tx-tcp", "tx-udp-segmentation", "tx-generic-segmentation")
NAMES = (
    "rx-gro",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
    "tx-gso-list",
    "tx-gso-partial",
    "tx-sctp-segmentation",
)


def wanted_off(name: str) -> bool:
    """Whether feature `name` lets a packet on a veth differ from what a wire would carry."""
    return name.startswith(PREFIXES) or name in NAMES


def _ethtool(control: socket.socket, interface: str, data: bytes) -> bytes:
    buffer = array.array("B", data)
    address = buffer.buffer_info()[0]
    request = struct.pack("16sP8x", interface.encode(), address)
    try:
        fcntl.ioctl(control.fileno(), SIOCETHTOOL, request)
    except OSError as error:
        raise NetworkError(f"offloads of {interface}: {os.strerror(error.errno or 0)}") from error
    return buffer.tobytes()


def _layout(control: socket.socket, interface: str) -> tuple[str, ...]:
    info = _ethtool(control, interface, struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
    count = struct.unpack_from("=I", info, 16)[0]
    strings = _ethtool(
        control,
        interface,
        struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * ETH_GSTRING_LEN),
    )
    return tuple(
        strings[12 + i * ETH_GSTRING_LEN : 12 + (i + 1) * ETH_GSTRING_LEN].rstrip(b"\0").decode()
        for i in range(count)
    )


class Offloads:
    """The features of interfaces in the namespace of the socket `control` (any AF_INET socket)."""

    _names: tuple[str, ...] = ()

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def names(self, interface: str) -> tuple[str, ...]:
        """The kernel's feature names in the order of their bits; the same for every interface."""
        if not Offloads._names:
            Offloads._names = _layout(self._control, interface)
        return Offloads._names

    def active(self, interface: str) -> frozenset[str]:
        """The features of `interface` that are on."""
        names = self.names(interface)
        blocks = (len(names) + 31) // 32
        reply = _ethtool(
            self._control, interface, struct.pack("=II", ETHTOOL_GFEATURES, blocks) + bytes(blocks * 16)
        )
        words = [struct.unpack_from("=IIII", reply, 8 + 16 * i)[2] for i in range(blocks)]
        return frozenset(name for bit, name in enumerate(names) if words[bit // 32] >> (bit % 32) & 1)

    def disable(self, interface: str) -> None:
        """Switch off every feature for which wanted_off() holds. Raises NetworkError."""
        _ethtool(self._control, interface, disable_request(self.names(interface)))


@lru_cache(maxsize=4)
def disable_request(names: tuple[str, ...]) -> bytes:
    """The ETHTOOL_SFEATURES request that clears the bits wanted off (struct ethtool_sfeatures)."""
    valid = [0] * ((len(names) + 31) // 32)
    for bit, name in enumerate(names):
        if wanted_off(name):
            valid[bit // 32] |= 1 << (bit % 32)
    head = struct.pack("=II", ETHTOOL_SFEATURES, len(valid))
    return head + b"".join(struct.pack("=II", word, 0) for word in valid)
