"""What differs between two hosts or two installations, as far as it may change what a cell comes to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lab.report.results import Run

_ABSENT = "absent"
_DOES_NOT_MATTER = ("cpus", "memory_mib")


def differences(old: Run, new: Run) -> list[str]:
    """A line for each fact that differs: ``kernel: Linux 6.1 → Linux 6.8``.

    A peer that only one of the runs had is no difference.
    """
    found = [
        _line(name, before, after)
        for name, before, after in (("nattlab", old.nattlab, new.nattlab), ("kernel", old.kernel, new.kernel))
        if before != after
    ]
    found += _of_facts("host", old.host, new.host)
    found += _of_facts("package", old.packages, new.packages)
    both = old.releases.keys() & new.releases.keys()
    found += [
        _line(f"peer {peer}", old.releases[peer], new.releases[peer])
        for peer in sorted(both)
        if old.releases[peer] != new.releases[peer]
    ]
    return found


def _of_facts(word: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if before != after and name not in _DOES_NOT_MATTER:
            yield _line(f"{word} {name}", before, after)


def _line(name: str, before: object, after: object) -> str:
    return f"{name}: {before} → {after}"
