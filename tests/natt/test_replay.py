"""The window of RFC 4303 section 3.4.3 and the number inference of its appendix A."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.replay import ReplayWindow


def take(window: ReplayWindow, low: int) -> bool:
    sequence = window.check(low)
    if sequence < 0:
        return False
    window.commit(sequence)
    return True


def test_vector_of_a_window_of_four() -> None:
    window = ReplayWindow(4)
    arrivals = [1, 2, 3, 6, 2, 3, 4, 4, 5, 6, 0xFFFFFFFF]
    accepted = [True, True, True, True, False, False, True, False, True, False, True]
    assert [take(window, low) for low in arrivals] == accepted
    assert not take(window, 0)


def test_check_alone_changes_nothing() -> None:
    window = ReplayWindow(64)
    assert [window.check(7), window.check(7), window.top] == [7, 7, 0]


def test_without_a_window_everything_passes() -> None:
    window = ReplayWindow(0)
    assert all(take(window, low) for low in (5, 5, 1, 0))


@pytest.mark.parametrize(("size", "esn"), [(-1, False), (0, True)])
def test_impossible_windows(size: int, esn: bool) -> None:
    with pytest.raises(ValueError, match="replay window"):
        ReplayWindow(size, esn)


@pytest.mark.parametrize(
    ("top", "low", "inferred"),
    [
        (0x1_0000_0064, 0x0000_0100, 0x1_0000_0100),
        (0x1_0000_0064, 0x0000_0025, 0x1_0000_0025),
        (0x1_0000_0064, 0x0000_0024, 0x2_0000_0024),
        (0x1_0000_0005, 0xFFFF_FFFF, 0x0_FFFF_FFFF),
        (0x1_0000_0005, 0xFFFF_FFC6, 0x0_FFFF_FFC6),
        (0x1_0000_0005, 0xFFFF_FFC5, 0x1_FFFF_FFC5),
        (0x0_FFFF_FFF0, 0x0000_0003, 0x1_0000_0003),
        (0x0_0000_0005, 0xFFFF_FFFF, -1),
    ],
)
def test_extended_numbers_are_inferred(top: int, low: int, inferred: int) -> None:
    window = ReplayWindow(64, esn=True)
    window.commit(top)
    assert window.infer(low) == inferred


def test_extended_numbers_cross_the_wrap() -> None:
    window = ReplayWindow(32, esn=True)
    window.commit(0xFFFF_FFF8)
    assert all(take(window, low) for low in (0xFFFF_FFFF, 0, 1, 0xFFFF_FFFE))
    assert window.top == 0x1_0000_0001
    assert not any(take(window, low) for low in (0xFFFF_FFFF, 0, 1, 0xFFFF_FFFE))


@settings(deadline=None)
@given(st.integers(1, 4096), st.lists(st.integers(0, 9000), max_size=60))
def test_against_a_set(size: int, arrivals: list[int]) -> None:
    window, seen, top = ReplayWindow(size), set[int](), 0
    for low in arrivals:
        expected = low != 0 and low not in seen and low > top - size
        assert take(window, low) is expected
        if expected:
            seen.add(low)
            top = max(top, low)


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.integers(0, (1 << 40) - 1),
    st.lists(st.integers(-400, 400), min_size=1, max_size=40),
)
def test_extended_against_a_set(size: int, start: int, steps: list[int]) -> None:
    window = ReplayWindow(size, esn=True)
    window.commit(start)
    seen, top = {start}, start
    for step in steps:
        number = max(0, top + step)
        if number <= top - size:
            continue  # its low half reads as a number of the next subspace
        expected = number != 0 and number not in seen
        assert take(window, number & 0xFFFFFFFF) is expected
        if expected:
            seen.add(number)
            top = max(top, number)
