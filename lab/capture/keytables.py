"""Wireshark's key tables of a capture: a folder that decrypts it, and comments that carry it in the file.

pcapng's Decryption Secrets Blocks have types for TLS, SSH, WireGuard, ZigBee and OPC UA alone: keys of IKE
and ESP cannot be in one. They stand in comments of the section instead, which Wireshark shows among the
properties of the file but does not decrypt by; the folder beside the file does that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

ESP = "esp_sa"
TABLES = (ESP, "ikev1_decryption_table", "ikev2_decryption_table")
_PREFERENCES = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n"
_MARK = "Wireshark table "
_USUAL_PORT = 4500
_PER_COMMENT = 200
"""Lines of a table in one comment: less than its 65535 octets."""


def merged(tables: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The lines of every table, each once, in order of appearance; name → lines.

    An ESP key is given for the address its peer sees, which is another one on the other side of a NAT: after
    the lines as they are, each comes once more for any destination.
    """
    found: dict[str, dict[str, None]] = {}
    for by_name in tables:
        for name, text in by_name.items():
            found.setdefault(name, {}).update(dict.fromkeys(filter(None, text.splitlines())))
    if ESP in found:
        found[ESP].update(dict.fromkeys([_for_any_destination(line) for line in found[ESP]]))
    return {name: list(lines) for name, lines in found.items() if lines}


def write(folder: Path, tables: Mapping[str, Iterable[str]], nat_t_ports: Collection[int] = ()) -> None:
    """Make `folder` one for WIRESHARK_CONFIG_DIR: the tables and what makes Wireshark use them.

    UDP on `nat_t_ports` is taken for that of port 4500.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / "preferences").write_text(_PREFERENCES)
    other = [port for port in nat_t_ports if port != _USUAL_PORT]
    if other:
        entries = (f"decode_as_entry: udp.port,{port},(none),UDPENCAP\n" for port in other)
        (folder / "decode_as_entries").write_text("".join(entries))


def comments(tables: Mapping[str, Sequence[str]]) -> list[str]:
    """Comments of a section that hold the tables, for extract()."""
    return [
        f"{_MARK}{name}:\n" + "\n".join(lines[start : start + _PER_COMMENT])
        for name, lines in tables.items()
        for start in range(0, len(lines), _PER_COMMENT)
    ]


def extract(section_comments: Iterable[str]) -> dict[str, list[str]]:
    """The tables in the comments of a section; empty where there are none."""
    found: dict[str, list[str]] = {}
    for comment in section_comments:
        head, _, rest = comment.partition(":\n")
        name = head.removeprefix(_MARK)
        if head.startswith(_MARK) and name in TABLES:
            found.setdefault(name, []).extend(rest.splitlines())
    return found


def _for_any_destination(line: str) -> str:
    fields = next(csv.reader([line]))
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="").writerow([*fields[:2], "*", *fields[3:]])
    return text.getvalue()
