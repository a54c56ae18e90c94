from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.net import topology_file
from lab.net.datagram import ones_complement
from lab.net.model import TopologyError
from lab.net.prefixes import embedded, npt


def test_the_example_of_rfc_6296():
    """Section 3.1: FD01:0203:0405:/48 is shown as 2001:0DB8:0001:/48."""
    inside, outside = IPv6Network("fd01:203:405::/48"), IPv6Network("2001:db8:1::/48")
    assert npt(IPv6Address("fd01:203:405:1::1234"), inside, outside) == IPv6Address("2001:db8:1:d550::1234")
    assert npt(IPv6Address("2001:db8:1:d550::1234"), outside, inside) == IPv6Address("fd01:203:405:1::1234")


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([48, 56, 64]))
def test_checksums_stay_and_the_way_back_leads_back(host: int, length: int):
    inside, outside = IPv6Network(f"fd01::/{length}"), IPv6Network(f"2001:db8:1::/{length}")
    address = IPv6Address(int(inside.network_address) | host)
    if length > 48 and all((host >> shift & 0xFFFF) == 0xFFFF for shift in (48, 32, 16, 0)):
        with pytest.raises(ValueError, match="no word"):
            npt(address, inside, outside)
        return
    shown = npt(address, inside, outside)
    assert shown in outside
    assert ones_complement(shown.packed) % 0xFFFF == ones_complement(address.packed) % 0xFFFF
    if all((host >> shift & 0xFFFF) not in (0, 0xFFFF) for shift in (48, 32, 16, 0)):
        assert npt(shown, outside, inside) == address


def test_ipv4_within_ipv6():
    prefix = IPv6Network("2001:db8:64::/96")
    assert embedded(IPv4Address("203.0.113.2"), prefix) == IPv6Address("2001:db8:64::203.0.113.2")


def test_a_nat64_is_crossed_from_one_family_to_the_other():
    topology = topology_file.load("one_nat64")
    assert str(topology.address("left")) == "2001:db8:1::2"
    assert str(topology.address("right")) == "203.0.113.2"
    assert str(topology.reach("left", "right")) == "2001:db8:64::cb00:7102"
    assert str(topology.seen_as("left", "right")) == "203.0.113.1"
    assert (topology.is_behind_nat("left"), topology.is_behind_nat("right")) == (True, False)
    assert topology.path_links("left", "right") == ("lan", "wan")
    assert topology.needs == ("TUN", "tayga")
    with pytest.raises(TopologyError, match="no way from right to left"):
        topology.reach("right", "left")


def test_a_translated_prefix_is_reached_from_both_sides():
    topology = topology_file.load("one_npt66")
    assert str(topology.seen_as("left", "right")) == "2001:db8:1:0:cf47::2"
    assert str(topology.reach("right", "left")) == "2001:db8:1:0:cf47::2"
    assert (topology.is_behind_nat("left"), topology.is_behind_nat("right")) == (True, False)
    assert topology.needs == ("NPT",)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("one_npt66", ', prefix: "2001:db8:1::/64"', "", "with both or none of: `nat66: prefix` and"),
        ("one_npt66", "nat66: prefix, ", "", "with both or none of"),
        ("one_npt66", "2001:db8:1::/64", "2001:db8:1::/56", "use prefixes of one length"),
        ("one_npt66", "2001:db8:1::/64", "203.0.113.0/24", "write it like 2001:db8:1::/64"),
        ("one_nat64", "2001:db8:64::/96", "2001:db8:64::/64", "use a prefix of 96 bits"),
        ("one_nat64", "nat: 203.0.113.1/24, right: 203.0.113.2/24",
         'nat: [203.0.113.1/24, "fd03::1/64"], right: [203.0.113.2/24, "fd03::2/64"]',
         "remove IPv6 from its outside link wan"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_told(name: str, old: str, new: str, said: str):
    text = (topology_file.DIRECTORY / f"{name}.yaml").read_text()
    assert old in text
    with pytest.raises(TopologyError, match=said):
        topology_file.parse(text.replace(old, new), "case", "case")
