"""The state machine of the scripted IKE peer for one end of a connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from lab.ike.association import Selector
from lab.ike.chain import Payload
from lab.ike.crypto import MODP2048, NO_INTEGRITY, Encryption
from lab.ike.deviation import Deviation, InsertPayload, Match, Ports
from lab.ike.ikev1 import config as v1
from lab.ike.ikev1 import suites as v1_suites
from lab.ike.ikev1.payloads import Identity as V1Identity
from lab.ike.ikev1.peer import Ikev1Peer
from lab.ike.ikev2 import config as v2
from lab.ike.ikev2 import suites as v2_suites
from lab.ike.ikev2.context import random_esp_spi
from lab.ike.ikev2.numbers import Exchange, P
from lab.ike.ikev2.payloads import Identity as V2Identity
from lab.ike.ikev2.peer import Ikev2Peer
from lab.ike.natd import Fake
from lab.ike.transport import IKE_PORT
from lab.ike.transport import Endpoint as UdpEndpoint
from lab.ike.versions import by_name
from lab.peers.certificates import issued
from lab.peers.manual import network
from lab.peers.peer import EVERYWHERE, FORCE, IKEV1_AGGRESSIVE, IKEV2, OFF, TRANSPORT, Connection, Endpoint
from lab.peers.suite import EspSuite

X509_SIGNATURE = 4
"""Certificate encoding (RFC 7296 section 3.6)."""


def machine_of(end: Endpoint, connection: Connection) -> Ikev1Peer | Ikev2Peer:
    """A machine that says at `end` what `connection` asks for, in its version.

    Raises ConfigurationError or CryptoError for what the version has no numbers for.
    """
    return _ikev2(end, connection) if connection.version == IKEV2 else _ikev1(end, connection)


def answers(end: Endpoint) -> bool:
    """Whether this end is the responder, which has the pool."""
    return end.name == "right"


def nat_t_of(connection: Connection) -> tuple[str, ...]:
    """Names of the NAT-T versions that an IKEv1 machine offers and accepts."""
    return connection.nat_t or tuple(version.name for version in v1.DEFAULT_NAT_T)


def proposal(connection: Connection) -> v1_suites.EspSuite | v2_suites.EspSuite:
    """The suite of the first child SA in the words of its version; ConfigurationError, CryptoError."""
    suite = connection.suites[0]
    return _v2_suite(suite) if connection.version == IKEV2 else _v1_suite(suite)


def _ikev2(end: Endpoint, connection: Connection) -> Ikev2Peer:
    inner: dict[str, Any] = {}
    if connection.mode != TRANSPORT:
        inner = {
            "local": (Selector.of(network(end.inner)),),
            "remote": tuple(Selector.of(network(inner)) for inner in (end.remote_inner, *end.further_inner)),
        }
        if connection.bypass:
            inner["local" if answers(end) else "remote"] = (Selector.of(EVERYWHERE),)
    child = v2.Child((_v2_suite(connection.suites[0]),), connection.mode, **inner)
    return Ikev2Peer(
        v2.Config(
            local=UdpEndpoint.of(end.address, IKE_PORT),
            remote=UdpEndpoint.of(end.remote, IKE_PORT),
            local_id=V2Identity.of(_identity(end, connection)),
            secret=connection.secret.encode(),
            child=child if connection.child else None,
            natt_port=connection.nat_t_port,
            remote_natt_port=connection.remote_nat_t_port or connection.nat_t_port,
            nat_detection=connection.encapsulation != OFF,
            force_encapsulation=connection.encapsulation == FORCE,
            mobike=connection.mobike,
            liveness=connection.liveness,
            child_lifetime=connection.child_lifetime,
            retransmission=connection.retransmission or v2.Retransmission(),
            fragmentation=connection.ike_fragmentation,
            initial_contact=connection.initial_contact,
            unique=connection.unique,
            pool=connection.pool if answers(end) else "",
            request_address=bool(connection.pool) and not answers(end),
            **connection.ike,
        ),
        _deviations(end, connection),
        new_esp_spi=_spi_source(end, connection),
    )


_PHASE1 = {
    "ecp256": v1_suites.Phase1Suite(),
    "modp2048": v1_suites.Phase1Suite(group=MODP2048),
}


def _ikev1(end: Endpoint, connection: Connection) -> Ikev1Peer:
    nets: dict[str, Any] = {}
    timing: dict[str, Any] = {}
    if connection.mode != TRANSPORT:
        remote = _around(network(end.remote_inner), *map(network, end.further_inner))
        nets = {"local_net": network(end.inner), "remote_net": remote}
    if (patience := connection.retransmission) is not None:
        timing = {"retransmit_after": patience.first, "retransmissions": patience.tries - 1}
    versions = () if connection.encapsulation == OFF else tuple(map(by_name, nat_t_of(connection)))
    aggressive = connection.version == IKEV1_AGGRESSIVE
    return Ikev1Peer(
        v1.Config(
            local=UdpEndpoint.of(end.address, IKE_PORT),
            remote=UdpEndpoint.of(end.remote, IKE_PORT),
            secret=connection.secret.encode(),
            local_id=_v1_identity(end, connection),
            exchange=v1.AGGRESSIVE_MODE if aggressive else v1.MAIN_MODE,
            # One suite, so that aggressive mode, which cannot negotiate a group, offers the same.
            suites=(_PHASE1[connection.group],),
            esp=(_v1_suite(connection.suites[0]),),
            mode=connection.mode,
            nat_t=versions,
            force_encapsulation=Fake.RANDOM_OCTETS if connection.encapsulation == FORCE else None,
            natt_port=connection.nat_t_port,
            dpd_delay=connection.liveness or None,
            fragmentation=connection.ike_fragmentation,
            **nets,
            **timing,
            **connection.ike,
        ),
        _deviations(end, connection),
        new_esp_spi=_spi_source(end, connection),
    )


def _v1_identity(end: Endpoint, connection: Connection) -> V1Identity:
    if connection.ids == "address":
        return V1Identity.address(ipaddress.ip_address(end.address))
    return V1Identity.fqdn(_identity(end, connection))


def _spi_source(end: Endpoint, connection: Connection) -> Callable[[], int]:
    """Makes inbound SPIs: the first as the connection says, the others at random."""
    spis = connection.spis
    first = [] if spis is None else [spis[0 if answers(end) else 1]]
    return lambda: first.pop() if first else random_esp_spi()


def _identity(end: Endpoint, connection: Connection) -> str:
    return connection.identity or f"{end.name}.test"


def _deviations(end: Endpoint, connection: Connection) -> tuple[Deviation, ...]:
    first = list[Deviation]()
    if connection.start_on_nat_t or connection.remote_nat_t_port:
        first.append(Ports(start_on_natt_port=True))
    if connection.certificate:
        # It proves itself by the secret, and shows a certificate besides.
        shown = issued(f"{end.name}.test", connection.certificate).certificate
        body = bytes([X509_SIGNATURE]) + shown
        first.append(InsertPayload(Match(exchange=Exchange.IKE_AUTH), Payload(P.CERT, body)))
    return (*first, *connection.deviations)


def _around(first: str, *others: str) -> str:
    """The smallest network that holds all of them: IKEv1 knows one."""
    common = ipaddress.ip_network(first)
    while not all(ipaddress.ip_network(other).subnet_of(common) for other in others):  # type: ignore[arg-type]
        common = common.supernet()
    return str(common)


def _v2_suite(suite: EspSuite) -> v2_suites.EspSuite:
    return v2_suites.EspSuite(
        Encryption(suite.encryption, suite.key_bits), suite.integrity or NO_INTEGRITY, suite.esn
    )


def _v1_suite(suite: EspSuite) -> v1_suites.EspSuite:
    return v1_suites.EspSuite(Encryption(suite.encryption, suite.key_bits), suite.integrity or NO_INTEGRITY)
