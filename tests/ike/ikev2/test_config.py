"""Configurations that cannot work name the field; orders without an SA are told."""

from __future__ import annotations

from typing import Any

import pytest

from lab.ike.errors import ConfigurationError
from lab.ike.ikev2.config import Child, Config, Retransmission
from lab.ike.ikev2.payloads import Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.transport import Endpoint


def config(port: int = 500, **changes: Any) -> Config:
    ends = Endpoint.of("10.0.0.1", port), Endpoint.of("10.0.0.2", 500)
    return Config(*ends, Identity.of("left.test"), **{"secret": b"secret", **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": b""}, "secret: empty"),
        ({"suites": ()}, "suites: none"),
        ({"fragment_size": 100}, "fragment_size: 100 octets"),
        ({"port": 4500}, "local port 4500 carries markers, remote port 500 does not"),
    ],
)
def test_what_cannot_work(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        config(**changes)


def test_children_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="mode: 'beet' is neither tunnel nor transport"):
        Child(mode="beet")
    with pytest.raises(ConfigurationError, match="child: no suites"):
        Child(())


def test_retransmissions_get_rarer() -> None:
    assert [Retransmission(2.0, 3.0).wait(sent) for sent in (1, 2, 3)] == [2.0, 6.0, 18.0]


@pytest.mark.parametrize(
    "name", ["rekey_child", "new_child", "delete_child", "rekey_ike", "delete_ike", "check_alive"]
)
def test_orders_need_an_sa(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no (IKE SA is established|Child SA)"):
        getattr(Ikev2Peer(config()), name)(0.0)


def test_a_child_is_named_by_its_inbound_spi() -> None:
    with pytest.raises(ConfigurationError, match="no Child SA of inbound SPI 0x00001234"):
        Ikev2Peer(config()).rekey_child(0.0, 0x1234)
