"""The sockets of a key manager without IKE: holds UDP sockets with their flags, and tells what reaches them.

A program of its own, so that what it needs to start is the standard library alone. Every datagram is one line
of JSON on standard output: ``socket``, ``source`` (address and port) and ``payload`` in hexadecimal.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence

UDP_ENCAP = 100
LONGEST = 65535
_POLICIES = {socket.AF_INET: (socket.IPPROTO_IP, 17), socket.AF_INET6: (socket.IPPROTO_IPV6, 35)}
"""Level and name of IP_XFRM_POLICY and IPV6_XFRM_POLICY."""


def opened(address: str, port: int, encap: int, policies: list[bytes]) -> socket.socket:
    """A bound socket with UDP_ENCAP `encap` and policies of its own. OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if encap:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, encap)
    for policy in policies:
        sock.setsockopt(*_POLICIES[family], policy)
    sock.bind((address, port))
    return sock


def serve(sockets: list[socket.socket]) -> None:
    """Tell of every datagram, for ever."""
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                payload, source = key.fileobj.recvfrom(LONGEST)
                told = {
                    "socket": key.fileobj.getsockname()[:2],
                    "source": source[:2],
                    "payload": payload.hex(),
                }
                print(json.dumps(told), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Open the sockets that the one argument lists (JSON), say READY=1 and serve; 1 if one cannot be."""
    asked = json.loads(arguments[0])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        sockets = [
            opened(one["address"], one["port"], one["encap"], list(map(bytes.fromhex, one["policies"])))
            for one in asked
        ]
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    serve(sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
