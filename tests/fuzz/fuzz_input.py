"""Throws real, mutated and replayed ESP, IKE and garbage at the input path: no crash, nothing uncounted.

What is rejected before its ICV was verified changes nothing; what comes out was sealed by a peer, once.
By hand: python -m tests.fuzz.fuzz_input --inputs 1000000
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import fields
from operator import attrgetter

from lab.natt.association import SecurityAssociation
from lab.natt.counters import Counters
from lab.natt.input import Arrival, Decapsulated, Dropped, InputPath, Keepalive, Result, ToSocket
from lab.natt.sadb import Sadb
from lab.natt.terms import Endpoint, State
from lab.natt.wire import Encap, Kind, Profile

from .peers import BEHIND, ELSEWHERE, HERE, PEER, Peer, framed, peers_of, receiver_state
from .receivers import TABLES, receive

MODES = tuple(itertools.product((mode for mode in TABLES if mode[1] is not Encap.NONE), (4, 6)))
INTERESTING = (0, 1, 2, 4, 0x7F, 0x80, 0xFF)
MOVING = {"packets", "octets", "used", "heard", "esp", "window"}
fixed_state = attrgetter(*(one.name for one in fields(SecurityAssociation) if one.name not in MOVING))
Outcome = tuple[object, ...]


def mutated(rng: random.Random, base: bytes, other: bytes) -> bytes:
    """A datagram with one to three faults."""
    octets = bytearray(base)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(octets)) if octets else 0
        match rng.randrange(8):
            case 0 if octets:
                octets[at] ^= 1 << rng.randrange(8)
            case 1 if octets:
                octets[at] = rng.choice(INTERESTING)
            case 2:
                del octets[at:]
            case 3:
                octets += rng.randbytes(rng.choice((1, 4, 16)))
            case 4:
                octets[at:] = other[at:]
            case 5:
                del octets[at : at + rng.choice((1, 4, 8, 16))]
            case 6:
                octets[at:at] = bytes(rng.choice((4, 8)))
            case _ if len(octets) >= 8:
                octets[4:8] = rng.choice((0, 1, 2**31, 2**32 - 1)).to_bytes(4, "big")
    return bytes(octets)


def garbage(rng: random.Random) -> bytes:
    """What else arrives at such ports: keepalives, IKE, fragments of anything."""
    return rng.choice(
        (
            b"\xff",
            rng.randbytes(rng.randrange(40)),
            bytes(rng.randrange(20)),
            bytes(4) + rng.randbytes(28),
            rng.randbytes(28),
            b"\xff" * rng.randrange(1, 10),
        )
    )


class World:
    """An input path with SAs of every shape, and what must have become of them."""

    def __init__(self, rng: random.Random, profile: Profile, encap: Encap, family: int) -> None:
        self.rng, self.profile, self.encap, self.family = rng, profile, encap, family
        self.peers = peers_of(rng, encap, family)
        self.by_spi = {peer.sa.spi: peer for peer in self.peers}
        self.sadb, self.counters = Sadb(), Counters()
        for peer in self.peers:
            self.sadb.add(peer.sa, 0.0)
        self.path = InputPath(self.sadb, self.counters)
        self.now = 1.0
        self.fixed = [fixed_state(peer.sa) for peer in self.peers]
        self.mappings = 0

    def datagram(self) -> bytes:
        """One input."""
        rng = self.rng
        if rng.random() < 0.1:
            return garbage(rng)
        peer = rng.choice(self.peers)
        if not peer.recent or rng.random() < 0.7:
            packet = peer.seal(rng, self.family)
        else:
            packet = rng.choice(peer.recent)
        payload = framed(packet, self.encap)
        if rng.random() < 0.4:
            other = rng.choice(self.peers)
            payload = mutated(rng, payload, framed(rng.choice(other.recent or [b""]), self.encap))
        return payload

    def step(self) -> Counter[str]:
        """A run of datagrams of one flow; what became of them."""
        rng = self.rng
        self.now += rng.random()
        count = rng.choice((1, 1, 2, 5))
        payloads = [self.datagram() for _ in range(count)]
        bare = rng.random() < 0.05
        encap = Encap.NONE if bare else self.flag()
        address = rng.choice((PEER,) * 9 + (ELSEWHERE,))[self.family]
        source = address, 0 if bare else rng.choice((61001,) * 9 + (1024,))
        here = rng.choice((HERE,) * 19 + (BEHIND,))[self.family]
        destination = here, 0 if bare else rng.choice((4500,) * 19 + (500,))
        tos = rng.choice((0, 0, 2, 3, 0xB8))
        arrival = Arrival(source, destination, encap, self.profile, tos)
        before = self.counters.snapshot()
        try:
            if bare:
                results: list[Result] = [*self.path.esp_run(payloads, arrival, self.now)]
            elif count == 1:
                results = [self.path.datagram(payloads[0], arrival, self.now)]
            else:
                results = self.path.run(payloads, arrival, self.now)
            wanted = [
                self.wanted_esp(payload, source, destination, encap, tos)
                if bare
                else self.wanted(payload, source, destination, encap, tos)
                for payload in payloads
            ]
            self.check(results, wanted, before)
        except Exception:
            print(
                f"{self.profile.value} {encap.word} {source} {destination} tos {tos}:",
                *(payload.hex() for payload in payloads),
                file=sys.stderr,
            )
            raise
        return Counter(str(outcome[0]) for outcome in wanted)

    def flag(self) -> Encap:
        """The flag of the socket: mostly the one of the SAs."""
        return self.rng.choice((self.encap,) * 19 + tuple(sorted(self.profile.encaps)))

    def wanted(
        self, payload: bytes, source: Endpoint, destination: Endpoint, encap: Encap, tos: int
    ) -> Outcome:
        kind, skip = receive(payload, encap, self.profile)
        if kind is Kind.ESP:
            return self.wanted_esp(payload[skip:], source, destination, encap, tos)
        return {
            Kind.USER: ("NattInToSocket", payload, source),
            Kind.KEEPALIVE: ("NattInKeepalives", source),
            Kind.GARBAGE: ("NattInGarbage", None),
        }[kind]

    def wanted_esp(
        self, packet: bytes, source: Endpoint, destination: Endpoint, encap: Encap, tos: int
    ) -> Outcome:
        if len(packet) < 8:
            return "XfrmInHdrError", None
        peer = self.found(packet, source, destination)
        if peer is None:
            return "XfrmInNoStates", None
        sa = peer.sa
        if sa.state not in (State.MATURE, State.DYING):
            return "XfrmInStateInvalid", None
        if sa.encap is not encap and self.profile is not Profile.RFC3948:
            return "XfrmInStateMismatch", None
        low = int.from_bytes(packet[4:8], "big")
        if not peer.fresh(low):
            return "XfrmInStateSeqError", None
        if sa.hard.packets and peer.packets >= sa.hard.packets:
            return "XfrmInStateExpired", None
        number, content = peer.sealed.get(packet, (-1, None))
        if content is None or number != peer.whole(low):
            return "XfrmInStateProtoError", None
        newest = peer.accept(number, len(content.payload), self.now)
        moved = newest and peer.heard != source and Encap.NONE not in (encap, sa.encap)
        mapping = (sa, peer.heard, source) if moved else None
        if moved:
            peer.heard = source
            self.mappings += 1
        counter, inner = peer.inner(content, source[0], tos)
        if counter:
            return counter, mapping
        return "NattInDecapsulated", inner, number, sa, mapping

    def found(self, packet: bytes, source: Endpoint, destination: Endpoint) -> Peer | None:
        peer = self.by_spi.get(int.from_bytes(packet[:4], "big"))
        if peer is None or destination[0] != HERE[self.family]:
            return None
        if self.profile not in (Profile.NETBSD, Profile.FREEBSD11) or peer.sa.encap is Encap.NONE:
            return peer
        return peer if (source[1], destination[1]) == (61001, 4500) else None

    def check(self, results: list[Result], wanted: list[Outcome], before: dict[str, int]) -> None:
        """Results, counters and the state of every SA are as they must be."""
        seen = list(itertools.chain.from_iterable(map(outcomes, results)))
        differ = [pair for pair in zip(seen, wanted, strict=True) if pair[0] != pair[1]]
        assert not differ, f"is, ought to be: {differ}"
        counted = Counter(self.counters.snapshot())
        counted.subtract(before)
        moved = {name: count for name, count in counted.items() if count}
        mappings = moved.pop("NattMappings", 0)
        names = Counter(outcome[0] for outcome in wanted)
        assert moved == names, f"counted {moved} for {names}"
        assert mappings == sum(outcome[-1] is not None for outcome in wanted if not_passed_by(outcome))
        for peer, fixed in zip(self.peers, self.fixed, strict=True):
            state = receiver_state(peer.sa)
            assert state == peer.state, f"SA {peer.sa.spi:#x} is {state}, not {peer.state}"
            assert fixed_state(peer.sa) == fixed, f"SA {peer.sa.spi:#x} changed: {fixed_state(peer.sa)}"
        assert len(self.sadb) == len(self.peers)


def not_passed_by(outcome: Outcome) -> bool:
    return outcome[0] not in ("NattInToSocket", "NattInKeepalives")


def outcomes(result: Result) -> list[Outcome]:
    """One outcome a datagram: the counter it moved, what came of it, and the mapping, if any."""
    match result:
        case ToSocket():
            return [("NattInToSocket", *result)]
        case Keepalive():
            return [("NattInKeepalives", *result)]
        case Dropped():
            return [(result.counter, result.mapping)]
        case Decapsulated():
            pairs = enumerate(zip(result.packets, result.sequences, strict=True))
            return [
                ("NattInDecapsulated", packet, number, result.sa, None if at else result.mapping)
                for at, (packet, number) in pairs
            ]


def fuzz(inputs: int, seed: int, world: int = 500) -> Counter[str]:
    """Run `inputs` datagrams, `world` in each socket mode in turn; what became of them.

    AssertionError tells what differs from what had to be.
    """
    rng = random.Random(seed)
    tally: Counter[str] = Counter()
    done = 0
    for (profile, encap), family in itertools.cycle(MODES):
        place = World(rng, profile, encap, family)
        until = min(done + world, inputs)
        while done < until:
            came = place.step()
            tally += came
            done += came.total()
        tally["NattMappings"] += place.mappings
        if done >= inputs:
            return tally
    raise AssertionError("no modes")


def main() -> int:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(arguments.inputs, arguments.seed)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("input", dict(tally), f"{time.monotonic() - began:.0f} s, at most {most} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
