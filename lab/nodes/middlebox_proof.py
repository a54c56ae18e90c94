"""A NAT's middlebox proves to do what its name says, both ways."""

from __future__ import annotations

import os
import socket

from lab.nodes.broken import BrokenLabError, one_cpu
from lab.nodes.network import Network
from lab.nodes.vantage import vantage

SO_NO_CHECK = 11
FENCE = b"\x7ffence"


def prove_middlebox(network: Network, name: str, deadline: float = 2.0) -> None:
    """Send its trial through NAT `name` and back. Raises BrokenLabError if something else comes.

    A box that translates must have done so, which the proof of every pair has shown to work. The NAT
    forgets.
    """
    nat = network.nat(name)
    assert nat.box is not None
    trial = nat.box.trial(os.urandom(16))
    if trial is None:
        if not nat.box.handled:
            raise BrokenLabError(
                network, f"nat {name}: its middlebox to translate", "it was not asked", (name,)
            )
        return
    with (
        one_cpu(),
        vantage(network, name, 4) as place,
        place.socket(socket.SOCK_DGRAM, place.inside_address, trial.port) as near,
        place.socket(socket.SOCK_DGRAM, place.outside_addresses[0], trial.port) as far,
    ):
        aim = far.getsockname()
        for way, sender, taker in (("outward", near, far), ("inward", far, near)):
            if not trial.checksum:
                sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            sender.sendto(trial.sent, aim)
            sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 0)
            sender.sendto(FENCE + trial.sent[-16:], aim)
            came, aim = _until_fence(taker, FENCE + trial.sent[-16:], deadline)
            if came != ([] if trial.arrives is None else [trial.arrives]):
                due = "nothing" if trial.arrives is None else trial.arrives.hex()
                what = f"the {nat.box.__class__.__name__} of nat {name} to make {due} of {trial.sent.hex()}"
                shown = ", ".join(octets.hex() for octets in came) or "nothing"
                raise BrokenLabError(network, f"{what} {way}", f"{shown} came", (name,))
    nat.forget()


def _until_fence(taker: socket.socket, fence: bytes, deadline: float) -> tuple[list[bytes], tuple[str, int]]:
    """What came before the fence, and where that came from; a fence that is lost ends it, too."""
    came: list[bytes] = []
    taker.settimeout(deadline)
    while True:
        try:
            data, source = taker.recvfrom(2048)
        except TimeoutError:
            return [*came, b"no fence"], ("", 0)
        if data == fence:
            return came, source
        came.append(data)
