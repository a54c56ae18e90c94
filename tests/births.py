"""Telling processes from later ones of the same id."""

from pathlib import Path


def birth(pid: int) -> str | None:
    """What tells a process from a later one of the same id; None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
