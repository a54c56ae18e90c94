"""nattd: the encapsulator as a program, with SAs from a configuration file."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType

from .association import Direction, packed
from .config import Config, SocketConfig, load_config
from .control import ControlServer
from .encapsulator import Encapsulator, endpoint_text
from .keepalive import KeepaliveTimer
from .keys import export_keys
from .rtnetlink import MAIN_TABLE, Rtnetlink
from .sockets import UdpEncapSocket, notify
from .spd import Policy
from .tables import ConfigError
from .tunnel import EventLoop, TunDevice
from .wire import Encap

_MARK = 0x4E415454
_FIRST_TABLE = 4500
_PRIORITY = 4500


class StartError(Exception):
    """The system refuses what the configuration asks for; the text says what and why."""


def _refused(what: str, error: OSError) -> StartError:
    return StartError(f"{what}: {error.strerror or error}")


class Daemon:
    """Everything nattd holds: built by `start`, served by `run`, undone by `close`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = EventLoop()
        # Routes that would catch outer packets too go into a table that marked packets do not see.
        self._marked = any(
            packed(sa.destination) in policy.selector.destination
            for policy in config.policies
            for sa in config.associations
        )
        self._encapsulator = Encapsulator(follow=config.follow, mark=_MARK if self._marked else 0)
        self._control: ControlServer | None = None
        self._rules: list[tuple[int, int]] = []
        self._stopping = False
        self._wake, self._waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._loop.register(self._wake, self._woken)

    def start(self, control: str | None) -> None:
        """Open sockets, make the TUN device, install SAs; StartError names what cannot be had."""
        now = time.monotonic()
        for number, sock in enumerate(self._config.sockets, 1):
            self._open_udp(number, sock)
        self._open_raw()
        for sa in self._config.associations:
            self._encapsulator.add_sa(sa, now)
        for policy in self._config.policies:
            self._encapsulator.spd.add(Policy(policy.selector, policy.sa))
        self._make_tunnel()
        keepalive = self._config.keepalive
        if keepalive is not None:
            for peer in keepalive.destinations:
                timer = KeepaliveTimer(keepalive.interval, keepalive.behind_nat, now)
                self._encapsulator.keep_alive(keepalive.source, peer, timer)
        if control is not None:
            try:
                self._control = ControlServer(control, self._loop, self._encapsulator)
            except OSError as error:
                raise _refused(f"control socket {control}", error) from None

    def _open_udp(self, number: int, sock: SocketConfig) -> None:
        try:
            udp = UdpEncapSocket(
                sock.address,
                sock.port,
                sock.encap,
                sock.profile,
                checksum=sock.checksum,
                batching=self._config.tunnel is not None and self._config.tunnel.batching,
                mark=self._encapsulator.mark,
            )
        except OSError as error:
            where = f"[[socket]] {number}: {endpoint_text((sock.address, sock.port))}"
            raise _refused(where, error) from None
        self._encapsulator.add_socket(udp)
        self._loop.register(udp, lambda: self._encapsulator.udp_ready(udp, time.monotonic()))

    def _open_raw(self) -> None:
        """Hear bare ESP at every local address of an SA; without the right to, only if no SA needs it."""
        needed: dict[str, bool] = {}
        for sa in self._config.associations:
            local = sa.source if sa.direction is Direction.OUT else sa.destination
            needed[local] = needed.get(local, False) or sa.encap is Encap.NONE
        for local, must in needed.items():
            try:
                raw = self._encapsulator.open_raw(local)
            except OSError as error:
                if must or error.errno not in (errno.EPERM, errno.EADDRNOTAVAIL):
                    raise _refused(f"raw socket of protocol 50 at {local}", error) from None
                continue
            self._loop.register(raw, partial(self._raw_ready, local))

    def _raw_ready(self, local: str) -> None:
        self._encapsulator.raw_ready(self._encapsulator.raw[local], time.monotonic())

    def _make_tunnel(self) -> None:
        config = self._config.tunnel
        if config is None:
            return
        try:
            tun = self._encapsulator.tun = TunDevice(config.device, batching=config.batching)
            tun.configure(config.mtu, config.addresses)
            table = _FIRST_TABLE + tun.index if self._marked else MAIN_TABLE
            for network in dict.fromkeys(policy.selector.destination for policy in self._config.policies):
                tun.add_route(network, table)
            if self._marked:
                self._add_rules(table)
        except OSError as error:
            raise _refused(f"[tunnel]: device {config.device}", error) from None
        self._loop.register(tun, lambda: self._encapsulator.tun_ready(time.monotonic()))

    def _add_rules(self, table: int) -> None:
        lengths = {len(policy.selector.destination.address) for policy in self._config.policies}
        for length in sorted(lengths):
            family = socket.AF_INET6 if length == 16 else socket.AF_INET
            # The very same rule may be there still, from a predecessor that was killed.
            with Rtnetlink() as netlink, contextlib.suppress(FileExistsError):
                netlink.add_unmarked_rule(family, _MARK, table, _PRIORITY)
            self._rules.append((family, table))

    def stop(self, *_: int | FrameType | None) -> None:
        """Leave `run` soon; fit to be a signal handler."""
        self._stopping = True

    def _woken(self) -> None:
        try:
            self._wake.recv(64)
        except BlockingIOError:
            return

    def run(self) -> None:
        """Serve until stopped."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            while not self._stopping:
                now = time.monotonic()
                due = self._encapsulator.next_time(now)
                self._loop.run_once(None if due is None else max(0.0, due - now))
                self._encapsulator.tick(time.monotonic())
        finally:
            signal.set_wakeup_fd(-1)

    def close(self) -> None:
        """Give everything back."""
        if self._control is not None:
            self._control.close()
        for family, table in self._rules:
            with Rtnetlink() as netlink, contextlib.suppress(FileNotFoundError):
                netlink.delete_unmarked_rule(family, _MARK, table, _PRIORITY)
        self._encapsulator.close()
        self._wake.close()
        self._waker.close()
        self._loop.close()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nattd", description="ESP in UDP in user space: sockets, SAs and a TUN device from a TOML file."
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="sockets, SAs, policies (TOML)")
    parser.add_argument("--control", metavar="PATH", help="UNIX socket that answers JSON lines")
    parser.add_argument("--export-keys", metavar="DIR", help="write Wireshark's esp_sa table there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run nattd; status 0 after SIGTERM or SIGINT, 1 if the system refuses, 2 for a bad configuration."""
    arguments = _arguments(argv)
    try:
        config = load_config(arguments.config)
    except ConfigError as error:
        print(f"nattd: {error}", file=sys.stderr)
        return 2
    daemon = Daemon(config)
    signal.signal(signal.SIGTERM, daemon.stop)
    signal.signal(signal.SIGINT, daemon.stop)
    try:
        daemon.start(arguments.control)
        if arguments.export_keys:
            export_keys(arguments.export_keys, config.associations)
        notify(f"READY=1\nMAINPID={os.getpid()}\n")
        daemon.run()
    except StartError as error:
        print(f"nattd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"nattd: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
