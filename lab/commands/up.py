"""`nattlab up`: a lab that stands until it is taken down."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, fields
from typing import Any

from lab.commands import completers
from lab.commands.completers import offer
from lab.commands.subcommands import Subcommands
from lab.net import topology_file
from lab.net.behaviour import PRESETS, kind
from lab.peers.peer import IKEV2, MANUAL, VERSIONS, Connection
from lab.peers.registry import PEERS
from lab.standing.names import unknown
from lab.standing.registry import LabError
from lab.standing.request import Request

_PREFERRED = (IKEV2, *(version for version in VERSIONS if version not in (IKEV2, MANUAL)), MANUAL)


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    up = commands.add_parser(
        "up",
        help="a lab that stands until `nattlab down`",
        description="Builds a network in which peers are started and connected, and leaves it standing.",
    )
    topology = up.add_argument("topology", metavar="TOPOLOGY", help="`nattlab topology` lists them")
    offer(topology, completers.topologies)
    left = up.add_argument("--left", metavar="PEER", default="", help="start it on the left; it initiates")
    right = up.add_argument("--right", metavar="PEER", default="", help="start it on the right")
    for side in (left, right):
        offer(side, completers.peers)
    version = up.add_argument("--version", metavar="VERSION", help=f"{', '.join(VERSIONS)}; default: ikev2")
    offer(version, completers.versions)
    nat = up.add_argument(
        "--nat",
        metavar="KIND",
        help="symmetric, marker_eater, ADM-EIF …; of several NATs one each: home,cgnat",
    )
    offer(nat, completers.nat_kinds)
    up.add_argument("--name", metavar="NAME", default="", help="default: that of the topology")
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="how the peers are configured, e.g. encapsulation=force (fields of lab.peers.peer.Connection)",
    )
    up.set_defaults(call=_up)


def _up(options: argparse.Namespace) -> int:
    request = Request(
        topology=_topology(options.topology, options.nat),
        name=options.name,
        left=_peer(options.left),
        right=_peer(options.right),
        version=_version(options.version, [name for name in (options.left, options.right) if name]),
        connection=dict(_setting(text) for text in options.set),
    )
    if request.connection and not (request.left or request.right):
        raise LabError("--set configures peers, and there is none: add --left and --right")
    return _follow(request)


def _topology(name: str, kinds: str | None) -> str:
    plain = name.partition("@")[0]
    known = topology_file.names()
    if not plain.endswith(".yaml") and plain not in known and plain.rpartition("-")[0] not in known:
        raise LabError(unknown("topology", plain, known))
    for word in (kinds or "").split(",") if kinds is not None else ():
        try:
            kind(word)
        except ValueError:
            raise LabError(f"{unknown('kind of NAT', word, PRESETS)}, or a pair like ADM-EIF") from None
    return f"{name}@{kinds}" if kinds else name


def _peer(name: str) -> str:
    if name and name not in PEERS:
        raise LabError(unknown("peer", name, PEERS))
    return name


def _version(wanted: str | None, peers: list[str]) -> str:
    if wanted is not None and wanted not in VERSIONS:
        raise LabError(unknown("version", wanted, VERSIONS))
    shared = set(VERSIONS).intersection(*(PEERS[name].capabilities.versions for name in peers))
    return wanted or next(version for version in _PREFERRED if version in shared)


def _setting(text: str) -> tuple[str, Any]:
    """``keepalive=5`` as a field of Connection and a value of its kind."""
    simple = {f.name: f.default for f in fields(Connection) if isinstance(f.default, (str, int, float))}
    name, equals, value = text.partition("=")
    if not equals:
        raise LabError(f"--set {text}: write FIELD=VALUE, e.g. --set keepalive=5")
    if name not in simple:
        raise LabError(f"--set: {unknown('field', name, simple)}")
    usual = simple[name]
    try:
        if isinstance(usual, bool):
            return name, {"true": True, "false": False}[value]
        return name, type(usual)(value)
    except (KeyError, ValueError):
        kind_of = "true or false" if isinstance(usual, bool) else f"like {usual}"
        raise LabError(f"--set {text}: {value!r} is not {kind_of}") from None


def _follow(request: Request) -> int:
    """Start a keeper and say how far it is until the lab stands or cannot be."""
    keeper = subprocess.Popen(
        [sys.executable, "-m", "lab.standing.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    keeper.stdin.write(json.dumps(asdict(request)))
    keeper.stdin.close()
    for line in keeper.stdout:
        said = json.loads(line)
        if "step" in said:
            print(said["step"], flush=True)
        elif "error" in said:
            print(f"nattlab: {said['error']}", file=sys.stderr)
            return int(said["status"])
        else:
            return _tell(said)
    raise LabError(f"the lab's keeper ended with status {keeper.wait()} before the lab was up; see above")


def _tell(said: dict[str, Any]) -> int:
    name = said["up"]
    for line in said.get("ways", ()):
        print(f"  {line}")
    if said.get("failure"):
        print(f"lab {name} is up, and the peers did not get through; what the packets say:")
        for finding in said["findings"] or ["nothing looks wrong"]:
            print(f"  {finding}")
        print(f"what the peers say:\n  {said['failure']}")
        print(f"look with `nattlab capture --name {name}`, end it with `nattlab down {name}`")
        return 1
    print(f"lab {name} is up{', connected' if said.get('connected') else ''}: `nattlab ls` shows it, "
          f"`nattlab shell NODE --name {name}` enters it, `nattlab down {name}` ends it")  # fmt: skip
    return 0
