"""`nattctl`: load setkey files into a running nattd, dump what it holds, watch it."""

from __future__ import annotations

import argparse
import errno
import json
import os
import selectors
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from .controlclient import ControlClient, ControlRefusedError
from .pfkey.client import PfKeyClient
from .pfkey.message import Message
from .pfkey.numbers import Abi, Dialect, MessageType, PfKeyError, SaType
from .setkey.printing import statement
from .setkey.statements import SetkeyError, Statement, parse

DEFAULT_PFKEY = "/run/nattd.pfkey"
DEFAULT_CONTROL = "/run/nattd.control"
_ENTRIES = (MessageType.GET, MessageType.X_SPDGET)
_DUMPS = (MessageType.DUMP, MessageType.X_SPDDUMP)


def main(arguments: list[str] | None = None, out: TextIO | None = None) -> int:
    """Run nattctl; exit status 0, 1 when nattd refused or is not there, 2 for a mistake in the input."""
    options = _parser().parse_args(arguments)
    out = out or sys.stdout
    try:
        for line in _COMMANDS[options.command](options):
            print(line, file=out, flush=True)
    except SetkeyError as error:
        print(f"nattctl: {error}", file=sys.stderr)
        return 2
    except PfKeyError as error:
        print(f"nattctl: {error.strerror}", file=sys.stderr)
        return 1
    except (OSError, ControlRefusedError) as error:
        print(f"nattctl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nattctl", description="Control a running nattd.")
    parser.add_argument("--pfkey", default=DEFAULT_PFKEY, metavar="PATH", help="default: %(default)s")
    parser.add_argument("--control", default=DEFAULT_CONTROL, metavar="PATH", help="default: %(default)s")
    parser.add_argument("--dialect", default="linux", choices=[dialect.value for dialect in Dialect])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    load = commands.add_parser("load", help="send the statements of setkey files")
    load.add_argument("files", nargs="+", metavar="FILE", help="- is standard input")
    commands.add_parser("dump", help="print SAs and policies as statements that load again")
    commands.add_parser("flush", help="take out every SA and policy")
    commands.add_parser("stats", help="counters that are not zero")
    commands.add_parser("sas", help="SAs with their use, a JSON object a line")
    commands.add_parser("watch", help="events and PF_KEY messages as they come, a JSON object a line")
    return parser


def _client(options: argparse.Namespace) -> PfKeyClient:
    try:
        return PfKeyClient(options.pfkey, Abi(Dialect(options.dialect)))
    except OSError as error:
        raise OSError(f"no PF_KEY socket at {options.pfkey}: {error.strerror}") from error


def _control(options: argparse.Namespace) -> ControlClient:
    try:
        return ControlClient(options.control)
    except OSError as error:
        raise OSError(f"no control socket at {options.control}: {error.strerror}") from error


def _load(options: argparse.Namespace) -> Iterator[str]:
    loaded = []
    for name in options.files:
        text = sys.stdin.read() if name == "-" else _read(name)
        # Every file is read before the first statement is sent: a typing mistake changes nothing.
        loaded += [(name, found) for found in parse(text, name)]
    client = _client(options)
    for name, found in loaded:
        try:
            yield from _perform(client, found)
        except PfKeyError as error:
            word = MessageType(found.message.type).name.removeprefix("X_").lower()
            code = errno.errorcode.get(error.errno or 0, str(error.errno))
            raise PfKeyError(
                error.errno, f"{name}:{found.line}: {word}: {error.strerror} ({code})"
            ) from error


def _read(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise SetkeyError(f"{name}: not UTF-8 text: {error.reason} at octet {error.start}") from error


def _perform(client: PfKeyClient, found: Statement) -> Iterator[str]:
    message = found.message
    if message.type in _DUMPS:
        yield from map(statement, client.dump(message))
        return
    answer = client.ask(message)
    if message.type in _ENTRIES:
        yield statement(answer)


def _dump(options: argparse.Namespace) -> Iterator[str]:
    client = _client(options)
    for kind in _DUMPS:
        yield from map(statement, client.dump(Message(kind)))


def _flush(options: argparse.Namespace) -> Iterator[str]:
    client = _client(options)
    for kind in (MessageType.FLUSH, MessageType.X_SPDFLUSH):
        client.ask(Message(kind))
    yield from ()


def _stats(options: argparse.Namespace) -> Iterator[str]:
    counters: dict[str, int] = _control(options).ask("stats")["counters"]
    width = max((len(name) for name, value in counters.items() if value), default=0)
    for name, value in counters.items():
        if value:
            yield f"{name:{width}}  {value}"


def _sas(options: argparse.Namespace) -> Iterator[str]:
    yield from map(json.dumps, _control(options).ask("sas")["sas"])


def _watch(options: argparse.Namespace) -> Iterator[str]:
    with selectors.DefaultSelector() as selector:
        control = _control(options)
        control.ask("watch")
        selector.register(control, selectors.EVENT_READ)
        client = None
        if os.path.exists(options.pfkey):
            client = _client(options)
            client.ask(Message(MessageType.REGISTER, SaType.ESP))
            selector.register(client, selectors.EVENT_READ)
        # From here on nothing is missed, which whoever reads this may wait for.
        yield json.dumps({"event": "watching"})
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    yield from map(json.dumps, control.received())
                elif client is not None and (message := client.receive(0)) is not None:
                    yield json.dumps(_told(message))


def _told(message: Message) -> dict[str, Any]:
    """A PF_KEY message as an event."""
    extensions = {extension.kind.name.lower(): str(extension) for extension in message.extensions}
    return {"event": "pfkey", "type": MessageType(message.type).name, "errno": message.errno, **extensions}


_COMMANDS = {
    "load": _load,
    "dump": _dump,
    "flush": _flush,
    "stats": _stats,
    "sas": _sas,
    "watch": _watch,
}


if __name__ == "__main__":
    sys.exit(main())
