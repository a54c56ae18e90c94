"""Export of ESP keys in the form Wireshark reads (`esp_sa`), so that captures can be decrypted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .transforms import ENCRYPTIONS, INTEGRITIES

if TYPE_CHECKING:
    from .association import SecurityAssociation

FILE_NAME = "esp_sa"


def wireshark_line(sa: SecurityAssociation) -> str | None:
    """One line of Wireshark's `esp_sa` table, None for an algorithm it has no name for.

    Any source address matches: a NAT may change it.
    """
    encryption = ENCRYPTIONS[sa.encryption].wireshark
    if not encryption:
        return None
    integrity = INTEGRITIES.get(sa.integrity)
    fields = [
        "IPv6" if ":" in sa.source else "IPv4",
        "*",
        sa.destination,
        f"0x{sa.spi:08x}",
        encryption,
        f"0x{sa.encryption_key.hex()}" if sa.encryption_key else "",
        integrity.wireshark if integrity else "NULL",
        f"0x{sa.integrity_key.hex()}" if sa.integrity_key else "",
    ]
    return ",".join(f'"{text}"' for text in fields)


def export_keys(directory: str, associations: Iterable[SecurityAssociation]) -> str:
    """Write the table of all SAs to `directory`/esp_sa, readable by the owner only; the path.

    Wireshark reads it with the directory as its configuration (WIRESHARK_CONFIG_DIR). OSError.
    """
    path = os.path.join(directory, FILE_NAME)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        for line in filter(None, map(wireshark_line, associations)):
            file.write(line + "\n")
    return path
