"""Counters: every drop has a name, Linux's of /proc/net/xfrm_stat where one exists."""

from __future__ import annotations

MEANINGS = {
    "XfrmInError": "input errors not counted elsewhere",
    "XfrmInHdrError": "ESP header incomplete",
    "XfrmInNoStates": "no SA for this destination, SPI and, where ports matter, port",
    "XfrmInStateProtoError": "ESP form or integrity wrong",
    "XfrmInStateModeError": "inner packet does not fit the mode of the SA",
    "XfrmInStateSeqError": "sequence number seen before or too old",
    "XfrmInStateExpired": "SA past its hard lifetime",
    "XfrmInStateMismatch": "encapsulation of the packet is not that of the SA",
    "XfrmInStateInvalid": "SA not mature",
    "XfrmInNoPols": "inner addresses outside the selectors of the SA",
    "XfrmOutError": "output errors not counted elsewhere",
    "XfrmOutBundleCheckError": "packet does not fit the SA of its policy",
    "XfrmOutNoStates": "policy without an SA",
    "XfrmOutStateSeqError": "sequence numbers used up",
    "XfrmOutStateExpired": "SA past its hard lifetime",
    "XfrmOutPolBlock": "no policy for this packet",
    "XfrmOutStateInvalid": "SA not mature",
    "NattInGarbage": "datagram that is neither keepalive nor ESP nor IKE",
    "NattInKeepalives": "NAT keepalives swallowed",
    "NattInToSocket": "datagrams handed to the user of the socket",
    "NattInDecapsulated": "ESP packets accepted",
    "NattInDummy": "ESP dummy packets (next header 59) discarded",
    "NattInEcnDropped": "congestion marked outside, not capable inside (RFC 6040)",
    "NattInTunnelError": "inner packets the TUN device did not take",
    "NattOutEncapsulated": "ESP packets made",
    "NattOutKeepalives": "NAT keepalives sent",
    "NattOutTooBig": "outer packet larger than the path MTU",
    "NattOutSocketError": "datagrams the socket did not take",
    "NattMappingConflicts": "new mappings not followed, another SA of the SPI is there",
    "NattMappings": "new mappings seen (authenticated ESP from another address or port)",
}


class Counters:
    """Counts by name; names are those of `MEANINGS`, KeyError for any other."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = dict.fromkeys(MEANINGS, 0)

    def add(self, name: str, count: int = 1) -> None:
        """Count `name` once, or `count` times."""
        self._values[name] += count

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def snapshot(self) -> dict[str, int]:
        """All counters, zeros included."""
        return dict(self._values)
