"""PF_KEY octets recorded between racoon 0.9.1 and Linux 6.1."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

DATA = Path(__file__).parent / "data"


class Recorded(NamedTuple):
    file: str
    line: int
    from_kernel: bool
    octets: bytes


@pytest.fixture(scope="session")
def recorded() -> list[Recorded]:
    """Every recorded message, in order."""
    messages = []
    for path in sorted(DATA.glob("*.hex")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.startswith("#"):
                direction, _, octets = line.rpartition("\t")
                messages.append(
                    Recorded(path.stem, number, direction == "from kernel", bytes.fromhex(octets))
                )
    return messages
