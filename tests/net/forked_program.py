"""A program for test_forked.py: tells of itself, or ends as it is told."""

import json
import os
import random
import resource
import sys
import time


def described() -> dict[str, object]:
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    # SigQ counts signals of the whole user.
    names = ("SigPnd", "SigBlk", "SigIgn", "SigCgt", "Shd", "Cap", "Threads", "NoNewPrivs", "Umask")
    return {
        "argv": sys.argv[1:],
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "stdin": os.readlink("/proc/self/fd/0"),
        "network": os.stat("/proc/self/ns/net").st_ino,
        "pids": os.stat("/proc/self/ns/pid").st_ino,
        "leads": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()),
        "status": {name: value for name, value in status.items() if name.startswith(names)},
        "limits": [resource.getrlimit(kind) for kind in range(16)],
        "nice": os.nice(0),
    }


def main(argv: list[str]) -> int:
    match argv:
        case ["tell", *_]:
            print(json.dumps(described()))
        case ["draw"]:
            print(random.random())
        case ["return", status]:
            return int(status)
        case ["exit", text]:
            print("on the way")
            sys.exit(text)
        case ["raise", text]:
            raise ValueError(text)
        case ["sleep"]:
            print("asleep", flush=True)
            time.sleep(300)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
