"""With --sabotage some cells of the sample run on networks that were tampered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.cell_item import CellItem
from lab.net import topology_file
from lab.net.nat import NatConfig
from lab.net.rules import nat_rules
from lab.net.topology import Topology
from lab.nodes.network import Network
from lab.probe import UnavailableError

EATEN = "marker_eater"
"""The NAT takes everything on port 4500 for ESP and removes the non-ESP marker before IKE."""
ONCE = "once"
"""The same, but only at the first attempt."""
UNTRANSLATED = "untranslated"
"""The NAT forwards and does not translate."""
LACKING = "lacking"
"""The host has no TUN device."""

SABOTAGE = {
    "ENC-03[natt-natt-one_nat-ikev2]": EATEN,
    "ENC-03[strongswan-strongswan-one_nat-ikev2]": EATEN,
    "ENC-04[strongswan-natt-one_nat-ikev2]": ONCE,
    "ENC-01[strongswan-natt-responder_behind_nat-ikev2]": UNTRANSLATED,
    "ENC-01[strongswan-strongswan-one_nat-ikev1-main]": LACKING,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sabotage", action="store_true", help="tamper with the networks of some cells")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, CellItem) and item.config.getoption("--sabotage"):
            item.rerun += " --sabotage"
            item.tell(rerun=item.rerun)


@pytest.fixture(autouse=True)
def _sabotaged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    item = request.node
    if not isinstance(item, CellItem) or not request.config.getoption("--sabotage"):
        return
    how = SABOTAGE.get(item.spec.name)
    build = Network.build

    def tampered(topology: Topology, scratch: Path, **options: Any) -> Network:
        if how == LACKING:
            raise UnavailableError("TUN", "/dev/net/tun: so says the sample")
        if how == UNTRANSLATED:
            return build(topology, scratch, **options, rules=_untranslated)
        if how == EATEN or (how == ONCE and len(item.trial.attempts) == 1):
            topology = topology_file.load(f"{item.spec.topology}@{EATEN}")
        return build(topology, scratch, **options)

    if how is not None:
        monkeypatch.setattr(Network, "build", tampered)


def _untranslated(config: NatConfig) -> str:
    lines = nat_rules(config).splitlines()
    return "".join(f"{line}\n" for line in lines if "MASQUERADE" not in line)
