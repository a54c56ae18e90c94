"""`nattlab ladder`: what is in a capture file that somebody brings, and what looks wrong with it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from lab.capture import keytables
from lab.capture.account import Account
from lab.capture.packets import Trace
from lab.capture.pcapng import CaptureFileError, read_capture, section_comments
from lab.capture.seen import DEFAULT_PORTS, Ports
from lab.commands.subcommands import Subcommands, add_limit_option
from lab.errors import MisuseError

_PIPED_WIDTH = 120


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "ladder",
        help="a capture file as a ladder: ESP, IKE, keepalives, versions, NATs, what looks wrong",
        description="Classifies every datagram of a pcap or pcapng file, names IKE and NAT-T versions, says "
        "who is behind a NAT and when the ports floated, and what looks wrong.",
        epilog="exit status: 0 shown, 1 with --check if something looks wrong, 2 misuse or no capture file",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="pcap or pcapng, gzipped or not")
    add_limit_option(parser)
    parser.add_argument("--nat-t-port", type=_port, action="append", default=[], metavar="PORT",
                        help="besides 4500, a port of ESP and floated IKE")  # fmt: skip
    parser.add_argument("--ike-port", type=_port, action="append", default=[], metavar="PORT",
                        help="besides 500, a port of IKE without a marker")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, every packet in it")
    parser.add_argument("--check", action="store_true", help="exit status 1 if something looks wrong")
    parser.add_argument("--keys", type=Path, metavar="DIR",
                        help="write the keys that the file carries into DIR, for Wireshark")  # fmt: skip
    parser.set_defaults(call=_ladder)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no UDP port")
    return int(text)


def _ladder(options: argparse.Namespace) -> int:
    ports = Ports(
        ike=(*DEFAULT_PORTS.ike, *options.ike_port), nat_t=(*DEFAULT_PORTS.nat_t, *options.nat_t_port)
    )
    account = account_of(options.file, ports)
    if options.json:
        print(json.dumps({"file": str(options.file), **account.as_dict()}, indent=1))
    else:
        print(account.text(terminal_width(), options.limit))
    if options.keys is not None:
        _take_keys(options.keys, options.file)
    return 1 if options.check and account.wrong else 0


def account_of(file: Path, ports: Ports = DEFAULT_PORTS) -> Account:
    """Read a capture file; one cut short as far as it goes, with a word on it. Raises MisuseError."""
    try:
        frames = read_capture(file)
    except CaptureFileError as error:
        if not error.frames:
            raise MisuseError(str(error)) from error
        print(f"nattlab: {error}; what was read before is shown", file=sys.stderr)
        frames = list(error.frames)
    return Account.of(Trace(frames, ports=ports).packets)


def terminal_width() -> int:
    """Columns to draw in."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH


def _take_keys(folder: Path, file: Path) -> None:
    try:
        carried = keytables.extract(section_comments(file))
    except CaptureFileError as error:
        raise MisuseError(str(error)) from error
    if not carried:
        raise MisuseError(f"{file} carries no keys: those of nattlab's evidence do")
    try:
        keytables.write(folder, carried)
    except OSError as error:
        raise MisuseError(f"--keys {folder}: {error.strerror}") from error
    print(f"keys in {folder}: WIRESHARK_CONFIG_DIR={folder} wireshark {file}", file=sys.stderr)
