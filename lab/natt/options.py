"""The command line of nattd; its flags make the same configuration as a file without SAs."""

from __future__ import annotations

import argparse
from typing import Any

from .config import Config, Options
from .configfile import load_config, parse_config
from .pfkey.numbers import Dialect
from .tables import ConfigError
from .wire import Encap, Profile

_IKE_PORT, _FLOATED_PORT = 500, 4500


def read_arguments(argv: list[str] | None) -> tuple[Config, Options]:
    """What the arguments and the file they name ask for; ConfigError for a mistake in either.

    SystemExit from argparse for words it does not know.
    """
    arguments = _parser().parse_args(argv)
    flags = {
        f"--{name.replace('_', '-')}": given
        for name in ("listen", "profile", "device", "address")
        if (given := getattr(arguments, name))
    }
    if arguments.config is None:
        config = _flagged(arguments)
    elif flags:
        raise ConfigError(f"{', '.join(flags)}: not together with --config")
    else:
        config = load_config(arguments.config)
    dialect = Dialect(arguments.pfkey_dialect)
    return config, Options(arguments.control, arguments.pfkey, dialect, arguments.export_keys)


def _flagged(arguments: argparse.Namespace) -> Config:
    if not arguments.listen:
        raise ConfigError("--config or --listen: missing")
    if arguments.address and not arguments.device:
        raise ConfigError("--address: goes with --device")
    profile = arguments.profile or Profile.RFC3948.value
    sockets = [
        {"address": address, "port": port, "encap": encap.word, "profile": profile}
        for address in arguments.listen
        for port, encap in ((_IKE_PORT, Encap.NONE), (_FLOATED_PORT, Encap.ESPINUDP))
    ]
    document: dict[str, Any] = {"socket": sockets}
    if arguments.device:
        document["tunnel"] = {"device": arguments.device, "addresses": arguments.address}
    return parse_config(document)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nattd",
        description="ESP in UDP in user space: sockets, SAs and a TUN device.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="sockets, device, SAs, policies (TOML)")
    plain = parser.add_argument_group("instead of a file, with SAs over PF_KEY")
    plain.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="UDP sockets on ports 500, without encapsulation, and 4500, with ESP in UDP; may be repeated",
    )
    plain.add_argument(
        "--profile",
        choices=[profile.value for profile in Profile],
        help="of these sockets (default: rfc3948)",
    )
    plain.add_argument("--device", metavar="NAME", help="TUN device for inner packets")
    plain.add_argument(
        "--address",
        metavar="ADDRESS/LENGTH",
        action="append",
        default=[],
        help="of the device; may be repeated",
    )
    parser.add_argument("--control", metavar="PATH", help="UNIX socket that answers JSON lines")
    parser.add_argument("--pfkey", metavar="PATH", help="UNIX socket that speaks PF_KEY (SOCK_SEQPACKET)")
    parser.add_argument(
        "--pfkey-dialect",
        choices=[dialect.value for dialect in Dialect],
        default=Dialect.LINUX.value,
        help="whose PF_KEY that is (default: linux)",
    )
    parser.add_argument("--export-keys", metavar="DIR", help="write Wireshark's esp_sa table there")
    return parser
