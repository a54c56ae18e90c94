import struct

import pytest

from lab.net.impairment import HOLD, Impairment, Line


def frame(number: int, kind: bytes = b"\x08\x00") -> bytes:
    """An Ethernet frame with an IPv4 packet of 100 octets, told by its identification."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 100, number, 0, 64, 17, 0) + bytes(8)
    return bytes(12) + kind + head + bytes(80)


def numbers(frames: list[bytes]) -> list[int]:
    return [struct.unpack_from("!H", octets, 18)[0] for octets in frames]


def sent(line: Line, count: int, gap: float = 0.0) -> list[int]:
    """What has left the line long after `count` packets."""
    for number in range(count):
        line.put(frame(number), number * gap)
    return numbers(line.take(1e6))


def line(**changes: float) -> Line:
    return Line(Impairment(**{"seed": 1, **changes}), "left")  # type: ignore[arg-type]


def test_a_link_that_is_not_bad_passes_everything_at_once():
    whole = line()
    whole.put(frame(1), 5.0)
    assert whole.due() == 5.0
    assert numbers(whole.take(5.0)) == [1]
    assert whole.due() is None


def test_a_seed_decides_and_directions_differ():
    assert sent(line(loss=0.3), 100) == sent(line(loss=0.3), 100)
    other = Line(Impairment(loss=0.3, seed=1), "right")
    assert sent(line(loss=0.3), 100) != sent(other, 100)
    assert sent(line(loss=0.3, seed=2), 100) != sent(line(loss=0.3), 100)


def test_loss_is_counted_and_hits_the_same_packets_whatever_else_happens():
    alone, with_more = line(loss=0.3), line(loss=0.3, duplicate=0.5, corrupt=0.5)
    came = sent(alone, 1000)
    assert 600 < len(came) < 800
    assert (alone.tally.passed, alone.tally.lost) == (len(came), 1000 - len(came))
    assert set(sent(with_more, 1000)) == set(came)


@pytest.mark.parametrize("kind", [b"\x08\x06", b"\x88\xb5"])
def test_what_is_no_ip_is_not_lost(kind: bytes):
    lost = line(loss=1)
    lost.put(frame(1, kind), 0)
    assert lost.take(0) == [frame(1, kind)]


def ipv6(next_header: int, kind: int) -> bytes:
    return (
        bytes(12)
        + b"\x86\xdd"
        + struct.pack("!IHBB", 0x60 << 24, 8, next_header, 255)
        + bytes(32)
        + bytes([kind])
        + bytes(7)
    )


def test_neighbour_discovery_is_not_lost_but_echoes_are():
    lost = line(loss=1)
    for octets in (ipv6(58, 135), ipv6(58, 136), ipv6(58, 128), ipv6(17, 135)):
        lost.put(octets, 0)
    assert lost.take(0) == [ipv6(58, 135), ipv6(58, 136)]


def test_a_duplicate_follows_at_once():
    twice = line(duplicate=1)
    assert sent(twice, 2) == [0, 0, 1, 1]
    assert twice.tally.duplicated == 2


def test_corruption_flips_one_bit_behind_the_header():
    for seed in range(50):
        broken = line(corrupt=1, seed=seed)
        broken.put(frame(1), 0)
        (came,) = broken.take(0)
        assert came[:34] == frame(1)[:34]
        difference = int.from_bytes(came) ^ int.from_bytes(frame(1))
        assert difference.bit_count() == 1


def test_the_next_packet_overtakes():
    assert sent(line(reorder=1), 4) == [1, 0, 3, 2]


def test_a_packet_that_none_follows_is_late():
    held = line(reorder=1)
    held.put(frame(1), 2.0)
    assert held.due() == 2.0 + HOLD
    assert held.take(2.0 + HOLD / 2) == []
    assert numbers(held.take(2.0 + HOLD)) == [1]


def test_delay_and_jitter_stay_within_their_bounds_and_in_order():
    late = line(delay=0.05, jitter=0.02)
    for number in range(100):
        late.put(frame(number), number * 0.1)
        due = late.due()
        assert due is not None
        assert 0.03 <= due - number * 0.1 <= 0.07
        late.take(due)
    crowd = line(delay=0.05, jitter=0.05)
    assert sent(crowd, 100, gap=0.001) == list(range(100))


def test_a_rate_spaces_packets_and_its_queue_is_finite():
    slow = line(rate=114 * 8 * 10)
    for number in range(20):
        slow.put(frame(number), 0.0)
    assert numbers(slow.take(0.35)) == [0, 1, 2]
    assert numbers(slow.take(10)) == list(range(3, 11))
    assert slow.tally.dropped == 9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": 1.5}, "loss is 1.5"),
        ({"delay": -1}, "delay is -1"),
        ({"jitter": 0.2, "delay": 0.1}, "jitter is 0.2, more than the delay"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"corrupt": float("nan")}, "corrupt is nan"),
    ],
)
def test_what_no_link_can_be_is_refused(wrong: dict[str, float], said: str):
    with pytest.raises(ValueError, match=said):
        Impairment(**wrong)  # type: ignore[arg-type]


def test_netem_does_what_it_does_alike():
    bad = Impairment(loss=0.1, duplicate=0.02, corrupt=0.001, delay=0.02, jitter=0.005, rate=1e6)
    assert bad.netem == (
        "delay", "20000us", "5000us", "loss", "10%", "duplicate", "2%", "corrupt", "0.1%", "rate", "1e+06bit",
    )  # fmt: skip
    assert Impairment(loss=0.1, seed=0).netem is None
    assert Impairment(reorder=0.1).netem is None
    assert Impairment().netem == ()
    assert Impairment(loss=0.1, seed=7).words == "loss 0.1, seed 7"
