"""Load for a benchmark: one end floods, the other counts. TCP in big writes, UDP at a given rate.

generator.py tcp-sink ADDRESS PORT WARMUP    | prints "ready", then one JSON object
generator.py tcp-flood ADDRESS PORT SECONDS
generator.py udp-sink ADDRESS PORT SIZE
generator.py udp-flood ADDRESS PORT SECONDS SIZE MBIT
"""

from __future__ import annotations

import json
import socket
import sys
import time

SO_RCVBUFFORCE = 33
_CHUNK = 1 << 18
_TICK = 0.001
_SILENCE = 0.3
_PATIENCE = 30.0


def tcp_sink(address: str, port: int, warmup: float) -> dict[str, float]:
    """Count what one connection brings, from `warmup` seconds after its first octet."""
    buffer = bytearray(_CHUNK)
    with socket.create_server((address, port)) as listener:
        listener.settimeout(_PATIENCE)
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_PATIENCE)
            octets = skipped = 0
            connection.recv_into(buffer)
            start, now = time.monotonic() + warmup, 0.0
            while count := connection.recv_into(buffer):
                now = time.monotonic()
                if now < start:
                    skipped += count
                else:
                    octets += count
    return {"octets": octets, "all_octets": octets + skipped, "seconds": now - start}


def tcp_flood(address: str, port: int, seconds: float) -> dict[str, float]:
    """Send as much as the connection takes."""
    data = bytes(_CHUNK)
    with socket.create_connection((address, port), _PATIENCE) as connection:
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            connection.sendall(data)
            count += len(data)
    return {"octets": count}


def udp_sink(address: str, port: int, size: int) -> dict[str, float]:
    """Count datagrams until none has come for a while."""
    buffer = bytearray(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        sock.bind((address, port))
        sock.settimeout(_PATIENCE)
        print("ready", flush=True)
        count = 0
        start = now = 0.0
        try:
            while True:
                if sock.recv_into(buffer) == size:
                    now = time.monotonic()
                    if not count:
                        start = now
                        sock.settimeout(_SILENCE)
                    count += 1
        except TimeoutError:
            return {"datagrams": count, "seconds": now - start}


def udp_flood(address: str, port: int, seconds: float, size: int, mbit: float) -> dict[str, float]:
    """Send datagrams of `size` octets at `mbit` Mbit/s of payload, in bursts of a millisecond's worth."""
    data = bytes(size)
    rate = mbit * 1e6 / 8 / size
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sent, start = 0, time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            due = int((passed + _TICK) * rate)
            while sent < due:
                sock.send(data)
                sent += 1
            time.sleep(max(0.0, sent / rate - (time.monotonic() - start)))
    return {"datagrams": sent}


def main() -> None:
    """Do what the arguments say and print the result."""
    kind, address, port, *numbers = sys.argv[1:]
    values = [float(number) for number in numbers]
    match kind:
        case "tcp-sink":
            result = tcp_sink(address, int(port), values[0])
        case "tcp-flood":
            result = tcp_flood(address, int(port), values[0])
        case "udp-sink":
            result = udp_sink(address, int(port), int(values[0]))
        case "udp-flood":
            result = udp_flood(address, int(port), values[0], int(values[1]), values[2])
        case _:
            raise SystemExit(__doc__)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
