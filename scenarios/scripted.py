"""The scripted IKE peer at the left end, against the daemon at the right one."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from lab.cell import Cell
from lab.ike.association import Selector
from lab.ike.deviation import Deviation
from lab.ike.ikev1.config import AGGRESSIVE_MODE, MAIN_MODE
from lab.ike.ikev1.config import Config as Ikev1Config
from lab.ike.ikev1.payloads import Identity as Ikev1Identity
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.suites import DEFAULT_PHASE1
from lab.ike.ikev2.config import Child
from lab.ike.ikev2.config import Config as Ikev2Config
from lab.ike.ikev2.payloads import Identity as Ikev2Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.runner import Runner
from lab.ike.transport import Endpoint
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV2

LEFT_ID, RIGHT_ID = "left.test", "right.test"


@contextlib.contextmanager
def scripted(
    cell: Cell, *deviations: Deviation, version: str = "", children: int = 1, **ikev1: Any
) -> Iterator[Runner]:
    """Initiate in `version`, by default the cell's, with `deviations`, on the IKE ports of the left node.

    `children` is the number of quick modes, `ikev1` are fields of the IKEv1 Config other than usual.
    """
    version = version or cell.version
    end = cell.endpoint("left")
    local, remote = Endpoint.of(end.address, 500), Endpoint.of(end.remote, 500)
    secret = cell.connection.secret.encode()
    with contextlib.ExitStack() as stack:
        sockets = []
        for port in (500, 4500):
            opened = stack.enter_context(end.node.socket())
            opened.bind((end.address, port))
            sockets.append(opened)
        machine: Ikev1Peer | Ikev2Peer
        if version == IKEV2:
            child = Child(local=(Selector.of(end.inner),), remote=(Selector.of(end.remote_inner),))
            machine = Ikev2Peer(
                Ikev2Config(
                    local,
                    remote,
                    Ikev2Identity.of(LEFT_ID),
                    secret,
                    remote_id=Ikev2Identity.of(RIGHT_ID),
                    child=child,
                ),
                deviations=deviations,
            )
        else:
            machine = Ikev1Peer(
                replace(
                    Ikev1Config(
                        local,
                        remote,
                        secret,
                        Ikev1Identity.fqdn(LEFT_ID),
                        Ikev1Identity.fqdn(RIGHT_ID),
                        exchange=AGGRESSIVE_MODE if version == IKEV1_AGGRESSIVE else MAIN_MODE,
                        suites=DEFAULT_PHASE1[:1],
                        local_net=f"{end.inner}/32",
                        remote_net=f"{end.remote_inner}/32",
                    ),
                    **ikev1,
                ),
                deviations,
            )
        runner = stack.enter_context(Runner(machine, sockets))
        first = machine.initiate
        runner.do(partial(first, children=children) if isinstance(machine, Ikev1Peer) else first)
        yield runner
