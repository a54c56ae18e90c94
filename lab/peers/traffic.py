"""Inner traffic: what an application behind a peer would send through the tunnel."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

from lab.nodes.node import Node


class TrafficError(AssertionError):
    """Traffic that should have passed did not; the text says which and how far it came."""


def ping(
    node: Node, source: str, destination: str, count: int = 1, size: int = 56, deadline: float = 5.0
) -> None:
    """Send ICMP echo requests of `size` data octets until `count` are answered, more than that if need be.

    Raises TrafficError when an answer is missing after `deadline` seconds.
    """
    argv = [
        "ping",
        "-n",
        "-q",
        # One at a time: with a fixed interval ping sends many more than `count` while it waits for answers.
        "-A",
        "-c",
        str(count),
        "-s",
        str(size),
        "-w",
        str(max(1, round(deadline))),
    ]
    done = node.run([*argv, "-I", source, destination], timeout=deadline + 5)
    if done.returncode != 0:
        summary = " ".join((done.stdout + done.stderr).strip().splitlines()[-2:])
        raise TrafficError(f"ping {source} -> {destination} on {node.name}: {summary}")


def transfer(
    client: Node,
    source: str,
    server: Node,
    destination: str,
    octets: int = 65536,
    deadline: float = 10.0,
    bound_to: str | None = None,
) -> None:
    """Send a file of `octets` over TCP from `source` on `client` to `destination` on `server`, compare it.

    `bound_to` is the server's own address where `destination` is that of a NAT before it. The server answers
    with the SHA-256 of what it read. Raises TrafficError on any difference or delay.
    """
    content = os.urandom(octets)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((bound_to or destination, 0))
        listener.listen(1)
        listener.settimeout(deadline)
        answering = threading.Thread(
            target=_answer_with_digest, args=(listener, octets, deadline), daemon=True
        )
        answering.start()
        try:
            with client.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(deadline)
                sock.bind((source, 0))
                sock.connect((destination, listener.getsockname()[1]))
                sock.sendall(content)
                sock.shutdown(socket.SHUT_WR)
                digest = _read(sock, 32)
        except OSError as error:
            raise TrafficError(
                f"TCP {source} -> {destination} ({client.name} to {server.name}), {octets} octets: {error}"
            ) from error
        finally:
            answering.join(deadline)
    if digest != hashlib.sha256(content).digest():
        raise TrafficError(f"TCP {source} -> {destination}: the {octets} octets arrived changed")


def _answer_with_digest(listener: socket.socket, octets: int, deadline: float) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return  # the client's side reports what happened
    with connection:
        connection.settimeout(deadline)
        try:
            connection.sendall(hashlib.sha256(_read(connection, octets)).digest())
        except OSError:
            return  # likewise: the client sees the connection end


def _read(sock: socket.socket, wanted: int) -> bytes:
    chunks = []
    while wanted > 0:
        chunk = sock.recv(min(wanted, 65536))
        if not chunk:
            break
        chunks.append(chunk)
        wanted -= len(chunk)
    return b"".join(chunks)
