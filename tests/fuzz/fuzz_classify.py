"""Throws UDP payloads at classify, in every socket mode of every profile: total, and as the tables say.

By hand: python -m tests.fuzz.fuzz_classify --inputs 1000000
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from lab.natt.wire import Encap, Profile, classify

from .receivers import TABLES, receive

LENGTHS = (*range(65), 1471, 1472, 65507)
WORDS = tuple(
    word.to_bytes(4, "big") for word in (0, 1, 0xFF, 0x100, 0xFFFFFF, 0x01000000, 0xFF000000, 0xFFFFFFFF)
)


def payload_of(rng: random.Random) -> bytes:
    """Lengths and first words where receivers change their mind, and anything else."""
    length = rng.choice(LENGTHS)
    if rng.random() < 0.1:
        return rng.randbytes(min(length, 80))
    head = b"".join(rng.choice((*WORDS, rng.randbytes(4))) for _ in range(rng.randrange(5)))
    filling = rng.choice((b"\0", b"\xff", b"\x5a"))
    return (head + filling * (length - len(head)))[:length]


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Run `inputs` payloads, each in every mode; how many were what. AssertionError names a wrong one."""
    rng = random.Random(seed)
    tally: Counter[str] = Counter()
    for _ in range(inputs):
        payload = payload_of(rng)
        for profile, encap in TABLES:
            verdict = classify(payload, encap, profile)
            wanted = receive(payload, encap, profile)
            assert tuple(verdict) == wanted, (
                f"{profile.value} {encap.word} {payload.hex()}: {verdict}, not {wanted}"
            )
            tally[verdict.kind.value] += 1
        for profile in Profile:
            for encap in set(Encap) - profile.encaps:
                try:
                    classify(payload, encap, profile)
                except ValueError:
                    tally["refused"] += 1
                else:
                    raise AssertionError(f"{profile.value} took {encap.word}")
    return tally


def main() -> int:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(arguments.inputs, arguments.seed)
    print("classify", dict(tally), f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
