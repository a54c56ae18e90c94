"""The command line of `nattd run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse

_PROFILES = ("linux", "rfc3948", "netbsd", "freebsd10", "freebsd11")
_OPTIONS = ("device", "address", "profile", "control", "pfkey", "record")


class Arguments(NamedTuple):
    """What was asked for; paths are None where nothing was."""

    program: str
    arguments: list[str]
    address: list[str]
    device: str = "natt0"
    profile: str = _PROFILES[0]
    control: str | None = None
    pfkey: str | None = None
    record: str | None = None


def read_arguments(words: list[str]) -> Arguments:
    """Read the words after `run`; SystemExit from argparse for --help and for what cannot be understood."""
    return _plain(words) or Arguments(**vars(_parser().parse_args(words)))


def _plain(words: list[str]) -> Arguments | None:
    """The same for options with their values and a program; None for what argparse had better look at.

    Loading argparse takes as long as a key manager needs to start.
    """
    given: dict[str, str] = {}
    addresses: list[str] = []
    left = iter(words)
    for word in left:
        program = next(left, "-") if word == "--" else word
        if not program.startswith("-"):
            return Arguments(program, list(left), addresses, **given)
        name, sign, value = word.removeprefix("--").partition("=")
        if not sign:
            value = next(left, "-")
        if name not in _OPTIONS or value.startswith("-") or (name == "profile" and value not in _PROFILES):
            return None
        if name == "address":
            addresses.append(value)
        else:
            given[name] = value
    return None


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="nattd run",
        description="Run an unmodified key manager on this stack: its PF_KEY sockets and its UDP sockets "
        "with UDP_ENCAP are served here. The stack lives as long as the program and those it starts, and "
        "ends with the program's exit status.",
        allow_abbrev=False,
    )
    parser.add_argument("--device", metavar="NAME", default="natt0", help="TUN device (default: natt0)")
    parser.add_argument(
        "--address",
        metavar="ADDRESS/LENGTH",
        action="append",
        default=[],
        help="of the device; may be repeated",
    )
    parser.add_argument(
        "--profile",
        choices=_PROFILES,
        default=_PROFILES[0],
        help="whose receiver the program's UDP sockets have (default: linux)",
    )
    parser.add_argument("--control", metavar="PATH", help="UNIX socket that answers JSON lines")
    parser.add_argument("--pfkey", metavar="PATH", help="UNIX socket that speaks PF_KEY, for nattctl")
    parser.add_argument("--record", metavar="FILE", help="write every PF_KEY message and answered call there")
    parser.add_argument("program", metavar="PROGRAM", help="stays in the foreground; found by PATH")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    return parser
