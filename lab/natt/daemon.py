"""nattd: the encapsulator as a program, with SAs from a configuration file or over PF_KEY."""

from __future__ import annotations

import os
import signal
import sys

# Configured SAs want them, and who forks from here has them.
from . import ciphers
from .keys import export_keys
from .options import read_arguments
from .sockets import notify
from .stack import Stack, StartError
from .tables import ConfigError

__all__ = ["ciphers", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run nattd; status 0 after SIGTERM or SIGINT, 1 if the system refuses, 2 for a bad configuration.

    SIGHUP is answered with a word and changes nothing: of SAs that came over PF_KEY a file knows nothing.
    """
    try:
        config, options = read_arguments(argv)
    except ConfigError as error:
        print(f"nattd: {error}", file=sys.stderr)
        return 2
    stack = Stack(config, options)
    signal.signal(signal.SIGTERM, stack.stop)
    signal.signal(signal.SIGINT, stack.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stack.refuse_reload)
    try:
        stack.start()
        if options.export_keys:
            export_keys(options.export_keys, config.associations)
        notify(f"READY=1\nMAINPID={os.getpid()}\n")
        stack.run()
    except StartError as error:
        print(f"nattd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"nattd: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        stack.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
