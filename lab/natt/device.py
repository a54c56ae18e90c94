"""The `[tunnel]` of a configuration: name, addresses and MTU of the TUN device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .esp import largest_inner
from .spd import Network
from .tables import Table
from .terms import Direction, Mode, canonical, packed
from .wire import Encap

if TYPE_CHECKING:
    from .association import SecurityAssociation

SMALLEST_MTU = 68
"""Octets (RFC 791)."""


class TunnelConfig(NamedTuple):
    """`[tunnel]`; addresses are (packed, prefix length)."""

    device: str
    addresses: list[tuple[bytes, int]]
    mtu: int
    batching: bool
    """Let the kernel hand over and take whole runs of packets, inside and outside, where it can."""
    bind_flows: bool = False
    """Send back by the SA of the peer that a flow came from, where a policy has several."""


class _Sizes(NamedTuple):
    iv_length: int
    icv_length: int
    block: int


_HUNGRIEST = _Sizes(16, 32, 16)
"""Of all transforms: AES-CBC with HMAC-SHA-512-256."""


def read_tunnel(table: Table, associations: list[SecurityAssociation]) -> TunnelConfig:
    """Check a `[tunnel]`; ConfigError."""
    device = table.get("device", str, "natt0")
    addresses = []
    for text in table.strings("addresses", []):
        host, _, prefix = text.partition("/")
        try:
            address = packed(canonical(host))
            length = Network.parse(
                f"{'::' if len(address) == 16 else '0.0.0.0'}/{prefix or 8 * len(address)}"
            ).length
        except ValueError:
            raise table.error("addresses", f"{text!r} is not address/prefix") from None
        addresses.append((address, length))
    path_mtu = table.number("path-mtu", SMALLEST_MTU, 65535, 1500)
    mtu = table.number("mtu", SMALLEST_MTU, 65535, default_mtu(associations, path_mtu))
    batching = table.get("batching", bool, True)
    bind_flows = table.get("bind-flows", bool, False)
    if not 0 < len(device.encode()) < 16:
        raise table.error("device", f"{device!r} is not 1 to 15 octets")
    table.finish()
    return TunnelConfig(device, addresses, mtu, batching, bind_flows)


def default_mtu(associations: list[SecurityAssociation], path_mtu: int) -> int:
    """The largest inner packet every outbound SA can carry over a path without fragmentation.

    Where none is configured any may come: what the hungriest algorithms leave of an IPv6 path.
    """
    sizes = [
        largest_inner(
            path_mtu,
            sa.esp.transform,
            sa.encap,
            outer_header=40 if ":" in sa.source else 20,
            transport=sa.mode is Mode.TRANSPORT,
        )
        for sa in associations
        if sa.direction is Direction.OUT
    ]
    if not sizes:
        sizes.append(largest_inner(path_mtu, _HUNGRIEST, Encap.ESPINUDP_NON_IKE, outer_header=40))
    return max(SMALLEST_MTU, min(sizes))
