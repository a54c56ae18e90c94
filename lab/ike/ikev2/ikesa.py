"""Messages of an IKE SA: ids, a window of one request, retransmission, protection (RFC 7296 2.1 to 2.3).

What exchanges mean is not here: a Task makes a request and reads its answer, an Answerer reads a request and
makes its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..action import Send
from ..chain import ZERO_SPI, Header, Message, Payload
from ..deviation import IN, OUT
from ..errors import AuthenticationError, CryptoError, MalformedError
from ..transport import Datagram, Endpoint, wrap
from .context import Context, FailedError, RefusedError
from .numbers import FLAG_INITIATOR, FLAG_RESPONSE, KNOWN_PAYLOADS, VERSION, Exchange, N, P, exchange_name
from .payloads import Notify, parse_notifies
from .protection import Reassembly, open_sealed, seal, seal_fragments
from .sastate import SaState, State

UDP_HEADER = 8
MARKER = 4


class Task(Protocol):
    """One request of ours."""

    exchange: int

    def request(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """The payloads to send, or None if there is nothing to ask any more."""
        ...

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """Take the answer. RefusedError is told as an event, FailedError ends the SA."""
        ...


Answerer = Callable[["IkeSa", Message, Datagram, float], list[Payload]]


@dataclass
class Pending:
    """The request on its way."""

    task: Task
    message_id: int
    octets: list[bytes]
    sent: int
    again: float


class IkeSa(SaState):
    """One IKE SA that exchanges messages."""

    def __init__(
        self,
        context: Context,
        initiator: bool,
        spi_i: bytes,
        spi_r: bytes,
        local: Endpoint,
        remote: Endpoint,
        now: float,
    ) -> None:
        super().__init__(context, initiator, spi_i, spi_r, local, remote, now)
        self.answerers: Mapping[int, Answerer] = {}
        self.tasks: deque[Task] = deque()
        self.pending: Pending | None = None
        self._next_request = 0
        self._expected = 0
        self._answer: list[bytes] = []
        self._requests = Reassembly()
        self._responses = Reassembly()

    def close(self) -> None:
        """End without a word, children included."""
        self.pending = None
        self.tasks.clear()
        super().close()

    def skip_ids(self, requests: int, expected: int) -> None:
        """Set the next message ids of both directions."""
        self._next_request, self._expected = requests, expected

    # Requests of ours.

    def ask(self, task: Task, now: float) -> None:
        """Run a task as soon as the window is free."""
        self.tasks.append(task)
        self._next_task(now)

    def ask_again(self, task: Task) -> None:
        """From within `response`: send the same task's request anew, before all others."""
        self.tasks.appendleft(task)

    def _next_task(self, now: float) -> None:
        while self.pending is None and self.tasks and self.alive:
            task = self.tasks.popleft()
            payloads = task.request(self, now)
            if payloads is None:
                continue
            message_id = self._next_request
            octets = self._pack(task.exchange, 0, message_id, payloads)
            if task.exchange == Exchange.IKE_SA_INIT:
                self.init_request = octets[0]
            else:
                self._next_request += 1
            wait = self.config.retransmission.wait(1)
            self.pending = Pending(task, message_id, octets, 1, now + wait)
            self._send(octets, self.local, self.remote, now)

    def _pack(self, exchange: int, flag: int, message_id: int, payloads: list[Payload]) -> list[bytes]:
        flags = flag | (FLAG_INITIATOR if self.initiator else 0)
        message = Message(
            self.spi_i, self.spi_r, VERSION, exchange, flags, message_id, tuple(payloads)
        )  # fmt: skip
        message = self.context.pipeline.message(OUT, message)
        if exchange == Exchange.IKE_SA_INIT or self.keys is None:
            return [message.pack()]
        if not (self.fragmentation and self.config.fragmentation):
            return [seal(message, self.keys, self.initiator)]
        ip_header = 40 if ":" in self.remote.address else 20
        limit = self.config.fragment_size - ip_header - UDP_HEADER - MARKER
        return seal_fragments(message, self.keys, self.initiator, limit)

    def _send(self, octets: list[bytes], local: Endpoint, remote: Endpoint, now: float) -> None:
        datagrams = [wrap(part, local, remote, self.config.natt_port) for part in octets]
        for datagram in self.context.pipeline.datagrams(OUT, datagrams, now):
            self.context.actions.append(Send(datagram))

    def resend(self, now: float) -> None:
        """Send the pending request once more, from and to the endpoints of now."""
        if self.pending is not None:
            self.pending.sent += 1
            self.pending.again = now + self.config.retransmission.wait(self.pending.sent)
            self._send(self.pending.octets, self.local, self.remote, now)

    # What comes in.

    def receive(self, octets: bytes, header: Header, datagram: Datagram, now: float) -> None:
        """Take one IKE message, marker off, that names this SA."""
        try:
            if header.flags & FLAG_RESPONSE:
                self._receive_response(octets, header, datagram, now)
            else:
                self._receive_request(octets, header, datagram, now)
        except (MalformedError, AuthenticationError, CryptoError) as error:
            self.context.event("ignored", reason=str(error), exchange=exchange_name(header.exchange))
        except FailedError as error:
            self.fail(str(error))
        self._next_task(now)

    def _open(self, octets: bytes, header: Header, parts: Reassembly) -> Message | None:
        if header.exchange == Exchange.IKE_SA_INIT:
            return Message.parse(octets)
        if self.keys is None:
            raise MalformedError("no keys yet for an encrypted message")
        if bool(header.flags & FLAG_INITIATOR) == self.initiator:
            raise MalformedError("the initiator flag is that of this end")
        return parts.add(open_sealed(octets, self.keys, not self.initiator))

    def _receive_response(self, octets: bytes, header: Header, datagram: Datagram, now: float) -> None:
        pending = self.pending
        if pending is None or header.message_id != pending.message_id:
            raise MalformedError(f"no request {header.message_id} waits for an answer")
        if header.exchange != pending.task.exchange:
            raise MalformedError(f"answer to {exchange_name(pending.task.exchange)} of another exchange")
        message = self._open(octets, header, self._responses)
        if message is None:
            return
        message = self.context.pipeline.message(IN, message)
        if header.exchange == Exchange.IKE_SA_INIT:
            self.init_response = octets
        else:
            self._heard(datagram, now)
        self.pending = None
        try:
            if (critical := _unknown_critical(message)) is not None:
                raise RefusedError(N.UNSUPPORTED_CRITICAL_PAYLOAD, f"type {critical} in an answer")
            if _is_fatal(message):
                raise FailedError(f"the peer answered {exchange_name(header.exchange)} with INVALID_SYNTAX")
            pending.task.response(self, message, datagram, now)
        except RefusedError as error:
            if self.state in (State.INIT, State.AUTH):
                raise FailedError(f"answer to {exchange_name(header.exchange)}: {error}") from None
            self.context.event("refused", exchange=exchange_name(header.exchange), reason=str(error))
        except (MalformedError, CryptoError) as error:
            raise FailedError(f"answer to {exchange_name(header.exchange)}: {error}") from None

    def _receive_request(self, octets: bytes, header: Header, datagram: Datagram, now: float) -> None:
        if header.message_id == self._expected - 1 and self._answer:
            self._answer_again(octets, header, datagram, now)
            return
        if header.message_id != self._expected:
            raise MalformedError(f"request {header.message_id} while {self._expected} is expected")
        message = self._open(octets, header, self._requests)
        if message is None:
            return
        message = self.context.pipeline.message(IN, message)
        self._heard(datagram, now)
        payloads, fatal = self._answered(message, datagram, now)
        self._expected += 1
        if fatal is not None and header.exchange == Exchange.IKE_SA_INIT:
            # No state, no SPI (RFC 7296 section 2.6).
            self.spi_r = ZERO_SPI
        self._answer = self._pack(header.exchange, FLAG_RESPONSE, header.message_id, payloads)
        if header.exchange == Exchange.IKE_SA_INIT:
            self.init_request, self.init_response = octets, self._answer[0]
        self._send(self._answer, datagram.destination, self.answering(datagram.source), now)
        if fatal is None:
            return
        if fatal.notify == N.INVALID_KE_PAYLOAD:
            # The initiator comes again with the other group; nothing has gone wrong.
            self.state = State.DELETED
            self.context.forget(self)
        else:
            self.fail(str(fatal))

    def _answered(
        self, message: Message, datagram: Datagram, now: float
    ) -> tuple[list[Payload], RefusedError | None]:
        try:
            if (critical := _unknown_critical(message)) is not None:
                raise RefusedError(
                    N.UNSUPPORTED_CRITICAL_PAYLOAD, f"payload type {critical}", bytes((critical,))
                )
            answerer = self.answerers.get(message.exchange)
            if answerer is None:
                raise RefusedError(N.INVALID_SYNTAX, f"no {exchange_name(message.exchange)} now", fatal=True)
            return answerer(self, message, datagram, now), None
        except RefusedError as error:
            refused = error
        except (MalformedError, CryptoError) as error:
            refused = RefusedError(N.INVALID_SYNTAX, str(error), fatal=True)
        self.context.event("rejected", exchange=exchange_name(message.exchange), reason=str(refused))
        fatal = refused.fatal or self.state in (State.INIT, State.AUTH)
        return [Notify(refused.notify, refused.data).pack()], refused if fatal else None

    def _answer_again(self, octets: bytes, header: Header, datagram: Datagram, now: float) -> None:
        if header.exchange != Exchange.IKE_SA_INIT and self.keys is not None:
            # Every fragment comes again, but one answer is enough (RFC 7383 section 2.6.1).
            if open_sealed(octets, self.keys, not self.initiator).number != 1:
                return
        elif octets != self.init_request:
            raise MalformedError("another IKE_SA_INIT request under the same SPI")
        self.context.event("retransmission", exchange=exchange_name(header.exchange))
        self._send(self._answer, datagram.destination, self.answering(datagram.source), now)

    def _heard(self, datagram: Datagram, now: float) -> None:
        self.last_heard = now
        if self.state is State.ESTABLISHED and datagram.source != self.remote and self.follows:
            self.move(self.local, datagram.source)

    # Time.

    def tick(self, now: float) -> None:
        """Retransmit or give up."""
        pending = self.pending
        if pending is None or now < pending.again:
            return
        if pending.sent >= self.config.retransmission.tries:
            name = exchange_name(pending.task.exchange)
            self.fail(f"no answer to {name} from {self.remote} after {pending.sent} transmissions")
            return
        self.resend(now)

    def deadline(self) -> float | None:
        """When to tick next for a retransmission."""
        return None if self.pending is None else self.pending.again


def _unknown_critical(message: Message) -> int | None:
    return next((p.type for p in message.payloads if p.critical and p.type not in KNOWN_PAYLOADS), None)


def _is_fatal(message: Message) -> bool:
    """Whether an answer says INVALID_SYNTAX to a whole authenticated request (RFC 7296 section 2.21.3)."""
    if message.exchange == Exchange.IKE_SA_INIT or message.first(P.AUTH) is not None:
        return False
    return any(notify.type == N.INVALID_SYNTAX for notify in parse_notifies(message.payloads))
