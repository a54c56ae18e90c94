"""What is kept of a cell, for whoever has to find out why."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.capture import keytables
from lab.capture.packets import Trace
from lab.capture.pcapng import write_pcapng
from lab.net.conntrack_watch import ConntrackWatch
from lab.net.model import Link
from lab.nodes.crash import core_dumps
from lab.nodes.network import Network
from lab.peers.peer import Peer
from lab.report.timeline import CONNTRACK_LOG


def write(
    folder: Path,
    cell: str,
    trace: Trace,
    network: Network,
    peers: Mapping[str, Peer],
    *,
    nat_t_port: int,
    state: Mapping[str, str],
    watches: Mapping[str, ConntrackWatch],
) -> None:
    """Write the evidence of the cell of that name into `folder`.

    capture.pcapng with the keys in its comments, keys/, SIDE/ with configurations and logs, NODE/ with core
    dumps, NAT.rules, what became of the NATs' connections, and `state`: relative path → text. `peers` are by
    side, `watches` by NAT. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = keytables.merged([peer.key_tables() for peer in peers.values()])
    if tables:
        keytables.write(folder / "keys", tables, nat_t_ports=(nat_t_port,))
    write_pcapng(
        folder / "capture.pcapng",
        trace.frames,
        trace.comments,
        trace.links,
        descriptions={link.name: _described(link) for link in network.topology.links},
        section_comments=[f"nattlab, {cell}", *keytables.comments(tables)],
    )
    for side, peer in peers.items():
        _copy(peer.logs(), folder / side)
    for node in network.nodes.values():
        _copy(core_dumps(node), folder / node.name)
    for nat in network.nats:
        (folder / f"{nat.name}.rules").write_text(nat.rules)
    for file, text in state.items():
        target = folder / file
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    (folder / CONNTRACK_LOG).write_text(
        "".join(
            f"{change.time_ns / 1e9:.6f} {name} {change}\n"
            for name, watch in watches.items()
            for change in watch.changes()
        )
    )


def _copy(files: Iterable[Path], folder: Path) -> None:
    for path in files:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.name)


def _described(link: Link) -> str:
    """Both ends of a link with their addresses."""
    return " – ".join(f"{end.node} {', '.join(map(str, end.addresses))}" for end in link.ends)
