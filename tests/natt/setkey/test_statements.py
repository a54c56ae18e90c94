"""setkey(8) text: natt-facts' examples to the message, round trips, and every mistake with its place."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.natt.pfkey.extensions import Address, Key, Limits, Sa, SpiRange
from lab.natt.pfkey.kame import IpsecRequest, NatTPort, NatTType, Policy, Sa2
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType, SaType
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.setkey.lexer import SetkeyError
from lab.natt.setkey.printing import statement
from lab.natt.setkey.statements import parse
from lab.natt.setkey.words import AUTHENTICATION, ENCRYPTION, word_of

LINUX = Abi(Dialect.LINUX)
AES = bytes(range(16))
SHA1 = bytes(range(0x20, 0x34))


def one(text: str) -> Message:
    (found,) = parse(text)
    return found.message


def test_an_add_over_udp_sends_the_extensions_in_setkeys_order() -> None:
    message = one(
        "add 203.0.113.5[4500] 198.51.100.1[61001] esp-udp 0x11223344 -m tunnel"
        f" -E aes-cbc 0x{AES.hex()} -A hmac-sha1 0x{SHA1.hex()} ;"
    )
    assert (message.type, message.satype) == (MessageType.ADD, SaType.ESP)
    assert message.extensions == (
        Key(Ext.KEY_ENCRYPT, 128, AES),
        Key(Ext.KEY_AUTH, 160, SHA1),
        Sa(0x11223344, auth=3, encrypt=12),
        Sa2(2),
        NatTType(2),
        Address(Ext.ADDRESS_SRC, Sockaddr("203.0.113.5"), 32, 255),
        Address(Ext.ADDRESS_DST, Sockaddr("198.51.100.1"), 32, 255),
        NatTPort(Ext.X_NAT_T_SPORT, 4500),
        NatTPort(Ext.X_NAT_T_DPORT, 61001),
    )
    assert decode(encode(message, LINUX), LINUX) == message


def test_ports_default_to_4500_and_the_original_address_follows_the_protocol() -> None:
    message = one("add 10.0.0.1 10.0.0.2[0] esp-udp 10.9.9.9 300 -E null;")
    assert message.find(Ext.X_NAT_T_SPORT, NatTPort) == NatTPort(Ext.X_NAT_T_SPORT, 4500)
    assert message.find(Ext.X_NAT_T_DPORT, NatTPort) == NatTPort(Ext.X_NAT_T_DPORT, 4500)
    original = message.find(Ext.X_NAT_T_OAI, Address)
    assert original is not None
    assert original.sockaddr.address == "10.9.9.9"


def test_our_own_word_asks_for_the_non_ike_marker() -> None:
    message = one("add 10.0.0.1[500] 10.0.0.2[500] esp-udp-nonike 300 -E null;")
    assert message.find(Ext.X_NAT_T_TYPE, NatTType) == NatTType(1)


def test_one_lifetime_brings_the_other() -> None:
    message = one("add 10.0.0.1 10.0.0.2 esp 300 -lh 60 -bh 1000 -E null;")
    assert message.find(Ext.LIFETIME_HARD, Limits) == Limits(Ext.LIFETIME_HARD, octets=1000, addtime=60)
    assert message.find(Ext.LIFETIME_SOFT, Limits) == Limits(Ext.LIFETIME_SOFT)


def test_an_odd_hexadecimal_key_begins_with_an_octet_of_one_digit() -> None:
    message = one("add 10.0.0.1 10.0.0.2 esp 300 -E aes-cbc 0x1aabbccddeeff00112233445566778899;")
    key = message.find(Ext.KEY_ENCRYPT, Key)
    assert key is not None
    assert key.octets[:2] == b"\x01\xaa"


def test_getspi_and_the_whole_database() -> None:
    assert one("getspi 10.0.0.1 10.0.0.2 esp 0;").find(Ext.SPIRANGE, SpiRange) == SpiRange(0x100, 0x0FFFFFFF)
    assert one("getspi 10.0.0.1 10.0.0.2 esp 0x777;").find(Ext.SPIRANGE, SpiRange) == SpiRange(0x777, 0x777)
    types = [found.message.type for found in parse("flush; flush esp; dump ; spdflush ;spddump;")]
    assert types == [9, 9, 10, 19, 18]


def test_a_policy_with_ports_level_and_tunnel_ends() -> None:
    message = one(
        "spdadd 10.10.0.0/24[80] fd00::/64[any] tcp -P out priority 7 ipsec"
        " esp/tunnel/10.0.0.1[4500]-10.0.0.2[61001]/unique:5 ah/transport//use;"
    )
    policy = message.find(Ext.X_POLICY, Policy)
    assert policy == Policy(
        2,
        2,
        priority=7,
        requests=(
            IpsecRequest(50, 2, 3, 5, (Sockaddr("10.0.0.1", 4500), Sockaddr("10.0.0.2", 61001))),
            IpsecRequest(51, 1, 1),
        ),
    )
    assert message.find(Ext.ADDRESS_SRC, Address) == Address(
        Ext.ADDRESS_SRC, Sockaddr("10.10.0.0", 80), 24, 6
    )


addresses = st.one_of(
    st.tuples(st.just("10.1.0.2"), st.just("203.0.113.2")), st.tuples(st.just("fd01::2"), st.just("fd02::2"))
)
algorithms = st.sampled_from([name for name in ENCRYPTION if name != "rijndael-cbc"])
integrities = st.sampled_from(["", *(name for name in AUTHENTICATION if word_of(AUTHENTICATION, AUTHENTICATION[name]) == name)])  # fmt: skip  # noqa: E501


@settings(deadline=None, max_examples=150)
@given(
    addresses,
    st.integers(1, 0xFFFFFFFF),
    algorithms,
    integrities,
    st.sampled_from(["esp", "esp-udp", "esp-udp-nonike"]),
    st.sampled_from(["any", "tunnel", "transport"]),
    st.integers(1, 65535),
    st.integers(0, 255),
    st.integers(0, 9999),
    st.binary(min_size=1, max_size=40),
)
def test_what_is_printed_means_the_same_again(
    ends: tuple[str, str],
    spi: int,
    encryption: str,
    integrity: str,
    protocol: str,
    mode: str,
    port: int,
    window: int,
    seconds: int,
    key: bytes,
) -> None:
    ports = ("", "") if protocol == "esp" else (f"[{port}]", "[4500]")
    text = f"add {ends[0]}{ports[0]} {ends[1]}{ports[1]} {protocol} {spi} -m {mode} -r {window} -ls {seconds}"
    text += f" -E {encryption}" + ("" if encryption == "null" else f" 0x{key.hex()}")
    if integrity:
        text += f" -A {integrity}" + ("" if integrity == "null" else f" 0x{key.hex()}")
    message = one(text + ";")
    again = one(statement(message))
    assert again.extensions == message.extensions or not seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ad 1;", "file:1:1: expected one of add, getspi"),
        ("flush", "file:1: expected `;`, found the end of the text"),
        ("flush esp-raw;", "file:1:7: expected esp, esp-udp, esp-udp-nonike, ah or ipcomp, found `esp-raw`"),
        ("add 10.0.0.1", "file:1: expected destination address, found the end"),
        ("add 10.0.0.1 fd00::1 esp 300 -E null;", "file:1:14: source and destination of one family"),
        ("add 10.0.0 10.0.0.2 esp 300 -E null;", "file:1:5: expected source as ADDRESS or ADDRESS[PORT]"),
        ("add 10.0.0.1[70000] 10.0.0.2 esp-udp 300;", "file:1:5: expected a port of source in 0..65535"),
        ("add 10.0.0.1[500] 10.0.0.2 esp 300;", "ports go with esp-udp only"),
        ("add 10.0.0.1 10.0.0.2 esp 0 -E null;", "file:1:27: expected an SPI in 1..4294967295, found `0`"),
        ("add 10.0.0.1 10.0.0.2 esp 0777 -E null;", "expected an SPI"),
        ("add 10.0.0.1 10.0.0.2 esp 300;", "file:1:30: expected -E or -A, found `;`"),
        ("add 10.0.0.1 10.0.0.2 esp 300 -E rot13 0x1;", "file:1:34: expected one of des-cbc"),
        ("add 10.0.0.1 10.0.0.2 esp 300 -E aes-cbc zz;", 'file:1:42: expected a key as 0x… or "…"'),
        ("add 10.0.0.1 10.0.0.2 esp 300 -x;", "file:1:31: expected -m, -u, -r"),
        (
            'flush;\n# fine\nadd 10.0.0.1 10.0.0.2 esp 300 -E des-cbc "ab',
            "file:3:42: a quote that does not end",
        ),
        ("spdadd 10.0.0.0/33 10.0.0.2 any -P out none;", "file:1:8: expected a prefix length of source"),
        ("spdadd 10.0.0.1 10.0.0.2 any out none;", "file:1:30: expected -P, found `out`"),
        ("spdadd 10.0.0.1 10.0.0.2 any -P up none;", "expected one of in, out, fwd"),
        ("spdadd 10.0.0.1 10.0.0.2 any -P out ipsec esp/tunnel//require;", "a tunnel has ends"),
        ("spdadd 10.0.0.1 10.0.0.2 any -P out ipsec esp/require;", "expected PROTOCOL/MODE/SRC-DST/LEVEL"),
        ("spdadd 10.0.0.1 10.0.0.2 any -P out ipsec esp/transport//may;", "expected a level of default"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SetkeyError) as caught:
        parse(text, "file")
    assert said in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet='add flushp 0x1.;"#[]/-EA:n\n', max_size=60))
def test_no_text_raises_another_error(text: str) -> None:
    with suppress(SetkeyError):
        parse(text)
