"""A NAT proves to be of the kind that its topology declares."""

from __future__ import annotations

from collections.abc import Callable

from lab.net.model import Family, listed
from lab.nodes.broken import BrokenLabError, one_cpu
from lab.nodes.classify import NoAnswerError, Observed, classify_tcp, classify_udp
from lab.nodes.network import Network
from lab.nodes.vantage import Vantage, vantage


def prove_nat(
    network: Network, name: str, family: Family = 4, deadline: float = 2.0
) -> tuple[Observed, Observed]:
    """Classify NAT `name` by UDP and by TCP. Raises BrokenLabError if it is not as declared.

    Ports drawn at random or hashed may be equal by chance, so what it is not must show twice. The NAT
    forgets.
    """
    with vantage(network, name, family) as place, one_cpu():
        found = [_measured(network, place, classify, deadline) for classify in (classify_udp, classify_tcp)]
    network.nat(name).forget()
    return found[0], found[1]


def _measured(
    network: Network, place: Vantage, classify: Callable[[Vantage, float], Observed], deadline: float
) -> Observed:
    config = place.nat.config
    expected = f"nat {place.nat.name} to be {config.mapping.value}/{config.filtering.value}"
    for last in (False, True):
        try:
            observed = classify(place, deadline)
        except NoAnswerError as error:
            if last:
                raise BrokenLabError(network, expected, str(error), (place.nat.name,)) from error
            continue
        wanted = observed.contradictions(config)
        if not wanted:
            return observed
    what = f"{expected}, {observed.protocol} {listed(wanted)}"
    raise BrokenLabError(network, what, str(observed), (place.nat.name,))
