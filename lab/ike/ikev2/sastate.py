"""What an IKE SA knows and owns: SPIs, keys, endpoints, NATs, Child SAs; its messages are in ikesa."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..action import DeleteSa, InstallSa, UpdateSa
from ..association import ESP_IN_UDP, NO_ENCAPSULATION, ChildSa
from ..transport import Endpoint
from .context import Context
from .keymat import IkeKeys
from .nat import Nat
from .payloads import Identity
from .suites import EspSuite


class State(enum.Enum):
    """How far an IKE SA has come."""

    INIT = "IKE_SA_INIT"
    AUTH = "IKE_AUTH"
    ESTABLISHED = "established"
    REPLACED = "replaced by a rekey"
    DELETED = "deleted"


@dataclass
class Made:
    """A Child SA with what a rekey needs to know of it."""

    child: ChildSa
    suite: EspSuite
    created: float
    rekeying: bool = False
    retry_at: float = 0.0
    """Not to be rekeyed before this time."""


class SaState:
    """The state of one IKE SA of either role. `initiator` says which side began it: its SPI comes first."""

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
        self.context = context
        self.config = context.config
        self.initiator = initiator
        self.spi_i = spi_i
        self.spi_r = spi_r
        self.local = local
        self.remote = remote
        self.state = State.INIT
        self.created = self.last_heard = now
        self.retry_at = 0.0
        self.keys: IkeKeys | None = None
        self.nat = Nat()
        self.mobike = False
        self.fragmentation = False
        self.peer_id: Identity | None = None
        self.peer_addresses: tuple[str, ...] = ()
        """Further addresses the peer has told (MOBIKE)."""
        self.children: dict[int, Made] = {}
        """By inbound SPI."""
        self.nonce_i = self.nonce_r = b""
        self.init_request = self.init_response = b""
        self.init_source: Endpoint | None = None
        """Where a responder's SA was asked for, so that a retransmission finds it."""
        self.lease = ""
        """The inner address that this end has given to the peer (RFC 7296 section 2.19)."""
        self.own_lease = ""
        """The one that the peer has given to this end."""
        self.mapping: bytes | None = None
        """How the peer last said it sees us (MOBIKE: NAT_DETECTION_DESTINATION_IP of a liveness answer)."""

    @property
    def own_spi(self) -> bytes:
        """The SPI this end has chosen."""
        return self.spi_i if self.initiator else self.spi_r

    @property
    def encapsulation(self) -> str:
        """How ESP of its Child SAs travels."""
        found = self.nat.found or self.config.force_encapsulation
        return ESP_IN_UDP if found else NO_ENCAPSULATION

    @property
    def follows(self) -> bool:
        """Whether authenticated packets from elsewhere move the remote endpoint."""
        if self.config.answers_first_port:
            return False
        if self.config.dynamic_update is not None:
            return self.config.dynamic_update
        return self.nat.remote_behind and not self.nat.local_behind and not self.mobike

    def answering(self, source: Endpoint) -> Endpoint:
        """Where the answer to a request from `source` goes."""
        if self.config.answers_first_port and self.init_source is not None:
            return source.with_port(self.init_source.port)
        return source

    @property
    def alive(self) -> bool:
        """Whether it can still exchange messages."""
        return self.state is not State.DELETED

    def established(self, now: float) -> None:
        """Both ends are authenticated."""
        self.state = State.ESTABLISHED
        self.created = now
        self.context.event(
            "established", spi_i=self.spi_i, spi_r=self.spi_r, local=self.local, remote=self.remote,
            nat_local=self.nat.local_behind, nat_remote=self.nat.remote_behind, mobike=self.mobike,
        )  # fmt: skip

    def set_keys(self, keys: IkeKeys) -> None:
        """Use these keys from now on, and note them for Wireshark."""
        self.keys = keys
        self.context.key_lines.append(keys.wireshark_line(self.spi_i, self.spi_r))

    def move(self, local: Endpoint, remote: Endpoint) -> None:
        """Use other endpoints for this SA and all its children."""
        if (local, remote) == (self.local, self.remote):
            return
        self.context.event("endpoint-changed", local=local, remote=remote, before=self.remote)
        self.local, self.remote = local, remote
        self.move_children()

    def move_children(self) -> None:
        """Bring the Child SAs to the endpoints and the encapsulation of the IKE SA."""
        for made in self.children.values():
            after = made.child.moved(self.local, self.remote, self.encapsulation)
            if after != made.child:
                self.context.actions.append(UpdateSa(made.child, after))
                made.child = after

    def install(self, made: Made, replaces: int | None = None) -> None:
        """A Child SA has been negotiated."""
        self.children[made.child.inbound.spi] = made
        self.context.actions.append(InstallSa(made.child, replaces))

    def remove(self, spi: int) -> Made | None:
        """Forget a Child SA by its inbound SPI; None if there is none."""
        made = self.children.pop(spi, None)
        if made is not None:
            self.context.actions.append(DeleteSa(made.child))
        return made

    def by_outbound(self, spi: int) -> Made | None:
        """The Child SA whose outbound SPI, the peer's own, is this one."""
        return next((made for made in self.children.values() if made.child.outbound.spi == spi), None)

    def close(self) -> None:
        """End without a word, children included."""
        if not self.alive:
            return
        self.state = State.DELETED
        for spi in list(self.children):
            self.remove(spi)
        self.context.forget(self)
        self.context.event("deleted", spi_i=self.spi_i, spi_r=self.spi_r)

    def fail(self, reason: str) -> None:
        """End because something went wrong."""
        self.context.event("failed", reason=reason, state=self.state.value)
        self.close()
