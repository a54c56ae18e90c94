"""nattd as a command: the encapsulator by itself, or with `run` under an adopted key manager."""

from __future__ import annotations

import gc
import sys


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments ask for; the exit status."""
    words = sys.argv[1:] if argv is None else argv
    # Either loads much that the other does not need, and `run` starts its program first.
    if words[:1] == ["run"]:
        # What modules make stays; to look through it for garbage while they load takes 4 ms.
        gc.disable()
        from .adoption.command import main as run

        return run(words[1:])
    from .daemon import main as serve

    return serve(words)


if __name__ == "__main__":
    sys.exit(main())
