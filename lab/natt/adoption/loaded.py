"""`nattd run` with the whole stack loaded at import: for processes forked from one that has imported this."""

from __future__ import annotations

import sys

from .. import association, ciphers
from . import adopter, command


def main(argv: list[str] | None = None) -> int:
    """Run `nattd run`, see `command.main`."""
    return command.main(sys.argv[1:] if argv is None else argv)


__all__ = ["adopter", "association", "ciphers", "main"]

if __name__ == "__main__":
    sys.exit(main())
