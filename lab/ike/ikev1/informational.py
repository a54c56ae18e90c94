"""Informational exchanges: notifies, DELETE, dead peer detection (RFC 2408 section 4.8, RFC 3706)."""

from __future__ import annotations

from ..action import Action, Event
from ..chain import Payload
from ..natd import Random
from ..transport import Datagram
from .channel import Opened
from .numbers import PROTO_ESP, PROTO_ISAKMP, NotifyType, PayloadType, name_of
from .payloads import Delete, Notify
from .phase1 import Phase1
from .phase2 import new_message_id, send_informational
from .store import Store


class Informational:
    """The informational exchanges of one peer."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._asked: dict[bytes, tuple[int, int]] = {}
        self._sequence: dict[bytes, int] = {}

    def send(
        self, sa: Phase1, body: Notify | Delete, now: float, awaits_reply: bool = False, keep: bool = False
    ) -> tuple[int, list[Action]]:
        """Send a notify or delete; returns the id of its exchange, which ends here unless told to `keep`."""
        message_id = new_message_id(sa, self._random(4))
        actions = send_informational(sa, body, message_id, now, awaits_reply)
        if not awaits_reply and not keep:
            sa.channel.forget(message_id)
        return message_id, actions

    def ask(self, sa: Phase1, now: float) -> list[Action]:
        """Send R-U-THERE with the next sequence number, again until it is acknowledged."""
        cookie = sa.channel.cookie_i
        self.settle(sa)
        sequence = self._sequence.get(cookie, int.from_bytes(self._random(4), "big") >> 1) + 1
        self._sequence[cookie] = sequence
        body = _dpd(sa, NotifyType.R_U_THERE, sequence)
        message_id, actions = self.send(sa, body, now, awaits_reply=True)
        self._asked[cookie] = (message_id, sequence)
        return actions

    def asking(self, sa: Phase1) -> bool:
        """Whether an acknowledgement is outstanding."""
        return sa.channel.cookie_i in self._asked

    def settle(self, sa: Phase1) -> None:
        """Wait for no acknowledgement any more."""
        asked = self._asked.pop(sa.channel.cookie_i, None)
        if asked is not None:
            sa.channel.forget(asked[0])

    def unanswered(self, sa: Phase1, message_id: int) -> bool:
        """Whether `message_id` is that of the outstanding R-U-THERE."""
        return self._asked.get(sa.channel.cookie_i, (None, 0))[0] == message_id

    def receive(self, sa: Phase1, opened: Opened, octets: bytes, now: float) -> list[Action]:
        """Handle a message whose HASH has been checked. MalformedError."""
        message = opened.message
        sa.channel.take(message.message_id, octets)
        actions: list[Action] = []
        for payload in message.payloads:
            if payload.type == PayloadType.NOTIFY:
                actions += self._take_notify(sa, Notify.parse(payload.body), message.message_id, now)
            elif payload.type == PayloadType.DELETE:
                actions += self._take_delete(sa, Delete.parse(payload.body))
        return actions

    def unprotected(self, payloads: list[Payload], datagram: Datagram) -> list[Action]:
        """Notifies nobody has signed: told, never acted on."""
        events: list[Action] = []
        for payload in payloads:
            if payload.type == PayloadType.NOTIFY:
                told = name_of(NotifyType, Notify.parse(payload.body).type)
                events.append(Event("unprotected-notify", {"type": told, "from": str(datagram.source)}))
        return events

    def _take_notify(self, sa: Phase1, notify: Notify, message_id: int, now: float) -> list[Action]:
        cookies = sa.channel.cookie_i + sa.channel.cookie_r
        if notify.type == NotifyType.R_U_THERE and notify.spi == cookies:
            sequence = int.from_bytes(notify.data, "big")
            event = Event("dpd-asked", {"sequence": sequence})
            ack = Notify(NotifyType.R_U_THERE_ACK, PROTO_ISAKMP, cookies, notify.data)
            ack_id, actions = self.send(sa, ack, now, keep=True)
            # The question is retransmitted as it was, so its exchange has to know the answer.
            sa.channel.exchange(message_id).sent = sa.channel.exchange(ack_id).sent
            sa.channel.forget(ack_id)
            return [event, *actions]
        if notify.type == NotifyType.R_U_THERE_ACK and notify.spi == cookies:
            sequence = int.from_bytes(notify.data, "big")
            if self._asked.get(sa.channel.cookie_i, (0, None))[1] != sequence:
                return [Event("ignored", {"why": f"R-U-THERE-ACK with sequence {sequence}"})]
            self.settle(sa)
            return [Event("dpd-answered", {"sequence": sequence})]
        return [Event("notified", {"type": name_of(NotifyType, notify.type), "protocol": notify.protocol})]

    def _take_delete(self, sa: Phase1, delete: Delete) -> list[Action]:
        if delete.protocol == PROTO_ESP:
            actions: list[Action] = []
            for spi in delete.spis:
                child = self._store.child_with(int.from_bytes(spi, "big"))
                if child is None:
                    actions.append(
                        Event("ignored", {"why": f"DELETE of ESP SPI {spi.hex()}, to which nothing goes"})
                    )
                else:
                    actions += self._store.remove_children([child])
            return actions
        cookies = sa.channel.cookie_i + sa.channel.cookie_r
        if delete.protocol == PROTO_ISAKMP and cookies in delete.spis:
            self.settle(sa)
            return self._store.remove_phase1(sa, "deleted by the other end")
        return [Event("ignored", {"why": f"DELETE of SPIs that are not ours, protocol {delete.protocol}"})]


def _dpd(sa: Phase1, kind: NotifyType, sequence: int) -> Notify:
    cookies = sa.channel.cookie_i + sa.channel.cookie_r
    return Notify(kind, PROTO_ISAKMP, cookies, (sequence & 0xFFFFFFFF).to_bytes(4, "big"))
