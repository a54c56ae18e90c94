"""The configuration file of nattd (TOML)."""

from __future__ import annotations

import tomllib
from typing import Any

from .association import SecurityAssociation
from .checksum import NatOaPolicy
from .config import Config, KeepaliveConfig, PolicyConfig, SocketConfig, parse_endpoint
from .device import SMALLEST_MTU, read_tunnel
from .errors import FieldError
from .sockets import UdpChecksum
from .spd import Selector
from .tables import ConfigError, Table
from .terms import Direction, DontFragment, Endpoint, Lifetime, Mode, OuterHeader
from .transforms import NO_INTEGRITY
from .wire import Encap, Profile


def load_config(path: str) -> Config:
    """Read and check a configuration file; ConfigError names the file, the table and the key."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return parse_config(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(document: dict[str, Any]) -> Config:
    """Check a parsed file; ConfigError names the table and the key."""
    config = Config()
    root = Table("", document)
    for table in root.tables("socket"):
        config.sockets.append(_socket(table, config.sockets))
    for table in root.tables("sa"):
        config.associations.append(_association(table, config))
    inbound: dict[int, list[Selector]] = {}
    for table in root.tables("policy"):
        _policy(table, config, inbound)
    _restrict_inbound(config, inbound)
    if tunnel := root.table("tunnel"):
        config.tunnel = read_tunnel(tunnel, config.associations)
    elif config.policies:
        raise ConfigError("[tunnel]: missing, [[policy]] needs a device")
    if keepalive := root.table("keepalive"):
        config.keepalive = _keepalive(keepalive, config)
    if rebinding := root.table("rebinding"):
        config.follow = rebinding.word("policy", ("report", "follow")) == "follow"
        rebinding.finish()
    for key in root.left():
        raise ConfigError(f"unknown table {key!r}")
    return config


def _socket(table: Table, others: list[SocketConfig]) -> SocketConfig:
    sock = SocketConfig(
        table.address("address"),
        table.number("port", 1, 65535),
        table.choice("encap", Encap, Encap.NONE),
        table.choice("profile", Profile, Profile.RFC3948),
        table.choice("udp-checksum", UdpChecksum, UdpChecksum.AUTO),
    )
    if sock.encap not in sock.profile.encaps:
        raise table.error("encap", f"profile {sock.profile.value} has no {sock.encap.word}")
    if any((sock.address, sock.port) == (other.address, other.port) for other in others):
        raise table.error("address", f"{sock.address} port {sock.port} is there already")
    table.finish()
    return sock


def _direction(table: Table, source: str, destination: str, config: Config) -> Direction:
    if table.has("direction"):
        return table.choice("direction", Direction)
    local = {sock.address for sock in config.sockets}
    if (source in local) == (destination in local):
        which = "both ends are" if source in local else "neither end is"
        raise table.error(
            "direction", f'missing, and {which} the address of a [[socket]]: write "in" or "out"'
        )
    return Direction.IN if destination in local else Direction.OUT


def _lifetime(table: Table, kind: str) -> Lifetime:
    largest = 2**63
    lifetime = Lifetime(
        table.number(f"{kind}-packets", 0, largest, 0),
        table.number(f"{kind}-bytes", 0, largest, 0),
        table.get(f"{kind}-seconds", float, 0.0),
        table.get(f"{kind}-use-seconds", float, 0.0),
    )
    if not (0 <= lifetime.addtime < 1e12 and 0 <= lifetime.usetime < 1e12):
        raise table.error(f"{kind}-seconds", "not a time in seconds")
    return lifetime


def _association(table: Table, config: Config) -> SecurityAssociation:
    source, destination = table.address("source"), table.address("destination")
    direction = _direction(table, source, destination, config)
    encap = table.choice("encap", Encap)
    default_port = {Encap.NONE: 0, Encap.ESPINUDP: 4500, Encap.ESPINUDP_NON_IKE: 500}[encap]
    dscp = table.number("dscp", 0, 63) if table.has("dscp") else None
    outer = OuterHeader(
        dscp,
        table.get("ecn", bool, True),
        table.choice("df", DontFragment, DontFragment.COPY),
        table.number("ttl", 1, 255, 64),
    )
    try:
        sa = SecurityAssociation(
            spi=table.get("spi", int),
            source=source,
            destination=destination,
            direction=direction,
            encryption=table.get("encryption", str),
            encryption_key=table.hex("encryption-key"),
            integrity=table.get("integrity", str, NO_INTEGRITY),
            integrity_key=table.hex("integrity-key"),
            mode=table.choice("mode", Mode, Mode.TUNNEL),
            encap=encap,
            sport=table.get("sport", int, default_port),
            dport=table.get("dport", int, default_port),
            oa_source=table.address("oa-source") if table.has("oa-source") else None,
            oa_destination=table.address("oa-destination") if table.has("oa-destination") else None,
            nat_oa_policy=table.choice("nat-oa-policy", NatOaPolicy, NatOaPolicy.INCREMENTAL),
            replay_window=table.number("replay-window", 0, 1 << 20, 64),
            esn=table.get("esn", bool, False),
            soft=_lifetime(table, "soft"),
            hard=_lifetime(table, "hard"),
            outer=outer,
            tfc=table.number("tfc", 0, 65535, 0),
            fragment=table.number("fragment", SMALLEST_MTU, 65535, 65535),
        )
    except FieldError as error:
        raise table.error(error.field, str(error.args[0])) from None
    table.finish()
    for other in config.associations:
        if (other.direction, other.destination, other.spi) == (sa.direction, sa.destination, sa.spi):
            raise table.error("spi", f"{sa.spi:#x} to {sa.destination} is there already")
    if sa.direction is Direction.OUT and sa.encap is not Encap.NONE and not _sends(config, sa):
        raise table.error("sport", f"no [[socket]] {sa.source} port {sa.sport} to send from")
    return sa


def _sends(config: Config, sa: SecurityAssociation) -> bool:
    return any(
        sock.port == sa.sport and sock.address in (sa.source, "0.0.0.0", "::") for sock in config.sockets
    )


def _policy(table: Table, config: Config, inbound: dict[int, list[Selector]]) -> None:
    source, destination = table.network("source"), table.network("destination")
    selector = Selector(
        source,
        destination,
        table.number("protocol", 0, 255) if table.has("protocol") else None,
        table.number("sport", 1, 65535) if table.has("sport") else None,
        table.number("dport", 1, 65535) if table.has("dport") else None,
    )
    if len(source.address) != len(destination.address):
        raise table.error("destination", f"{destination} is not of the family of {source}")
    direction = table.choice("direction", Direction, Direction.OUT)
    spi = table.get("spi", int)
    found = [sa for sa in config.associations if (sa.spi, sa.direction) == (spi, direction)]
    if len(found) != 1:
        count = "no" if not found else f"{len(found)}"
        raise table.error("spi", f"{count} {direction.value}bound [[sa]] {spi:#x}")
    table.finish()
    if direction is Direction.IN:
        inbound.setdefault(spi, []).append(selector)
    else:
        config.policies.append(PolicyConfig(selector, found[0]))


def _restrict_inbound(config: Config, inbound: dict[int, list[Selector]]) -> None:
    """Without inbound policies of its own, an inbound tunnel SA carries the mirror of what goes out."""
    mirrors = [policy.selector.mirrored() for policy in config.policies]
    for sa in config.associations:
        if sa.direction is Direction.IN:
            default = mirrors if sa.mode is Mode.TUNNEL else []
            sa.selectors = tuple(inbound.get(sa.spi, default))


def _keepalive(table: Table, config: Config) -> KeepaliveConfig:
    interval = table.get("interval", float, 20.0)
    if not 0 < interval < 1e9:
        raise table.error("interval", f"{interval:g} is not a time in seconds")
    behind_nat = table.get("behind-nat", bool, False)

    def endpoint(key: str, text: str) -> Endpoint:
        try:
            return parse_endpoint(text)
        except ValueError as error:
            raise table.error(key, str(error)) from None

    destinations = [endpoint("destination", text) for text in table.strings("destination")]
    sockets = [(sock.address, sock.port) for sock in config.sockets]
    if table.has("source"):
        source = endpoint("source", table.get("source", str))
        if source not in sockets:
            raise table.error("source", f"no [[socket]] {source[0]} port {source[1]}")
    else:
        floated = [local for local in sockets if local[1] == 4500] or sockets
        if not floated:
            raise table.error("source", "no [[socket]] to send from")
        source = floated[0]
    table.finish()
    return KeepaliveConfig(interval, behind_nat, source, destinations)
