"""Throws mutated messages of a real racoon at the PF_KEY server: no crash, and a refusal changes nothing.

By hand: python -m tests.fuzz.fuzz_pfkey --inputs 1000000
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lab.natt.association import SecurityAssociation
from lab.natt.input import Mapping
from lab.natt.ip import build_ip
from lab.natt.pfkey import kame
from lab.natt.pfkey.extensions import Address, Proposal, Sa, SpiRange
from lab.natt.pfkey.message import Message, decode, encode
from lab.natt.pfkey.numbers import NUMBERS, Abi, Dialect, Ext, MessageType
from lab.natt.pfkey.server import Delivery, PfKeyServer
from lab.natt.pfkey.sockaddr import Sockaddr
from lab.natt.sadb import Sadb
from lab.natt.spd import Network, Spd
from lab.natt.terms import packed
from lab.natt.wire import Encap

DATA = Path(__file__).parents[1] / "natt" / "pfkey" / "data"
LINUX = Abi(Dialect.LINUX)
LOCAL = ("10.1.0.2", "192.0.2.2")
INTERESTING = (0, 1, 2, 3, 4, 8, 16, 24, 127, 128, 254, 255)
MOST_ENTRIES = 6
ABOUT = (
    (MessageType.GET, MessageType.UPDATE, MessageType.DELETE, MessageType.ADD),
    (MessageType.X_SPDGET, MessageType.X_SPDUPDATE, MessageType.X_SPDDELETE, MessageType.X_SPDDELETE2),
)


class Host:
    def is_local(self, address: str) -> bool:
        return address in LOCAL

    def serve(self, sa: SecurityAssociation) -> None: ...

    def hear(self, local: str, encap: Encap) -> None: ...

    def route(self, networks: frozenset[Network], beside: frozenset[Network] = frozenset()) -> None: ...


def recorded() -> Iterator[Message]:
    """What racoon sent, and what else a client may send about the same things."""
    ends = (
        Address(Ext.ADDRESS_SRC, Sockaddr("192.0.2.2", 4500), 32, 255),
        Address(Ext.ADDRESS_DST, Sockaddr("10.1.0.2", 4500), 32, 255),
    )
    for path in sorted(DATA.glob("*.hex")):
        for line in path.read_text().splitlines():
            direction, _, octets = line.rpartition("\t")
            if direction == "to kernel":
                yield decode(bytes.fromhex(octets), LINUX)
    for spi in (0x067B5256, 0x03EEE47D):
        for number in (MessageType.GET, MessageType.DELETE):
            yield Message(number, 3, 1, 2, (Sa(spi), *ends))
    yield Message(MessageType.DELETE, 3, 1, 2, ends)
    yield Message(MessageType.GETSPI, 3, 1, 2, (*ends, SpiRange(0x100, 0x103)))
    yield Message(MessageType.ACQUIRE, 3, 1, 2, (*ends, Proposal(32)))
    yield Message(MessageType.ACQUIRE, 3, 1, 2, errno=110)
    for satype in (0, 1):
        yield Message(MessageType.X_PROMISC, satype)
    for number in (MessageType.X_SPDGET, MessageType.X_SPDDELETE2):
        yield Message(number, extensions=(kame.Policy(2, 2, 1),))
    tunnel = kame.IpsecRequest(50, 2, 3, 0, (Sockaddr("10.1.0.2"), Sockaddr("192.0.2.2")))
    names = (
        Address(Ext.ADDRESS_SRC, Sockaddr("10.10.0.0"), 16, 255),
        Address(Ext.ADDRESS_DST, Sockaddr("10.20.0.0"), 16, 255),
    )
    for number in (MessageType.X_SPDADD, MessageType.X_SPDSETIDX, MessageType.X_SPDDELETE):
        yield Message(number, extensions=(*names, kame.Policy(2, 2, 0, 5, (tunnel,))))
    yield Message(MessageType.X_SPDFLUSH)
    yield Message(MessageType.X_MIGRATE, extensions=ends)


def corpus(abi: Abi) -> list[bytes]:
    """The recorded messages in the words of a dialect."""
    known = NUMBERS[abi.dialect]
    messages = []
    # racoon says FLUSH often; once is enough to empty what the others filled.
    for message in {(one.type, one.satype, one.extensions): one for one in recorded()}.values():
        if message.type <= abi.dialect.last_message and all(one.kind in known for one in message.extensions):
            messages.append(encode(message, abi))
    return messages


def pieces(octets: bytes, abi: Abi) -> list[bytes]:
    """The extensions of a well-formed message."""
    found, at = [], 16
    while at < len(octets):
        words = int.from_bytes(octets[at : at + 2], "little" if abi.order == "<" else "big")
        found.append(octets[at : at + 8 * words])
        at += 8 * words
    return found


def mutated(rng: random.Random, base: bytes, seeds: list[bytes], abi: Abi) -> bytes:
    """A message with up to five faults; often its length is put right again."""
    octets = bytearray(base)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        fault = rng.randrange(8)
        at = rng.randrange(len(octets)) if octets else 0
        if fault == 0 and octets:
            octets[at] ^= 1 << rng.randrange(8)
        elif fault == 1 and octets:
            octets[at] = rng.choice(INTERESTING)
        elif fault == 2:
            del octets[at:]
        elif fault == 3:
            octets += rng.randbytes(rng.choice((1, 8, 16)))
        elif fault == 4:
            extensions = pieces(rng.choice(seeds), abi)
            octets += rng.choice(extensions) if extensions else b""
        elif fault == 5:
            del octets[at : at + rng.choice((1, 8, 16, 24))]
        elif fault == 6:
            octets[at:at] = rng.randbytes(8)
        elif octets:
            octets[1:2] = bytes((rng.randrange(27),))
    if rng.random() < 0.8 and len(octets) >= 16:
        del octets[len(octets) // 8 * 8 :]
        octets[4:6] = (len(octets) // 8).to_bytes(2, "little" if abi.order == "<" else "big")
    return bytes(octets)


class Fuzzer:
    """A server, two sessions, and the dump that must stay the same."""

    def __init__(self, abi: Abi, seed: int) -> None:
        self.abi = abi
        self.rng = random.Random(seed)
        self.sadb, self.spd = Sadb(), Spd()
        choose = random.Random(seed).randrange
        self.server = PfKeyServer(self.sadb, self.spd, Host(), abi, choose=choose)
        self.session, self.watcher = self.server.open(1), self.server.open(2)
        self.seeds = corpus(abi)
        self.now = 0.0
        self.tally: Counter[str] = Counter()
        self.known = self.dump()

    def dump(self) -> tuple[object, ...]:
        """Everything a client can see, and what the data path has of it."""
        told = [
            tuple(
                octets
                for session, octets in self.server.receive(
                    self.watcher, encode(Message(number), self.abi), self.now
                )
                if session is self.watcher
            )
            for number in (MessageType.DUMP, MessageType.X_SPDDUMP)
        ]
        arranged = [(policy.selector, id(policy.sa), policy.blocks) for policy in self.spd]
        return told, arranged, [(id(sa), sa.sequence, sa.window.top, sa.selectors) for sa in self.sadb]

    def check(self, deliveries: list[Delivery]) -> bool:
        """Whether the sender was refused; everything said must be readable."""
        refused = False
        for session, octets in deliveries:
            if session.promiscuous:
                continue
            if len(octets) == 16 and octets[2]:
                # The header of what could not be read comes back as it was, but for version and errno.
                refused = refused or session is self.session
                continue
            message = decode(octets, self.abi)
            refused = refused or (session is self.session and message.errno != 0)
        return refused

    def step(self) -> None:
        """One input, and now and then what time and traffic bring."""
        octets = mutated(self.rng, self.base(), self.seeds, self.abi)
        try:
            deliveries = self.server.receive(self.session, octets, self.now)
            refused = self.check(deliveries)
        except Exception:
            print(f"input: {octets.hex()}", file=sys.stderr)
            raise
        after = self.dump()
        if refused:
            self.tally["refused"] += 1
            assert after == self.known, f"refused, and something changed: {octets.hex()}"
        else:
            self.tally["accepted"] += 1
            self.tally[MessageType(octets[1]).name] += 1
            self.tally["accepted with SAs there"] += len(self.sadb) > 0
        if self.session.promiscuous:
            self.server.close(self.session)
            self.session = self.server.open(1)
            after = self.dump()
        if self.rng.random() < 0.02:
            self.event()
            after = self.dump()
        if len(self.sadb) > MOST_ENTRIES or len(self.spd_entries()) > MOST_ENTRIES:
            self.clear()
            after = self.dump()
        self.known = after

    def base(self) -> bytes:
        """A message of the corpus, or one about an SA or a policy that is there."""
        told = self.known[0]
        assert isinstance(told, list)
        which = self.rng.randrange(4)
        if which > 1 or len(told[which][0]) == 16:
            return self.rng.choice(self.seeds)
        return told[which][0][:1] + bytes((self.rng.choice(ABOUT[which]),)) + told[which][0][2:]

    def spd_entries(self) -> tuple[object, ...]:
        """The policies as dumped last."""
        told = self.known[0]
        assert isinstance(told, list)
        policies: tuple[object, ...] = told[1]
        return policies

    def event(self) -> None:
        """Time passes, a lifetime ends, a peer moves, a packet meets a policy."""
        self.now += self.rng.choice((0.1, 1.0, 31.0, 4000.0))
        said = list(self.server.tick(self.now))
        for expiry in self.sadb.expire(self.now):
            said += self.server.expired(expiry)
        for sa in list(self.sadb)[:1]:
            sa.heard = "198.51.100.9", self.rng.randrange(1, 65536)
            said += self.server.mapped(Mapping(sa, (sa.source, sa.sport), sa.heard), self.now)
        packet = build_ip(packed("10.10.0.1"), packed("10.20.0.1"), 1, bytes(8))
        for policy in list(self.spd)[:1]:
            said += self.server.acquire(policy, packet, self.now)
        self.check(said)
        self.tally["events"] += 1

    def clear(self) -> None:
        """Empty both databases, and see that nothing stays behind."""
        for number in (MessageType.FLUSH, MessageType.X_SPDFLUSH):
            self.server.receive(self.watcher, encode(Message(number), self.abi), self.now)
        self.server.close(self.session)
        self.session = self.server.open(1)
        state = self.server._state
        assert len(self.sadb) == len(list(self.spd)) == len(state.records) == len(state.larvals) == 0
        assert len(state.sessions) == 2
        self.tally["cleared"] += 1


def fuzz(inputs: int, seed: int, abi: Abi) -> Counter[str]:
    """Run `inputs` inputs; how many were accepted, refused. AssertionError names an input that did harm."""
    fuzzer = Fuzzer(abi, seed)
    for _ in range(inputs):
        fuzzer.step()
    fuzzer.clear()
    return fuzzer.tally


def main() -> int:
    """Fuzz all dialects in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    for dialect in Dialect:
        tally = fuzz(arguments.inputs // len(Dialect), arguments.seed, Abi(dialect))
        print(dialect.value, dict(tally), f"{time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
