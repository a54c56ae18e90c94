"""The scripted IKE peer at the left end without an encapsulator, against the daemon at the right one.

For what ends with IKE: twenty initiations cost what one with a nattd does.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from lab.capture.packets import Packets
from lab.cell import Cell
from lab.ike.deviation import Deviation
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev1.persona import Persona
from lab.ike.runner import Runner
from lab.peers.machine import machine_of


@contextlib.contextmanager
def scripted(
    cell: Cell, *deviations: Deviation, children: int = 1, persona: Persona | None = None, **changes: Any
) -> Iterator[Runner]:
    """Initiate with `deviations`, on the IKE ports of the left node, what the cell's connection asks for.

    `children` is the number of quick modes and `persona` one of IKEv1; `changes` are fields of Connection.
    """
    if persona is not None:
        changes["ike"] = {"persona": persona}
    connection = cell.spec.change(cell.connection, deviations=deviations, **changes)
    end = cell.endpoint("left")
    machine = machine_of(end, connection)
    with contextlib.ExitStack() as stack:
        sockets = []
        for port in (500, 4500):
            opened = stack.enter_context(end.node.socket())
            opened.bind((end.address, port))
            sockets.append(opened)
        runner = stack.enter_context(Runner(machine, sockets))
        first = machine.initiate
        runner.do(partial(first, children=children) if isinstance(machine, Ikev1Peer) else first)
        yield runner


def has_repeats(messages: Packets) -> bool:
    """Whether one of the messages was sent more than once: nobody answered it."""
    return len({message.ike_octets for message in messages}) < len(messages)
