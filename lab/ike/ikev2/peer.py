"""A whole IKEv2 peer: its IKE SAs, those that come in, COOKIE, timers, and what a scenario tells it to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..action import Action, Send
from ..association import ChildSa
from ..chain import ZERO_SPI, Header, Message
from ..deviation import IN, OUT, Deviation, Float
from ..errors import ConfigurationError, MalformedError
from ..pipeline import Pipeline
from ..transport import Datagram, Endpoint, Kind, unwrap
from .auth import AuthTask, answer_auth
from .config import Config
from .context import Context, random_esp_spi
from .create_child import ChildTask, RekeyIkeTask, answer_create_child
from .doorman import Doorman
from .ikesa import Answerer, IkeSa
from .informational import DeleteTask, LivenessTask, answer_informational, moved
from .init import InitTask, answer_init
from .leases import Pool
from .numbers import FLAG_INITIATOR, FLAG_RESPONSE, VERSION, Exchange, N
from .payloads import Notify
from .sastate import Made, State

_ANSWERERS: dict[int, Answerer] = {
    int(Exchange.IKE_SA_INIT): answer_init,
    int(Exchange.IKE_AUTH): answer_auth,
    int(Exchange.CREATE_CHILD_SA): answer_create_child,
    int(Exchange.INFORMATIONAL): answer_informational,
}


class _Init(InitTask):
    """IKE_SA_INIT that goes on to IKE_AUTH."""

    def response(self, sa: IkeSa, message: Message, datagram: Datagram, now: float) -> None:
        """See Task."""
        super().response(sa, message, datagram, now)
        if sa.state is State.AUTH:
            sa.ask(AuthTask(), now)

    def redirected(self, sa: IkeSa, gateway: str, now: float) -> None:
        """Leave this IKE SA, of which the peer knows nothing, and begin another one on the IKE port."""
        sa.state = State.DELETED
        sa.context.forget(sa)
        sa.context.event("redirected", gateway=gateway, by=sa.remote)
        came_from = (*self.came_from, sa.remote.address)
        _begin(sa.context, sa.local, sa.remote._replace(address=gateway), came_from, now)


def _begin(
    context: Context, local: Endpoint, remote: Endpoint, came_from: tuple[str, ...], now: float
) -> None:
    sa = IkeSa(context, True, context.new_spi(), ZERO_SPI, local, remote, now)
    sa.answerers = {kind: a for kind, a in _ANSWERERS.items() if kind >= Exchange.CREATE_CHILD_SA}
    context.sas[sa.own_spi] = sa
    sa.ask(_Init(context.config.suites[0].group, came_from), now)


class Ikev2Peer:
    """One end, both roles. Every method returns what is to be done; nothing happens by itself.

    `new_esp_spi` allocates inbound ESP SPIs, for a driver that asks the kernel. ConfigurationError for
    deviations or settings that cannot work.
    """

    def __init__(
        self,
        config: Config,
        deviations: Sequence[Deviation] = (),
        new_esp_spi: Callable[[], int] = random_esp_spi,
    ) -> None:
        self.config = config
        pool = Pool(config.pool) if config.pool else None
        self._context = Context(config, Pipeline(tuple(deviations), config.natt_port), new_esp_spi, pool)
        self._doorman = Doorman(self._context)

    # What there is.

    @property
    def sas(self) -> tuple[IkeSa, ...]:
        """All IKE SAs, oldest first."""
        return tuple(self._context.sas.values())

    @property
    def established(self) -> IkeSa | None:
        """The newest established IKE SA."""
        return next((sa for sa in reversed(self.sas) if sa.state is State.ESTABLISHED), None)

    @property
    def key_lines(self) -> tuple[str, ...]:
        """Lines for Wireshark's ``ikev2_decryption_table``, of SAs that are gone too."""
        return tuple(self._context.key_lines)

    # The convention of lab.ike.action.

    def initiate(self, now: float) -> list[Action]:
        """Begin a new IKE SA."""
        config = self.config
        ports = self._context.pipeline.ports
        local, remote = config.local, config.remote
        if ports.start_on_natt_port or ports.floating is Float.EARLY:
            local, remote = local.with_port(config.natt_port), remote.with_port(config.remote_natt_port)
        _begin(self._context, local, remote, (), now)
        return self._context.drain()

    def receive(self, datagram: Datagram, now: float) -> list[Action]:
        """Take one datagram as it came from the socket; what is not IKE is told as an event."""
        for passed in self._context.pipeline.datagrams(IN, [datagram], now):
            self._take(passed, now)
        return self._context.drain()

    def tick(self, now: float) -> list[Action]:
        """Retransmit, expire, rekey, ask for life, let delayed datagrams go."""
        for direction, datagram in self._context.pipeline.due(now):
            if direction == OUT:
                self._context.actions.append(Send(datagram))
            else:
                self._take(datagram, now)
        for sa in self.sas:
            sa.tick(now)
            self._run_timers(sa, now)
        return self._context.drain()

    def deadline(self) -> float | None:
        """When to call `tick` next; None if nothing is due ever."""
        times = [self._context.pipeline.deadline()]
        for sa in self.sas:
            times += [sa.deadline(), *(time for time, _ in self._timers(sa))]
        return min((time for time in times if time is not None), default=None)

    # What a scenario may ask for.

    def rekey_child(self, now: float, spi: int | None = None) -> list[Action]:
        """Rekey the Child SA of this inbound SPI, or the newest. ConfigurationError if there is none."""
        sa, made = self._child(spi)
        sa.ask(ChildTask(made), now)
        return self._context.drain()

    def new_child(self, now: float) -> list[Action]:
        """Ask for one more Child SA."""
        self._sa().ask(ChildTask(), now)
        return self._context.drain()

    def delete_child(self, now: float, spi: int | None = None) -> list[Action]:
        """Delete the Child SA of this inbound SPI, or the newest."""
        sa, made = self._child(spi)
        sa.ask(DeleteTask((made.child.inbound.spi,)), now)
        return self._context.drain()

    def refuse(self, child: ChildSa, now: float) -> list[Action]:
        """See lab.ike.action.Machine."""
        return self.delete_child(now, child.inbound.spi)

    def rekey_ike(self, now: float) -> list[Action]:
        """Rekey the IKE SA."""
        self._sa().ask(RekeyIkeTask(), now)
        return self._context.drain()

    def delete_ike(self, now: float) -> list[Action]:
        """Delete the IKE SA and so its Child SAs."""
        self._sa().ask(DeleteTask(), now)
        return self._context.drain()

    def check_alive(self, now: float) -> list[Action]:
        """Send a liveness check (the DPD of IKEv2)."""
        self._sa().ask(LivenessTask(), now)
        return self._context.drain()

    def move(self, local: Endpoint, now: float, remote: Endpoint | None = None) -> list[Action]:
        """MOBIKE: go on from another address, and tell the peer. ConfigurationError without MOBIKE."""
        sa = self._sa()
        if not (sa.mobike and sa.initiator):
            raise ConfigurationError("move: MOBIKE was not negotiated by this end as the initiator")
        moved(sa, local, remote or sa.remote, now)
        return self._context.drain()

    def new_mapping(self, spi: int, remote: Endpoint, now: float) -> list[Action]:
        """Authenticated ESP on inbound SPI `spi` came from `remote`: follow it if the rules allow."""
        for sa in self.sas:
            if spi in sa.children and sa.follows:
                sa.move(sa.local, remote)
        return self._context.drain()

    def _sa(self) -> IkeSa:
        sa = self.established
        if sa is None:
            raise ConfigurationError("no IKE SA is established")
        return sa

    def _child(self, spi: int | None) -> tuple[IkeSa, Made]:
        for sa in reversed(self.sas):
            wanted = list(sa.children)[-1:] if spi is None else [spi]
            for number in wanted:
                if number in sa.children:
                    return sa, sa.children[number]
        raise ConfigurationError("no Child SA" + ("" if spi is None else f" of inbound SPI {spi:#010x}"))

    # Where a message belongs.

    def _take(self, datagram: Datagram, now: float) -> None:
        received = unwrap(datagram, self.config.natt_port)
        if received.kind is not Kind.IKE:
            self._context.event(received.kind.value, source=datagram.source, octets=len(received.octets))
            return
        try:
            header = Header.parse(received.octets)
            sa = self._find(header, received.octets, datagram, now)
        except MalformedError as error:
            self._context.event("ignored", reason=str(error), source=datagram.source)
            return
        if sa is None:
            return
        sa.receive(received.octets, header, datagram, now)
        if sa.state is State.INIT and not sa.initiator:
            # Its first message was no IKE_SA_INIT request after all.
            self._context.forget(sa)
        for closing in self._context.closing:
            closing.close()
        self._context.closing.clear()

    def _find(self, header: Header, octets: bytes, datagram: Datagram, now: float) -> IkeSa | None:
        if header.version >> 4 > 2:
            self._doorman.answer(header, Notify(N.INVALID_MAJOR_VERSION, bytes((VERSION,))), datagram, now)
            raise MalformedError(f"IKE version {header.version >> 4}")
        if header.version >> 4 != 2:
            raise MalformedError(f"IKE version {header.version >> 4}")
        by_initiator = bool(header.flags & FLAG_INITIATOR)
        if header.exchange == Exchange.IKE_SA_INIT and not header.flags & FLAG_RESPONSE:
            return self._incoming(header, octets, datagram, now) if by_initiator else None
        own = header.responder_spi if by_initiator else header.initiator_spi
        sa = self._context.sas.get(own)
        if sa is None:
            raise MalformedError(f"no IKE SA of SPI {own.hex()}")
        other = header.initiator_spi if by_initiator else header.responder_spi
        known = sa.spi_i if by_initiator else sa.spi_r
        if other != known and known != ZERO_SPI:
            raise MalformedError(f"SPI {other.hex()} instead of {known.hex()}")
        return sa

    def _incoming(self, header: Header, octets: bytes, datagram: Datagram, now: float) -> IkeSa | None:
        """The SA an IKE_SA_INIT request belongs to: an old one, a new one; None after COOKIE or REDIRECT."""
        if header.initiator_spi == ZERO_SPI or header.responder_spi != ZERO_SPI or header.message_id:
            raise MalformedError("IKE_SA_INIT request with SPIs or a message id that cannot be")
        for sa in self.sas:
            if not sa.initiator and (sa.spi_i, sa.init_source) == (header.initiator_spi, datagram.source):
                return sa
        if self._doorman.turns_away(header, octets, datagram, now):
            return None
        local, remote = datagram.destination, datagram.source
        spi_r = self._context.new_spi()
        sa = IkeSa(self._context, False, header.initiator_spi, spi_r, local, remote, now)
        sa.init_source = datagram.source
        sa.answerers = _ANSWERERS
        self._context.sas[spi_r] = sa
        return sa

    # Timers.

    def _timers(self, sa: IkeSa) -> list[tuple[float, Callable[[float], None]]]:
        """What is due for an SA and when; nothing while a request is on its way."""
        config = self.config
        if sa.state is State.AUTH and not sa.initiator:
            return [(sa.created + config.half_open, lambda now: sa.fail("the initiator did not go on"))]
        if sa.pending is not None:
            return []
        if sa.state is State.REPLACED:
            return [(sa.last_heard + config.half_open, lambda now: sa.close())]
        if sa.state is not State.ESTABLISHED:
            return []
        due: list[tuple[float, Callable[[float], None]]] = []
        if config.ike_lifetime:
            time = max(sa.created + config.ike_lifetime, sa.retry_at)
            due.append((time, partial(sa.ask, RekeyIkeTask())))
        if config.child_lifetime:
            due += [
                (max(made.created + config.child_lifetime, made.retry_at), partial(sa.ask, ChildTask(made)))
                for made in sa.children.values()
                if not made.rekeying
            ]
        if config.liveness:
            due.append((sa.last_heard + config.liveness, partial(sa.ask, LivenessTask())))
        return due

    def _run_timers(self, sa: IkeSa, now: float) -> None:
        for time, run in self._timers(sa):
            if time <= now and sa.pending is None:
                run(now)
