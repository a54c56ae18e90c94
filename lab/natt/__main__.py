"""nattd: the encapsulator as a program, by itself or, with `run`, under an adopted key manager."""

from __future__ import annotations

import sys


def main() -> int:
    """Run what the arguments ask for; the exit status."""
    # Either loads much that the other does not need, and `run` starts its program first.
    if sys.argv[1:2] == ["run"]:
        from .adoption.command import main as run

        return run(sys.argv[2:])
    from .daemon import main as serve

    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
