"""The configuration file: what it means, and what every mistake is answered with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lab.natt import daemon
from lab.natt.config import Config, parse_endpoint
from lab.natt.configfile import load_config, parse_config
from lab.natt.sockets import UdpChecksum
from lab.natt.spd import Network, Selector
from lab.natt.tables import ConfigError
from lab.natt.terms import DontFragment, Lifetime, Mode
from lab.natt.wire import Encap, Profile

GOOD = """
[[socket]]
address="10.1.0.2"
port=4500
encap="espinudp"
profile="linux"

[tunnel]
device="natt0"
addresses=["10.10.0.1/32", "fd10::1/64"]

[[sa]]
spi=0x1001
source="10.1.0.2"
destination="203.0.113.2"
encap="espinudp"
encryption="aes-gcm-16"
encryption-key="000102030405060708090a0b0c0d0e0f10111213"

[[sa]]
spi=0x2001
source="203.0.113.2"
destination="10.1.0.2"
encap="espinudp"
encryption="aes-cbc"
encryption-key="000102030405060708090a0b0c0d0e0f"
integrity="hmac-sha1-96"
integrity-key="0x000102030405060708090a0b0c0d0e0f10111213"
replay-window=128
esn=true
hard-bytes=1000
soft-seconds=2
oa-source="192.168.0.1"
df="clear"
dscp=46

[[policy]]
source="10.10.0.1/32"
destination="10.20.0.1/32"
spi=0x1001

[keepalive]
interval=5
behind-nat=true
destination="203.0.113.2:4500"

[rebinding]
policy="follow"
"""


def parse(text: str) -> Config:
    return parse_config(tomllib.loads(text))


def test_a_whole_file() -> None:
    config = parse(GOOD)
    (sock,) = config.sockets
    assert (sock.address, sock.port, sock.encap, sock.profile) == (
        "10.1.0.2",
        4500,
        Encap.ESPINUDP,
        Profile.LINUX,
    )
    assert sock.checksum is UdpChecksum.AUTO
    out, back = config.associations
    assert [sa.direction.value for sa in (out, back)] == ["out", "in"]
    assert (out.sport, out.dport, out.mode, out.replay_window) == (4500, 4500, Mode.TUNNEL, 64)
    assert (back.esn, back.replay_window, back.oa_source) == (True, 128, "192.168.0.1")
    assert (back.hard, back.soft) == (Lifetime(octets=1000), Lifetime(addtime=2.0))
    assert (back.outer.df, back.outer.dscp) == (DontFragment.CLEAR, 46)
    assert config.policies[0].sa is out
    mirror = Selector(Network.parse("10.20.0.1"), Network.parse("10.10.0.1"))
    assert (out.selectors, back.selectors) == ((), (mirror,))
    assert config.tunnel is not None
    assert (config.tunnel.device, config.tunnel.mtu) == ("natt0", 1438)
    assert [length for _, length in config.tunnel.addresses] == [32, 64]
    assert config.keepalive is not None
    assert config.keepalive.source == ("10.1.0.2", 4500)
    assert config.keepalive.destinations == [("203.0.113.2", 4500)]
    assert config.follow


def test_inbound_policies_replace_the_mirror() -> None:
    extra = '[[policy]]\ndirection="in"\nsource="10.30.0.0/16"\ndestination="0.0.0.0/0"\nspi=0x2001\n'
    config = parse(GOOD.replace("[keepalive]", extra + "[keepalive]"))
    assert config.associations[1].selectors == (
        Selector(Network.parse("10.30.0.0/16"), Network.parse("0.0.0.0/0")),
    )
    assert len(config.policies) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '10111213"\n\n[[sa]]',
            '101112"\n\n[[sa]]',
            "[[sa]] 1: encryption-key: 19 octets, aes-gcm-16 takes 20, 28 or 36",
        ),
        ("spi=0x2001", "spi=0", "[[sa]] 2: spi: 0x0 is not in 1..0xffffffff"),
        ("spi=0x2001", 'spi="x"', "[[sa]] 2: spi: 'x' is not an integer"),
        ("spi=0x2001\n", "", "[[sa]] 2: spi: missing"),
        ("esn=true", "esn=1", "[[sa]] 2: esn: 1 is not true or false"),
        ("esn=true", "esm=true", "[[sa]] 2: esm: unknown key"),
        ("replay-window=128", "replay-window=0", "[[sa]] 2: replay-window: extended sequence numbers need"),
        ('integrity-key="0x00', 'integrity-key="0xzz', "[[sa]] 2: integrity-key: not hexadecimal octets"),
        (
            'integrity="hmac-sha1-96"',
            'integrity="sha1"',
            "[[sa]] 2: integrity: no algorithm 'sha1'; there are",
        ),
        (
            'source="203.0.113.2"',
            'source="203.0.113.3"\nsport=70000',
            "[[sa]] 2: sport: 70000 is not in 1..65535",
        ),
        (
            'source="203.0.113.2"',
            'source="fd00::1"',
            "[[sa]] 2: destination: 10.1.0.2 is not of the family of fd00::1",
        ),
        (
            'destination="203.0.113.2"\n',
            'destination="peer"\n',
            "[[sa]] 1: destination: 'peer' is no address",
        ),
        (
            'destination="203.0.113.2"\n',
            'destination="203.0.113.2"\nsport=500\n',
            "[[sa]] 1: sport: no [[socket]] 10.1.0.2 port 500 to send from",
        ),
        (
            'source="10.1.0.2"',
            'source="10.1.0.9"',
            "[[sa]] 1: direction: missing, and neither end is the address",
        ),
        (
            'encap="espinudp"\nencryption="aes-cbc"',
            'encap="udp"\nencryption="aes-cbc"',
            "[[sa]] 2: encap: 'udp' is none of none, espinudp-non-ike, espinudp",
        ),
        ("spi=0x2001", "spi=0x1001\nsource='203.0.113.2'", "at line"),
        ('profile="linux"', 'profile="minix"', "[[socket]] 1: profile: 'minix' is none of rfc3948, linux"),
        (
            'encap="espinudp"\nprofile="linux"',
            'encap="espinudp-non-ike"\nprofile="freebsd11"',
            "[[socket]] 1: encap: profile freebsd11 has no espinudp-non-ike",
        ),
        ("port=4500", "port=0", "[[socket]] 1: port: 0 is not in 1..65535"),
        (
            "[tunnel]",
            '[[socket]]\naddress="10.1.0.2"\nport=4500\n[tunnel]',
            "[[socket]] 2: address: 10.1.0.2 port 4500 is there already",
        ),
        (
            'destination="10.20.0.1/32"\nspi=0x1001',
            'destination="10.20.0.1/32"\nspi=0x2001',
            "[[policy]] 1: spi: no outbound [[sa]] 0x2001",
        ),
        (
            'destination="10.20.0.1/32"',
            'destination="10.20.0.1/24"',
            "[[policy]] 1: destination: '10.20.0.1/24' has bits set behind its prefix",
        ),
        (
            'destination="10.20.0.1/32"',
            'destination="fd20::/64"',
            "[[policy]] 1: destination: fd20::/64 is not of the family of 10.10.0.1/32",
        ),
        (
            'addresses=["10.10.0.1/32", ',
            'addresses=["10.10.0.1/33", ',
            "[tunnel]: addresses: '10.10.0.1/33' is not address/prefix",
        ),
        ('addresses=["10.10.0.1/32", ', "addresses=[7, ", "[tunnel]: addresses: 7 is not text"),
        (
            'device="natt0"',
            'device="a-much-too-long-name"',
            "[tunnel]: device: 'a-much-too-long-name' is not 1 to 15 octets",
        ),
        ('device="natt0"', "mtu=20", "[tunnel]: mtu: 20 is not in 68..65535"),
        ("interval=5", "interval=0", "[keepalive]: interval: 0 is not a time in seconds"),
        ("203.0.113.2:4500", "203.0.113.2", "[keepalive]: destination: '203.0.113.2' is not address:port"),
        ("behind-nat=true", 'source="10.1.0.2:500"', "[keepalive]: source: no [[socket]] 10.1.0.2 port 500"),
        ('policy="follow"', 'policy="guess"', "[rebinding]: policy: 'guess' is none of report, follow"),
        ("[rebinding]", "[rebinder]", "unknown table 'rebinder'"),
        ("[tunnel]", "[socket]\n[tunnel]", "Cannot declare ('socket',) twice (at line"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    assert GOOD.count(old) >= 1
    path = tmp_path / "nattd.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert message in str(caught.value)
    assert daemon.main(["--config", str(path)]) == 2
    assert capsys.readouterr().err == f"nattd: {caught.value}\n"


def test_policies_need_a_device() -> None:
    start, end = GOOD.index("[tunnel]"), GOOD.index("[[sa]]")
    with pytest.raises(ConfigError, match=r"\[tunnel\]: missing"):
        parse(GOOD[:start] + GOOD[end:])


def test_the_same_sa_twice() -> None:
    start, end = GOOD.index("[[sa]]"), GOOD.rindex("[[sa]]")
    with pytest.raises(ConfigError, match=r"\[\[sa\]\] 2: spi: 0x1001 to 203.0.113.2 is there already"):
        parse(GOOD[:end] + GOOD[start:end] + GOOD[end:])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[sa", b"x=1"])
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nattd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"nattd.toml: "):
        load_config(str(path))


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/nattd\.toml: No such file or directory"):
        load_config("/nowhere/nattd.toml")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("10.0.0.1:4500", ("10.0.0.1", 4500)), ("[FD00::1]:500", ("fd00::1", 500))],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:x", "::1:1", "10.0.0.1:65536"]
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|brackets"):
        parse_endpoint(text)
