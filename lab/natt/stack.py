"""What nattd consists of: sockets, TUN device, routes, SAs, and the servers that answer its users."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from .config import Config, Options, SocketConfig
from .control import ControlServer
from .encapsulator import Encapsulator
from .events import endpoint_text
from .host import LocalHost
from .keepalive import KeepaliveTimer
from .pfkey.transport import PfKeySocket
from .routes import TunnelRoutes
from .sockets import UdpEncapSocket
from .spd import Policy
from .terms import packed
from .tunnel import EventLoop, TunDevice

_MARK = 0x4E415454


class StartError(Exception):
    """The system refuses what the configuration asks for; the text says what and why."""


def _refused(what: str, error: OSError) -> StartError:
    return StartError(f"{what}: {error.strerror or error}")


class Stack:
    """Everything nattd holds: built by `start`, served by `run`, undone by `close`."""

    def __init__(self, config: Config, options: Options) -> None:
        self._config = config
        self._loop = EventLoop()
        # Routes that would catch outer packets too go into a table that marked packets do not see; a key
        # manager may ask for any.
        self._serves_keys = options.pfkey is not None or options.adopts
        marked = self._serves_keys or any(
            packed(sa.destination) in policy.selector.destination
            for policy in config.policies
            for sa in config.associations
        )
        self._options = options
        self._encapsulator = Encapsulator(follow=config.follow, mark=_MARK if marked else 0)
        self._host = LocalHost(self._encapsulator, self._loop)
        self._control: ControlServer | None = None
        self._pfkey: PfKeySocket | None = None
        self.overheard: Callable[[int, bool, bytes], None] = lambda pid, own, octets: None
        """Set before the start it gets every PF_KEY message, see PfKeySocket."""
        self._stopping = False
        self._wake, self._waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._loop.register(self._wake, self._woken)

    @property
    def loop(self) -> EventLoop:
        """What serves descriptors."""
        return self._loop

    @property
    def encapsulator(self) -> Encapsulator:
        """What carries packets."""
        return self._encapsulator

    @property
    def keys(self) -> PfKeySocket | None:
        """The PF_KEY server, once started and if there is to be one."""
        return self._pfkey

    def start(self) -> None:
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
        control, pfkey = self._options.control, self._options.pfkey
        if control is not None:
            try:
                self._control = ControlServer(control, self._loop, self._encapsulator)
            except OSError as error:
                raise _refused(f"control socket {control}", error) from None
        if self._serves_keys:
            dialect = self._options.dialect
            try:
                self._pfkey = PfKeySocket(
                    pfkey, self._loop, self._encapsulator, self._host, dialect, self.overheard
                )
            except OSError as error:
                raise _refused(f"PF_KEY socket {pfkey}", error) from None

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
        for sa in self._config.associations:
            try:
                self._host.serve(sa)
            except OSError as error:
                raise StartError(str(error.strerror)) from None

    def _make_tunnel(self) -> None:
        config = self._config.tunnel
        if config is None:
            return
        try:
            tun = self._encapsulator.tun = TunDevice(config.device, batching=config.batching)
            tun.configure(config.mtu, config.addresses)
            self._host.routes = TunnelRoutes(tun.index, self._encapsulator.mark)
            self._host.routes.fix(policy.selector.destination for policy in self._config.policies)
        except OSError as error:
            raise _refused(f"[tunnel]: device {config.device}", error) from None
        if config.bind_flows:
            self._encapsulator.bind_flows()
        self._loop.register(tun, lambda: self._encapsulator.tun_ready(time.monotonic()))

    def stop(self, *_: int | FrameType | None) -> None:
        """Leave `run` soon; fit to be a signal handler."""
        self._stopping = True

    def refuse_reload(self, *_: int | FrameType | None) -> None:
        """Say that SIGHUP reloads nothing; fit to be a signal handler."""
        # A SIGHUP may be the end of the terminal that this would go to.
        with suppress(OSError):
            print("nattd: SIGHUP: nothing is read again; SAs change over PF_KEY", file=sys.stderr)

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
                due = self._next_time(now)
                self._loop.run_once(None if due is None else max(0.0, due - now))
                now = time.monotonic()
                self._encapsulator.tick(now)
                if self._pfkey is not None:
                    self._pfkey.tick(now)
        finally:
            signal.set_wakeup_fd(-1)

    def _next_time(self, now: float) -> float | None:
        times = [self._encapsulator.next_time(now)]
        if self._pfkey is not None:
            times.append(self._pfkey.next_time())
        return min((due for due in times if due is not None), default=None)

    def close(self) -> None:
        """Give everything back."""
        if self._pfkey is not None:
            self._pfkey.close()
        if self._control is not None:
            self._control.close()
        self._host.close()
        self._encapsulator.close()
        self._wake.close()
        self._waker.close()
        self._loop.close()
