"""The state of a network and its peers as text: addresses, routes, rules, connections, SAs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import ParamSpec

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.nodes.network import Network
from lab.nodes.node import Node
from lab.nodes.running_nat import RunningNat
from lab.peers.peer import Peer

P = ParamSpec("P")

_SYSCTLS = "/proc/sys/net"
_MODELS = {"conf": "default", "neigh": "lo"}
"""Whose settings an interface would have; beyond the first namespace no defaults of neighbours are shown."""
_COUNTERS = ("nf_conntrack_count",)
_COMMANDS = (
    ("ip", "address"),
    ("ip", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "-s", "xfrm", "state"),
    ("ip", "-s", "xfrm", "policy"),
    ("ss", "-anup"),
)


def state(network: Network, peers: Mapping[str, Peer]) -> dict[str, str]:
    """File name → text, of every node. What cannot be found out any more is said so in its place."""
    usual = _usual_sysctls()
    found = {}
    for name, node in network.nodes.items():
        found[f"{name}/network.txt"] = "\n".join(_told(_said, node, command) for command in _COMMANDS)
        found[f"{name}/sysctl.txt"] = _told(_sysctls, node, usual)
    for nat in network.nats:
        node = network.nodes[nat.name]
        found[f"{nat.name}/rules.txt"] = "\n".join(_told(_said, node, command) for command in _listing(nat))
        found[f"{nat.name}/connections.txt"] = _told(_connections, nat)
    for side, peer in peers.items():
        found[f"{side}/sas.json"] = _told(_sas, peer)
    return found


def _told(ask: Callable[P, str], *arguments: P.args, **options: P.kwargs) -> str:
    """The answer, or why there is none: a dead peer and a broken network must not hide the rest."""
    try:
        return ask(*arguments, **options)
    except (OSError, AssertionError, NetworkError, ValueError) as error:
        return f"(cannot be told: {type(error).__name__}: {error})\n"


def _said(node: Node, command: tuple[str, ...]) -> str:
    done = node.run(command, timeout=10)
    return f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"


def _listing(nat: RunningNat) -> list[tuple[str, ...]]:
    """The commands that list all rules of a NAT with their counters."""
    commands: list[tuple[str, ...]] = [(f"iptables-{nat.backend}-save", "-c")]
    if 6 in nat.config.families:
        commands.append((f"ip6tables-{nat.backend}-save", "-c"))
    return [*commands, ("nft", "list", "ruleset")]


def _connections(nat: RunningNat) -> str:
    return "".join(f"{connection}\n" for connection in nat.conntrack())


def _sas(peer: Peer) -> str:
    return json.dumps(peer.sas(), indent=1, default=str) + "\n"


def _usual_sysctls() -> dict[str, str]:
    with Namespace.create("fresh") as fresh, fresh.entered():
        return _read_sysctls()


def _sysctls(node: Node, usual: Mapping[str, str]) -> str:
    """Those that a fresh namespace has otherwise; an interface's are compared with those of another."""
    with node.entered():
        values = _read_sysctls()
    lines = []
    for path, value in sorted(values.items()):
        parts = path.split("/")
        if len(parts) > 2 and parts[1] in _MODELS and path not in usual:
            parts[2] = _MODELS[parts[1]]
        before = usual.get("/".join(parts))
        if before != value and parts[-1] not in _COUNTERS:
            name = path.replace("/", ".")
            lines.append(f"net.{name} = {value}" + ("" if before is None else f"   # {before}") + "\n")
    return "".join(lines)


def _read_sysctls() -> dict[str, str]:
    found = {}
    for folder, _, files in os.walk(_SYSCTLS):
        for name in files:
            path = os.path.join(folder, name)
            try:
                with open(path) as file:
                    found[os.path.relpath(path, _SYSCTLS)] = " ".join(file.read().split())
            except OSError:
                continue  # some may only be written, others need an option of the kernel
    return found
