"""Initiator against responder in every NAT-T version, through a NAT that rewrites address and ports."""

import pytest

from lab.ike.versions import VERSIONS, by_name

ELEVEN = [name for name in VERSIONS if name != "unnumbered"]


def one_version(name):
    return {"nat_t": (by_name(name),)}


def agree(network):
    (left,), (right,) = network.installed("left"), network.installed("right")
    assert left.inbound.spi == right.outbound.spi
    assert left.outbound.spi == right.inbound.spi
    for mine, theirs in ((left.inbound, right.outbound), (left.outbound, right.inbound)):
        assert (mine.encryption_key, mine.integrity_key) == (theirs.encryption_key, theirs.integrity_key)
        assert (mine.encryption, mine.integrity, mine.mode) == (
            theirs.encryption, theirs.integrity, theirs.mode,
        )  # fmt: skip
        assert mine.encapsulation == theirs.encapsulation
    assert left.local == right.remote or left.mode == "transport"
    return left, right


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("exchange", ["main", "aggressive"])
@pytest.mark.parametrize("name", list(VERSIONS))
def test_every_version_through_a_nat(play, name, exchange, mode):
    version = by_name(name)
    network = play(both={**one_version(name), "exchange": exchange, "mode": mode}).up()
    left, right = agree(network)
    assert left.mode == mode
    port = 4500 if version.floats else 500
    outside = 61001 if version.floats else 12312
    assert left.inbound.encapsulation == ("espinudp" if version.floats else "espinudp-non-ike")
    assert str(left.outbound.source) == f"10.0.0.2:{port}"
    assert str(right.outbound.destination) == f"198.51.100.1:{outside}"
    assert str(right.outbound.source) == f"203.0.113.5:{port}"
    assert [str(e.detail["nat"]) for e in network.events("left", "nat-detection")] == ["local"]
    assert [str(e.detail["nat"]) for e in network.events("right", "nat-detection")] == ["remote"]
    if mode == "transport":
        assert right.inbound.original_source == "10.0.0.2"
        assert left.inbound.original_source == "203.0.113.5"
        two = version.nat_oa_count == 2
        assert left.inbound.original_destination == ("198.51.100.1" if two else None)
        assert right.inbound.original_destination == ("203.0.113.5" if two else None)
    else:
        assert right.inbound.original_source is None
