"""When keepalives are sent, without a clock."""

from __future__ import annotations

import pytest

from lab.natt.keepalive import KeepaliveTimer


def test_only_when_idle_for_the_interval() -> None:
    timer = KeepaliveTimer(20.0, True, 100.0)
    assert not timer.due(119.9, 1)
    assert timer.due(120.0, 1)
    assert (timer.overdue(119.0), timer.overdue(123.0)) == (-1.0, 3.0)
    timer.sent(120.0)
    assert timer.next_time(1) == 140.0
    timer.sent(130.0)
    assert not timer.due(140.0, 1)
    assert timer.due(150.0, 1)


@pytest.mark.parametrize(("behind_nat", "associations"), [(False, 1), (True, 0), (False, 0)])
def test_never_without_nat_or_sa(behind_nat: bool, associations: int) -> None:
    timer = KeepaliveTimer(20.0, behind_nat, 0.0)
    assert timer.next_time(associations) is None
    assert not timer.due(1e9, associations)


@pytest.mark.parametrize("interval", [0.0, -1.0])
def test_interval_must_be_positive(interval: float) -> None:
    with pytest.raises(ValueError, match="keepalive interval"):
        KeepaliveTimer(interval, True, 0.0)
