"""A classic BPF machine, small and slow, for programs of the adoption."""

import struct


def run(program: bytes, load_word, load_octet, length: int, seen=None) -> int:
    """What a program returns; `load_word` and `load_octet` take an offset.

    Each instruction is appended to `seen`: operation and value.
    """
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        operation, then, otherwise, value = code[at]
        if seen is not None:
            seen.append((operation, value))
        at += 1
        if operation == 0x20:
            accumulator = load_word(value)
        elif operation == 0x30:
            accumulator = load_octet(value)
        elif operation == 0x80:
            accumulator = length
        elif operation == 0x15:
            at += then if accumulator == value else otherwise
        elif operation == 0x45:
            at += then if accumulator & value else otherwise
        elif operation == 0x25:
            at += then if accumulator > value else otherwise
        else:
            assert operation == 0x06
            return value


def run_on_packet(program: bytes, payload: bytes) -> int:
    """As a socket filter: words are big-endian, a load behind the end would end the program with 0."""

    def word(offset: int) -> int:
        assert offset + 4 <= len(payload), "load behind the end"
        return int.from_bytes(payload[offset : offset + 4], "big")

    def octet(offset: int) -> int:
        assert offset < len(payload), "load behind the end"
        return payload[offset]

    return run(program, word, octet, len(payload))


def run_on_call(program: bytes, audit: int, number: int, *arguments: int, seen=None) -> int:
    """As a seccomp filter: words are of this host's order, in `struct seccomp_data`."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number, audit, 0x7F0000001000, *(one & (1 << 64) - 1 for one in padded))

    def word(offset: int) -> int:
        return int.from_bytes(data[offset : offset + 4], "little")

    return run(program, word, lambda offset: data[offset], len(data), seen)
