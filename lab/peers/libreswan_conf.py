"""What libreswan reads: ipsec.conf and ipsec.secrets out of a connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.peers.peer import (
    AUTO,
    FORCE,
    IKEV1_AGGRESSIVE,
    IKEV2,
    OFF,
    TRANSPORT,
    Connection,
    Endpoint,
)
from lab.peers.suite import EspSuite

_CIPHERS = {
    "null": "null",
    "3des-cbc": "3des",
    "aes-cbc": "aes{bits}",
    "aes-ctr": "aes_ctr{bits}",
    "aes-gcm-8": "aes_gcm_a{bits}",
    "aes-gcm-12": "aes_gcm_b{bits}",
    "aes-gcm-16": "aes_gcm_c{bits}",
    "chacha20-poly1305": "chacha20_poly1305",
}
_MACS = {
    "": "",
    "hmac-md5-96": "-md5",
    "hmac-sha1-96": "-sha1",
    "hmac-sha2-256-96": "-sha2_256",
    "hmac-sha2-256-128": "-sha2_256",
    "hmac-sha2-384-192": "-sha2_384",
    "hmac-sha2-512-256": "-sha2_512",
}
_GROUPS = {"ecp256": "dh19", "modp2048": "dh14"}
_ENCAPSULATIONS = {AUTO: "auto", FORCE: "yes", OFF: "no"}
_DRAFTS = frozenset({"draft-03", "draft-02n", "draft-02"})
_METHODS = {
    frozenset(): "both",
    frozenset({"rfc3947"}): "rfc",
    _DRAFTS: "drafts",
    _DRAFTS | {"rfc3947"}: "both",
}


RETRANSMISSION = 1000
"""Milliseconds, twice pluto's own first interval: a slow host does not look like a lossy one."""
UPDOWN = """#!/bin/sh
# The route to what is inside the tunnel; libreswan's own script says the same in fifty processes.
case "$PLUTO_VERB" in
  route-client*) exec ip route replace "$PLUTO_PEER_CLIENT" dev "$PLUTO_INTERFACE" ;;
  unroute-client*) exec ip route delete "$PLUTO_PEER_CLIENT" dev "$PLUTO_INTERFACE" ;;
esac
"""


def child_name(number: int) -> str:
    """What the connection of child SA `number` is called."""
    return f"net{number}" if number else "net"


def proposal(suite: EspSuite) -> str:
    """The suite in the words of ``esp=``."""
    return _CIPHERS[suite.encryption].format(bits=suite.key_bits) + _MACS[suite.integrity]


def setup(connection: Connection, end: Endpoint, folder: Path) -> dict[str, str]:
    """Section ``config setup`` of a node whose files lie in `folder`."""
    settings = {
        "ikev1-policy": "accept",
        "nssdir": str(folder / "nss"),
        "ipsecdir": str(folder / "ipsec.d"),
        "secretsfile": str(folder / "ipsec.secrets"),
        "dumpdir": str(folder),
        "dnssec-enable": "no",
        "plutodebug": "base",
        # Where it ends, its helper threads may reach for what is gone already.
        "nhelpers": "0",
        "uniqueids": "yes" if connection.unique in ("no", "replace") else "no",
    }
    if connection.keepalive:
        settings["keep-alive"] = f"{connection.keepalive:g}"
    if not connection.wildcard:
        settings["listen"] = end.address
    return settings


def ends(connection: Connection, end: Endpoint) -> dict[str, str]:
    """The settings of a connection that begin with ``left`` and ``right``; left is this end."""
    own, other = f"@{connection.identity or f'{end.name}.test'}", f"@{_name_of_other(end)}"
    if connection.ids == "address":
        own, other = end.address, end.remote_own
    return {
        "left": end.address,
        "leftid": own,
        "right": end.remote,
        "rightid": other,
    }


def _name_of_other(end: Endpoint) -> str:
    return "left.test" if end.name == "right" else "right.test"


def terms(connection: Connection) -> dict[str, str]:
    """The settings of a connection that both ends have in common."""
    settings = {
        "authby": "secret",
        "ikev2": "insist" if connection.version == IKEV2 else "no",
        "ike": f"aes128-sha2_256;{_GROUPS[connection.group]}",
        "encapsulation": _ENCAPSULATIONS[connection.encapsulation],
        "nat-ikev1-method": nat_method(connection) or "both",
        "fragmentation": "yes" if connection.ike_fragmentation else "no",
        "initial-contact": "yes" if connection.initial_contact else "no",
        "keyingtries": "1",
        "retransmit-interval": str(RETRANSMISSION),
        "auto": "add",
    }
    if connection.version == IKEV2:
        settings["mobike"] = "yes" if connection.mobike and connection.mode != TRANSPORT else "no"
    if connection.version == IKEV1_AGGRESSIVE:
        settings["aggressive"] = "yes"
    if not connection.keepalive:
        settings["nat-keepalive"] = "no"
    if connection.liveness:
        settings |= {
            "dpddelay": f"{connection.liveness:g}s",
            "dpdtimeout": f"{connection.liveness * 3:g}s",
            "dpdaction": "clear",
        }
    return settings


def nat_method(connection: Connection) -> str | None:
    """The value of ``nat-ikev1-method`` that offers what the connection asks for; None if there is none."""
    if connection.encapsulation == OFF:
        return "none"
    return _METHODS.get(frozenset(connection.nat_t))


def child(connection: Connection, end: Endpoint, folder: Path, number: int) -> dict[str, str]:
    """The settings of child SA `number`."""
    suite = connection.suites[number]
    inner = end.child(number)
    bits = 128 if ":" in inner.inner else 32
    settings = {
        "type": connection.mode,
        "esp": proposal(suite),
        "esn": "yes" if suite.esn else "no",
        "pfs": "no",
        "leftupdown": str(folder / "updown"),
        "replay-window": str(connection.replay_window),
    }
    if suite.integrity == "hmac-sha2-256-96":
        settings["sha2-truncbug"] = "yes"
    if connection.child_lifetime:
        settings |= {
            "ipsec-lifetime": f"{connection.child_lifetime + 5:g}s",
            "rekeymargin": "5s",
            "rekeyfuzz": "0%",
        }
    if connection.mode != TRANSPORT:
        settings["leftsubnet"] = f"{inner.inner}/{bits}"
        settings["rightsubnet"] = f"{inner.remote_inner}/{bits}"
    return settings


def text(connection: Connection, end: Endpoint, folder: Path) -> str:
    """ipsec.conf."""
    common = {**ends(connection, end), **terms(connection)}
    sections = [("config setup", setup(connection, end, folder))]
    for number in range(len(connection.suites)):
        sections.append((f"conn {child_name(number)}", {**common, **child(connection, end, folder, number)}))
    return "\n".join(_section(head, settings) for head, settings in sections)


def _section(head: str, settings: Mapping[str, str]) -> str:
    return "\n".join([head, *(f"  {key}={value}" for key, value in settings.items()), ""])


def secrets(connection: Connection) -> str:
    """ipsec.secrets."""
    return f': PSK "{connection.secret}"\n'
