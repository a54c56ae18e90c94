from ipaddress import IPv4Address, IPv6Address

import pytest

from lab.net.behaviour import PRESETS, Filtering, Mapping, Middlebox, Nat66, PortRange, Ports, Timeouts
from lab.net.blocking import block_rules, raw_block_rules
from lab.net.nat import NatConfig, StaticMapping
from lab.net.nft_rules import forget_rules, nft_rules
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
-A PREROUTING -i out0 -m addrtype --dst-type LOCAL -p udp --dport 500 -j DNAT --to-destination 10.2.0.2:500
-A PREROUTING -i out0 -m addrtype --dst-type LOCAL -p tcp --dport 22 -j DNAT --to-destination 10.2.0.3:22
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
-A PREROUTING -i wan -m addrtype --dst-type LOCAL -p udp --dport 500 -j DNAT --to-destination [fd02::2]:500
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


WAN = IPv4Address("203.0.113.1")


def config(**behaviour) -> NatConfig:
    known = tuple(IPv4Address(f"203.0.113.{n}") for n in (2, 254))
    return NatConfig(inside=("lan",), outside="wan", addresses=(WAN,), destinations=known, **behaviour)


def chain(rules: str, name: str) -> list[str]:
    return [line.removeprefix(f"-A {name} ") for line in rules.splitlines() if line.startswith(f"-A {name} ")]


@pytest.mark.parametrize(
    ("behaviour", "udp"),
    [
        ({}, []),
        ({"ports": PortRange(7000, 7099)}, ["-j MASQUERADE --to-ports 7000-7099"]),
        (
            {"ports": Ports.RANDOM},
            [
                "--sport 0:33791 -j MASQUERADE --to-ports 33792-65535",
                "--sport 33792:65535 -j MASQUERADE --to-ports 1024-33791",
            ],
        ),
        ({"ports": Ports.SEEDED}, []),
        (
            {"mapping": Mapping.APDM, "ports": Ports.RANDOM},
            ["-j MASQUERADE --to-ports 1024-65535 --random-fully"],
        ),
        (
            {"mapping": Mapping.APDM, "ports": PortRange(7000, 7099)},
            ["-j MASQUERADE --to-ports 7000-7099 --random-fully"],
        ),
        (
            {"mapping": Mapping.ADM, "ports": PortRange(7000, 7299)},
            [
                "-d 203.0.113.2 -j MASQUERADE --to-ports 7000-7099",
                "-d 203.0.113.254 -j MASQUERADE --to-ports 7100-7199",
                "-j MASQUERADE --to-ports 7200-7299",
            ],
        ),
    ],
)
def test_each_mapping_and_choice_of_ports_is_a_masquerade(behaviour, udp: list[str]):
    assert chain(nat_rules(config(**behaviour)), "POSTROUTING") == [
        *[f"-o wan -p udp {rule}" for rule in udp],
        *[f"-o wan -p tcp {rule}" for rule in udp],
        "-o wan -j MASQUERADE",
    ]


def test_a_hairpin_is_marked_on_its_way_in_and_gets_the_outside_address_on_its_way_back():
    mappings = (StaticMapping("udp", 500, IPv4Address("10.1.0.2")),)
    rules = nat_rules(config(hairpin=True, mappings=mappings))
    assert chain(rules, "PREROUTING") == [
        "-i lan -d 203.0.113.1 -j MARK --set-mark 0x1",
        "-i wan -m addrtype --dst-type LOCAL -p udp --dport 500 -j DNAT --to-destination 10.1.0.2:500",
        "-i lan -d 203.0.113.1 -p udp --dport 500 -j DNAT --to-destination 10.1.0.2:500",
    ]
    assert chain(rules, "POSTROUTING")[0] == "-o lan -m mark --mark 0x1 -j SNAT --to-source 203.0.113.1"


def test_one_to_one_lets_everything_in_to_one():
    nat = config(one_to_one=(IPv4Address("10.1.0.2"),), filtering=Filtering.EIF)
    assert chain(nat_rules(nat), "PREROUTING") == [
        "-i wan -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.1.0.2"
    ]
    assert "-i wan -m conntrack --ctstate DNAT -j ACCEPT" in chain(nat_rules(nat), "FORWARD")
    assert nft_rules(nat) == ""


def test_a_port_passed_through_comes_before_every_other_choice():
    rules = nat_rules(config(passthrough=(500,), ports=PortRange(7000, 7099)))
    assert chain(rules, "POSTROUTING")[0] == "-o wan -p udp --sport 500 -j MASQUERADE --to-ports 500"


LEARNED = """\
table ip lab_nat {
}
delete table ip lab_nat
table ip lab_nat {
  map udp_port {
    type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; size 65535;
  }
  map tcp_port {
    type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 432000s; size 65535;
  }
  chain enter {
    type nat hook prerouting priority dstnat + 1;
    iifname "wan" fib daddr type local dnat to udp dport map @udp_port
    iifname "wan" fib daddr type local dnat to tcp dport map @tcp_port
  }
  chain learn {
    type filter hook postrouting priority srcnat + 10;
    oifname "wan" meta l4proto udp ct direction original update @udp_port \
{ ct reply proto-dst : ct original ip saddr . ct original proto-src }
    oifname "wan" meta l4proto tcp ct direction original update @tcp_port \
{ ct reply proto-dst : ct original ip saddr . ct original proto-src }
  }
}
"""


def test_an_endpoint_independent_filter_learns_the_insider_of_each_port():
    assert nft_rules(config(filtering=Filtering.EIF)) == LEARNED


def test_an_address_dependent_filter_learns_the_peers_too():
    expected = LEARNED.replace("_port", "_peer").replace(
        "type inet_service :", "type inet_service . ipv4_addr :"
    )
    expected = expected.replace("dport map", "dport . ip saddr map")
    expected = expected.replace("{ ct reply proto-dst :", "{ ct reply proto-dst . ip daddr :")
    assert nft_rules(config(filtering=Filtering.ADF)) == expected


def test_ipv6_is_looked_up_by_port_and_a_set_holds_the_peers():
    nat = NatConfig(
        inside=("lan",), outside="wan", addresses=(IPv6Address("2001:db8::1"),), families=(6,),
        nat66=Nat66.MASQUERADE, filtering=Filtering.ADF,
    )  # fmt: skip
    lines = [line.strip() for line in nft_rules(nat).splitlines() if "udp" in line or "inet_service" in line]
    options = "flags dynamic,timeout; timeout 120s; size 65535;"
    leaving = 'oifname "wan" meta l4proto udp ct direction original update'
    assert lines[:6] == [
        "map udp_port {",
        f"type inet_service : ipv6_addr; {options}",
        "map udp_port_at {",
        f"type inet_service : inet_service; {options}",
        "set udp_peer {",
        f"type inet_service . ipv6_addr; {options}",
    ]
    assert lines[-4:] == [
        'iifname "wan" fib daddr type local udp dport . ip6 saddr @udp_peer'
        " dnat to udp dport map @udp_port : udp dport map @udp_port_at",
        f"{leaving} @udp_port {{ ct reply proto-dst : ct original ip6 saddr }}",
        f"{leaving} @udp_port_at {{ ct reply proto-dst : ct original proto-src }}",
        f"{leaving} @udp_peer {{ ct reply proto-dst . ip6 daddr }}",
    ]
    assert "flush set ip6 lab_nat udp_peer\n" in forget_rules(nat)


def test_iptables_alone_makes_what_it_can():
    alone = {name for name, preset in PRESETS.items() if nft_rules(config(**vars(preset))) == ""}
    assert alone == {
        "home", "port_restricted", "symmetric", "cloud", "corporate", "passthrough_500",
        *(box.value for box in Middlebox),
    }  # fmt: skip


def test_a_seeded_choice_is_a_hash_of_what_the_mapping_depends_on():
    def key(mapping: Mapping) -> str:
        nat = config(mapping=mapping, ports=Ports.SEEDED, seed=7, passthrough=(500,))
        (line,) = [line for line in nft_rules(nat).splitlines() if "udp" in line and "jhash" in line]
        assert line.startswith(
            '    oifname "wan" meta l4proto udp udp sport != { 500 } masquerade to :jhash '
        )
        choices = line.split("map { ")[1].removesuffix(" }").split(", ")
        assert (len(choices), choices[0], choices[-1]) == (1024, "0 : 1024", "1023 : 65473")
        return line.split("jhash ")[1].split(" map")[0]

    assert key(Mapping.EIM) == "ip saddr . udp sport mod 1024 seed 0x7"
    assert key(Mapping.ADM) == "ip saddr . udp sport . ip daddr mod 1024 seed 0x7"
    assert key(Mapping.APDM) == "ip saddr . udp sport . ip daddr . udp dport mod 1024 seed 0x7"


def test_without_inbound_refresh_a_stale_port_is_closed_before_tracking():
    mappings = (StaticMapping("udp", 500, IPv4Address("10.1.0.2")),)
    rules = nft_rules(config(inbound_refresh=False, mappings=mappings, timeouts=Timeouts(udp_stream=4)))
    assert (
        "  set udp_fresh {\n    type inet_service; flags dynamic,timeout; timeout 4s; size 65535;\n" in rules
    )
    assert '    iifname "wan" meta l4proto udp udp dport != { 500 } udp dport != @udp_fresh drop\n' in rules
    assert "    type filter hook prerouting priority -450;\n" in rules


def test_what_is_blocked_is_dropped_on_its_way_in_and_out():
    assert (
        block_rules(["udp500", "esp"])
        == """\
table inet lab_block {
}
delete table inet lab_block
table inet lab_block {
  chain arriving {
    type filter hook prerouting priority -450;
    meta l4proto esp drop
    udp dport 500 drop
    udp sport 500 drop
  }
  chain own {
    type filter hook output priority -450;
    meta l4proto esp drop
    udp dport 500 drop
    udp sport 500 drop
  }
}
"""
    )
    assert block_rules([]) == "table inet lab_block {\n}\ndelete table inet lab_block\n"


def test_where_there_is_no_nft_iptables_drops_it_before_it_is_tracked():
    assert raw_block_rules(["udp500", "esp"]) == (
        "*raw\n-A PREROUTING -p esp -j DROP\n"
        "-A PREROUTING -p udp --dport 500 -j DROP\n-A PREROUTING -p udp --sport 500 -j DROP\n"
        "-A OUTPUT -p esp -j DROP\n"
        "-A OUTPUT -p udp --dport 500 -j DROP\n-A OUTPUT -p udp --sport 500 -j DROP\nCOMMIT\n"
    )
    assert raw_block_rules([]) == "*raw\nCOMMIT\n"
    assert raw_block_rules([], everything=True) == (
        "*raw\n-A PREROUTING  -j DROP\n-A OUTPUT  -j DROP\nCOMMIT\n"
    )
    with pytest.raises(KeyError):
        raw_block_rules(["fragments"])


def test_a_behaviour_in_words():
    assert config().describe() == "masquerade lan to wan, guard, ESP dropped"
    nat = config(**vars(PRESETS["cgnat"]))
    words = "EIM/EIF, ports random, hairpin, udp 300 s, udp_stream 300 s, guard, ESP dropped"
    assert nat.describe() == f"masquerade lan to wan, {words}"
    assert config(ports=Ports.SEEDED, seed=3).words()[0] == "ports seeded by 3"


def test_a_box_that_rewrites_is_asked_between_the_two_translations():
    rules = nat_rules(config(middlebox=Middlebox.MARKERS))
    assert rules.startswith(nat_rules(config()))
    assert (
        rules.removeprefix(nat_rules(config()))
        == """\
*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -o wan -p udp --dport 4500 -j NFQUEUE --queue-num 0
-A FORWARD -i wan -p udp --sport 4500 -j NFQUEUE --queue-num 1
COMMIT
"""
    )


def test_what_a_box_translates_is_not_tracked():
    rules = nat_rules(config(middlebox=Middlebox.ESP, drop_esp=False))
    assert (
        rules.removeprefix(nat_rules(config(drop_esp=False)))
        == """\
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i lan -p esp -j CT --notrack
-A PREROUTING -i wan -p esp -m addrtype --dst-type LOCAL -j CT --notrack
-A PREROUTING -i wan -p esp -m addrtype --dst-type LOCAL -j NFQUEUE --queue-num 1
COMMIT
*mangle
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan -p esp -j NFQUEUE --queue-num 0
COMMIT
"""
    )


def test_insiders_are_isolated_link_by_link_and_meet_by_hairpin_alone():
    nat = NatConfig(
        inside=("a", "b"), outside="wan", addresses=(WAN,), isolate=True, hairpin=True, guard=False
    )
    assert chain(nat_rules(nat), "FORWARD") == [
        "-p esp -j DROP",
        "-i a -o b -m conntrack --ctstate DNAT -j ACCEPT",
        "-i b -o a -m conntrack --ctstate DNAT -j ACCEPT",
        "-i a -o b -m conntrack --ctstate NEW -j DROP",
        "-i b -o a -m conntrack --ctstate NEW -j DROP",
    ]
