"""A key manager on nattd, as racoon is one on a kernel: IKE on nattd's sockets, SAs by PF_KEY messages.

nattd owns the UDP sockets and their encapsulation flag. Whatever its input does not take for ESP or a
keepalive comes here, goes to an IKE state machine, and what that wants done goes back: datagrams through the
same sockets, SAs and policies as PF_KEY messages.
"""

from __future__ import annotations

import itertools
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lab.ike.action import Action, DeleteSa, Event, InstallSa, Machine, Send, UpdateSa
from lab.ike.association import ChildSa
from lab.ike.transport import Datagram, Endpoint
from lab.natt.controlclient import ControlClient, ControlRefusedError
from lab.natt.pfkey.client import PfKeyClient
from lab.natt.pfkey.extensions import Address, Sa
from lab.natt.pfkey.kame import NatTPort
from lab.natt.pfkey.message import Message
from lab.natt.pfkey.numbers import Abi, Dialect, Ext, MessageType, PfKeyError, SaType
from lab.natt.setkey.statements import parse
from lab.peers.key_messages import add_message, delete_statement, moving, policy_statements


class KeyManager:
    """Runs `machine` in a thread of its own from start() to close().

    `events` are what the machine told, `children` the pairs of SAs that are installed now, `seen` those that
    ever were. `hear` gets each event as it comes. What went wrong in the thread is in `failure` and ends it.
    """

    def __init__(
        self,
        machine: Machine,
        control: Path,
        pfkey: Path,
        dialect: Dialect,
        hear: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.machine = machine
        self._hear_event = hear
        self.seen: list[ChildSa] = []
        self.events: list[Event] = []
        self.children: list[ChildSa] = []
        self.failure: BaseException | None = None
        self._watching = ControlClient(str(control))
        self._watching.ask("watch")
        self._sending = ControlClient(str(control))
        self._pfkey = PfKeyClient(str(pfkey), Abi(dialect))
        self._pfkey.ask(Message(MessageType.REGISTER, SaType.ESP))
        self._dialect = dialect
        self._reqids = itertools.count(1)
        self._reqid_of: dict[int, int] = {}
        self._policies: dict[int, ChildSa] = {}
        """Reqid → the pair whose selectors and ends its policies have."""
        self._lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="key-manager", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def do(self, step: Callable[[float], list[Action]]) -> None:
        """Let the machine do something now, for example ``do(machine.initiate)``."""
        with self._lock:
            self._act(step(time.monotonic()))
        os.eventfd_write(self._wake, 1)

    def control(self, operation: str, **arguments: Any) -> None:
        """Ask nattd for something on its control socket."""
        with self._lock:
            self._sending.ask(operation, **arguments)

    def pass_by(self, prefixes: Iterable[str]) -> None:
        """Have packets to these destinations go as they would without any SA."""
        with self._lock:
            for prefix in prefixes:
                self._speak(f"spdadd 0.0.0.0/0 {prefix} any -P out none;")

    def flush(self) -> None:
        """Delete every SA and policy that nattd has, whoever brought them."""
        with self._lock:
            self._speak("flush esp; spdflush;")

    def told(self, name: str) -> list[Event]:
        """The events of this name, so far."""
        return [event for event in list(self.events) if event.name == name]

    def close(self) -> None:
        """End the thread and both connections; nattd keeps its SAs. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        for connection in (self._watching, self._sending, self._pfkey):
            connection.close()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                for source in (self._watching, self._pfkey, self._wake):
                    selector.register(source, selectors.EVENT_READ)
                while not self._stopping:
                    self._serve(selector)
        except ConnectionError as error:
            if not self._stopping:
                self.failure = error
        except BaseException as error:
            self.failure = error

    def _serve(self, selector: selectors.BaseSelector) -> None:
        with self._lock:
            due = self.machine.deadline()
        ready = selector.select(None if due is None else max(0.0, due - time.monotonic()))
        with self._lock:
            for key, _ in ready:
                if key.fileobj is self._watching:
                    for line in self._watching.received():
                        self._take(line)
                elif key.fileobj is self._pfkey:
                    self._hear()
                else:
                    os.eventfd_read(self._wake)
            self._act(self.machine.tick(time.monotonic()))

    def _take(self, line: dict[str, Any]) -> None:
        if line["event"] == "keepalive-late":
            late = {"destination": line["destination"], "seconds": line["seconds"]}
            self._tell(Event("keepalive-late", late))
        if line["event"] != "delivered":
            return
        source, local = _endpoint(line["source"]), _endpoint(line["local"])
        datagram = Datagram(source, local, bytes.fromhex(line["payload"]))
        self._act(self.machine.receive(datagram, time.monotonic()))

    def _hear(self) -> None:
        message = self._pfkey.receive(0)
        if message is None or message.type != MessageType.X_NAT_T_NEW_MAPPING:
            return
        new_mapping = getattr(self.machine, "new_mapping", None)
        address, port = message.find(Ext.ADDRESS_DST, Address), message.find(Ext.X_NAT_T_DPORT, NatTPort)
        spi = _spi_of(message)
        if new_mapping is None or address is None or port is None or spi is None:
            return
        known = {child.inbound.spi: child.inbound.source.address for child in self.children}
        # No dialect that tells of mappings gives a live SA another address and keeps its sequence numbers.
        if known.get(spi) == address.sockaddr.address:
            self._act(new_mapping(spi, Endpoint.of(address.sockaddr.address, port.port), time.monotonic()))

    def _act(self, actions: list[Action]) -> None:
        refused = []
        for action in actions:
            match action:
                case Send(datagram):
                    self._send(datagram)
                case InstallSa(child):
                    try:
                        self._install(child)
                    except PfKeyError as error:
                        self._tell(Event("install-refused", {"spi": child.inbound.spi, "reason": str(error)}))
                        refused.append(child)
                case UpdateSa(before, after):
                    self._update(before, after)
                case DeleteSa(child):
                    self._delete(child)
                case Event():
                    self._tell(action)
        # After what else is to be sent: the other end must know of a child before it is deleted.
        for child in refused:
            self._act(self.machine.refuse(child, time.monotonic()))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self._hear_event(event)

    def _send(self, datagram: Datagram) -> None:
        try:
            self._sending.ask(
                "send",
                socket=str(datagram.source),
                destination=str(datagram.destination),
                payload=datagram.payload.hex(),
            )
        except ControlRefusedError as error:
            # As lost as on the way: its retransmission may find a route.
            self._tell(Event("unsent", {"destination": str(datagram.destination), "reason": str(error)}))

    def _install(self, child: ChildSa) -> None:
        # A later pair for the same traffic, of a rekey or a client that came anew, takes its policies over.
        held = self._policies.items()
        older = next((reqid for reqid, other in held if _carries_same(child, other)), None)
        reqid = older or next(self._reqids)
        self._pfkey.ask(add_message(child.inbound, reqid, self._dialect))
        try:
            self._pfkey.ask(add_message(child.outbound, reqid, self._dialect))
        except PfKeyError:
            self._speak(delete_statement(child.inbound))
            raise
        self._reqid_of[child.inbound.spi] = reqid
        for statement in policy_statements("spdupdate" if older else "spdadd", child, reqid):
            self._speak(statement)
        self._policies[reqid] = child
        self.children.append(child)
        self.seen.append(child)

    def _delete(self, child: ChildSa) -> None:
        if child.inbound.spi not in self._reqid_of:
            return
        reqid = self._reqid_of.pop(child.inbound.spi)
        for sa in (child.inbound, child.outbound):
            self._speak(delete_statement(sa))
        if reqid in self._policies and reqid not in self._reqid_of.values():
            for statement in policy_statements("spddelete", self._policies.pop(reqid), reqid):
                self._speak(statement)
        self.children = [other for other in self.children if other.inbound.spi != child.inbound.spi]

    def _update(self, before: ChildSa, after: ChildSa) -> None:
        if self._dialect is Dialect.NETBSD:
            # Ports are part of an SA's name there: it stays where it is, as racoon leaves it.
            return
        reqid = self._reqid_of.get(before.inbound.spi, 0)
        for old, new in ((before.inbound, after.inbound), (before.outbound, after.outbound)):
            if self._dialect is Dialect.FREEBSD:
                extensions = moving(add_message(old, reqid, self._dialect), new)
            else:
                # A whole SA again; only its ports may be others.
                extensions = add_message(new, reqid, self._dialect).extensions
            self._pfkey.ask(Message(MessageType.UPDATE, SaType.ESP, extensions=extensions))
        self.children = [
            after if other.inbound.spi == before.inbound.spi else other for other in self.children
        ]

    def _speak(self, statement: str) -> None:
        for found in parse(statement, "key manager"):
            self._pfkey.ask(found.message)


def _carries_same(one: ChildSa, other: ChildSa) -> bool:
    return (one.local, one.remote, one.mode) == (other.local, other.remote, other.mode)


def _spi_of(message: Message) -> int | None:
    sa = message.find(Ext.SA, Sa)
    return None if sa is None else sa.spi


def _endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint.of(address.strip("[]"), int(port))
