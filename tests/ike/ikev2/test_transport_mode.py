"""Transport mode through NATs: substituted selectors, original addresses (RFC 7296 section 2.23.1)."""

from __future__ import annotations

from typing import Any

import pytest

from lab.ike.association import TRANSPORT, Selector
from lab.ike.ikev2.config import Child
from lab.ike.ikev2.nat import Nat
from lab.ike.ikev2.selectors import Substituted, intersection, narrow, substitute
from lab.ike.simulation import mirrored

LEFT, RIGHT, OUTSIDE_LEFT, OUTSIDE_RIGHT = "10.1.0.2", "10.2.0.2", "203.0.113.1", "203.0.113.2"


def host(address: str) -> tuple[Selector, ...]:
    return (Selector.of(address),)


@pytest.mark.parametrize(
    ("nats", "left_sees_right", "right_sees_left"),
    [
        ("none", RIGHT, LEFT),
        ("left", RIGHT, OUTSIDE_LEFT),
        ("right", OUTSIDE_RIGHT, LEFT),
        ("both", OUTSIDE_RIGHT, OUTSIDE_LEFT),
    ],
)
@pytest.mark.parametrize("rekeyed_by", [None, "left", "right"])
def test_each_end_has_its_own_view(
    play: Any, nats: str, left_sees_right: str, right_sees_left: str, rekeyed_by: str | None
) -> None:
    wire = play(nats, both={"child": Child(mode=TRANSPORT)}).connect()
    if rekeyed_by is not None:
        wire.asks(rekeyed_by, "rekey_child")
        assert wire.left.told("child-rekeyed")
    left, right = wire.left.child, wire.right.child
    assert mirrored(left, right)
    assert left.mode == right.mode == TRANSPORT
    assert (left.local, left.remote) == (host(LEFT), host(left_sees_right))
    assert (right.local, right.remote) == (host(RIGHT), host(right_sees_left))
    originals = [
        (child.inbound.original_source, child.inbound.original_destination) for child in (left, right)
    ]
    if nats == "none":
        assert originals == [(None, None)] * 2
    else:
        # What the other end's checksum was made with: its own address, and the one it talks to.
        assert originals == [(RIGHT, right_sees_left), (LEFT, left_sees_right)]


def test_ports_and_protocols_survive_the_substitution() -> None:
    udp = Selector("10.1.0.2", "10.1.0.2", 17, 1701, 1701)
    nat = Nat(True, False, True)
    assert substitute(host(RIGHT), (udp,), nat, RIGHT, OUTSIDE_LEFT) == Substituted(
        host(RIGHT), (Selector(OUTSIDE_LEFT, OUTSIDE_LEFT, 17, 1701, 1701),), LEFT, RIGHT
    )


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (("10.0.0.0/8", 0, None), ("10.1.0.0/16", 6, None), ("10.1.0.0/16", 6, None)),
        (("10.0.0.0/8", 17, None), ("10.1.0.0/16", 6, None), None),
        (("10.0.0.0/8", 17, 53), ("10.1.0.0/16", 17, None), ("10.1.0.0/16", 17, 53)),
        (("10.0.0.0/8", 17, 53), ("10.1.0.0/16", 17, 54), None),
        (("10.0.0.0/8", 0, None), ("11.0.0.0/8", 0, None), None),
        (("0.0.0.0/0", 0, None), ("::/0", 0, None), None),
        (("fd00::/8", 0, None), ("::/0", 0, None), ("fd00::/8", 0, None)),
    ],
)
def test_intersections(left: Any, right: Any, both: Any) -> None:
    expected = None if both is None else Selector.of(*both)
    assert intersection(Selector.of(*left), Selector.of(*right)) == expected
    assert intersection(Selector.of(*right), Selector.of(*left)) == expected


def test_narrowing_keeps_order_and_drops_repeats() -> None:
    a, b = Selector.of("10.1.0.0/16"), Selector.of("10.2.0.0/16")
    everything = Selector.of("0.0.0.0/0")
    assert narrow([everything, b, a], [a, b]) == (a, b)
    assert narrow([a], [b]) == ()


def test_selectors_as_prefixes() -> None:
    assert Selector("10.0.0.1", "10.0.0.4").prefixes == ("10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32")
    assert Selector.of("10.0.0.0/24").prefixes == ("10.0.0.0/24",)
    assert Selector.of("10.0.0.1").is_host
    assert not Selector.of("10.0.0.0/31").is_host
