from ipaddress import IPv4Address, IPv6Address

import pytest

from lab.net.model import Nat66, PortRange
from lab.net.nat import NatConfig, StaticMapping
from lab.net.rules import nat66_rules, nat_rules

DEFAULT = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p esp -j DROP
-A INPUT -i wan -m conntrack --ctstate NEW -j DROP
-A FORWARD -i wan -m conntrack --ctstate NEW -j DROP
COMMIT
"""

EVERYTHING = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i out0 -p udp --dport 500 -j DNAT --to-destination 10.2.0.2:500
-A PREROUTING -i out0 -p tcp --dport 22 -j DNAT --to-destination 10.2.0.3:22
-A POSTROUTING -o out0 -p udp -j MASQUERADE --to-ports 30000-30100
-A POSTROUTING -o out0 -p tcp -j MASQUERADE --to-ports 30000-30100
-A POSTROUTING -o out0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p esp -j DROP
-A FORWARD -i out0 -m conntrack --ctstate DNAT -j ACCEPT
-A INPUT -i out0 -m conntrack --ctstate NEW -j DROP
-A FORWARD -i out0 -m conntrack --ctstate NEW -j DROP
COMMIT
"""


def test_a_plain_nat_drops_esp_and_guards_its_outside():
    assert nat_rules(NatConfig(inside=("lan",), outside="wan")) == DEFAULT


def test_static_mappings_come_before_the_guard():
    mappings = (
        StaticMapping("udp", 500, IPv4Address("10.2.0.2")),
        StaticMapping("tcp", 22, IPv4Address("10.2.0.3")),
    )
    nat = NatConfig(inside=("in0",), outside="out0", mappings=mappings, ports=PortRange(30000, 30100))
    assert nat_rules(nat) == EVERYTHING


@pytest.mark.parametrize(
    ("option", "gone"),
    [
        ({"drop_esp": False}, ["-A FORWARD -p esp -j DROP\n"]),
        (
            {"guard": False},
            [
                "-A INPUT -i wan -m conntrack --ctstate NEW -j DROP\n",
                "-A FORWARD -i wan -m conntrack --ctstate NEW -j DROP\n",
            ],
        ),
    ],
)
def test_an_option_off_removes_just_its_rules(option: dict[str, bool], gone: list[str]):
    expected = DEFAULT
    for line in gone:
        expected = expected.replace(line, "")
    assert nat_rules(NatConfig(inside=("lan",), outside="wan", **option)) == expected


ROUTED = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p esp -j DROP
-A FORWARD -i wan -d fd02::2 -p udp --dport 500 -j ACCEPT
-A INPUT -i wan -m conntrack --ctstate NEW -j DROP
-A FORWARD -i wan -m conntrack --ctstate NEW -j DROP
COMMIT
"""

NAT66 = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan -p udp --dport 500 -j DNAT --to-destination [fd02::2]:500
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p esp -j DROP
-A FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT
-A INPUT -i wan -m conntrack --ctstate NEW -j DROP
-A FORWARD -i wan -m conntrack --ctstate NEW -j DROP
COMMIT
"""


@pytest.mark.parametrize(("nat66", "rules"), [(Nat66.ROUTE, ROUTED), (Nat66.MASQUERADE, NAT66)])
def test_ipv6_is_routed_with_pinholes_or_translated(nat66: Nat66, rules: str):
    mappings = (
        StaticMapping("udp", 500, IPv4Address("10.2.0.2")),
        StaticMapping("udp", 500, IPv6Address("fd02::2")),
    )
    nat = NatConfig(inside=("lan",), outside="wan", mappings=mappings, nat66=nat66, families=(4, 6))
    assert nat66_rules(nat) == rules
    assert "fd02" not in nat_rules(nat)
