from __future__ import annotations

from typing import Any

import pytest

from lab.peers.natt import Natt
from lab.peers.peer import Connection, OuterHeader, UnsupportedError
from lab.peers.scripted import ScriptedNatt
from lab.peers.strongswan import StrongSwan


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "beet"}, "mode: 'beet' is none of tunnel, transport"),
        ({"encapsulation": "perhaps"}, "encapsulation: 'perhaps' is none of"),
        ({"udp_encapsulation": "tcp"}, "udp_encapsulation: 'tcp' is none of"),
        ({"inner_family": 5}, "inner_family: 5 is none of 4, 6"),
        ({"nat_t_port": 0}, r"nat_t_port: 0 is not in 1\.\.65535"),
        ({"tfc": -1}, "tfc: -1 is not in"),
        ({"outer": OuterHeader(df="maybe")}, r"outer\.df: 'maybe' is none of copy, set, clear"),
        ({"outer": OuterHeader(dscp=64)}, r"outer\.dscp: 64 is not in 0\.\.63"),
        ({"spis": (255, 4711)}, r"spis: 255 is not in"),
        ({"keepalive": -1.0}, "keepalive: -1 s"),
        ({"esp": "rot13"}, "esp: no suite 'rot13'"),
        ({"further_esp": ("null",)}, "esp: no suite 'null'"),
        ({"mode": "transport", "further_esp": ("aes-gcm-8",)}, "further_esp: transport mode"),
    ],
)
def test_a_value_that_means_nothing_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Connection("manual", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replay_window": 900}, "strongswan: replay_window 900"),
        ({"tfc": 900}, "strongswan: tfc 900"),
        ({"udp_encapsulation": "espinudp-non-ike"}, "strongswan: udp_encapsulation espinudp-non-ike"),
    ],
)
def test_what_a_peer_does_not_declare_is_unsupported(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        StrongSwan.check(Connection("ikev2", **values))
    Natt.check(Connection("manual", **values))


def test_a_suite_without_a_number_in_ike_is_unsupported() -> None:
    for version in ("ikev1-main", "ikev2"):
        with pytest.raises(UnsupportedError, match=r"natt: .*no cipher 'null'"):
            ScriptedNatt.check(Connection(version, esp="null-hmac-sha1"))
