"""The table of misbehaviours is complete: every kind of deviation is tried with every daemon."""

from dataclasses import is_dataclass

import pytest

from lab.ike import deviation as d
from lab.ike.natd import Fake
from lab.peers.peer import IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2
from scenarios.misbehaviour import MISBEHAVIOURS

KINDS = {kind for name in d.__all__ if isinstance(kind := getattr(d, name), type) and is_dataclass(kind)}
KINDS -= {d.Match, d.Which}


def tried(version: str, peer: str) -> list[d.Deviation]:
    listed = MISBEHAVIOURS[version].values()
    return [deviation for one in listed if peer in one.due for deviation in one.deviations]


@pytest.mark.parametrize("peer", ["natt", "strongswan"])
@pytest.mark.parametrize("version", [IKEV1_MAIN, IKEV2])
def test_every_kind_of_deviation(version: str, peer: str) -> None:
    assert len(KINDS) == 15
    assert {type(deviation) for deviation in tried(version, peer)} == KINDS


@pytest.mark.parametrize("peer", ["natt", "strongswan"])
@pytest.mark.parametrize("version", [IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2])
def test_every_float_marker_and_fake(version: str, peer: str) -> None:
    deviations = tried(version, peer)
    assert {one.floating for one in deviations if isinstance(one, d.Ports)} == set(d.Float)
    assert any(isinstance(one, d.Ports) and one.start_on_natt_port for one in deviations)
    assert {one.fault for one in deviations if isinstance(one, d.Marker)} == set(d.MarkerFault)
    assert {one.hash for one in deviations if isinstance(one, d.NatDHash)} >= set(Fake)
