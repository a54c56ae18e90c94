"""Messages survive being cut anywhere, and what a kernel prints between them."""

from __future__ import annotations

import os
import threading

import pytest

from lab.nodes.guest.channel import Lines, Writer, messages

FIRST, SECOND = {"id": 1, "text": "ä\n"}, {"beat": True}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_are_whole_however_they_arrive(size: int) -> None:
    into, out = os.pipe()
    for message in (FIRST, SECOND):
        Writer(out).send(message)
    os.close(out)
    octets = os.read(into, 4096)
    os.close(into)
    lines = Lines()
    cut = [octets[at : at + size] for at in range(0, len(octets), size)]
    assert [message for piece in cut for message in lines.feed(piece)] == [FIRST, SECOND]


def test_what_is_no_message_is_skipped() -> None:
    assert list(Lines().feed(b'[    1.0] random: crng\r\n[1, 2]\n"text"\n{"id": 7}\r\n')) == [{"id": 7}]


def test_half_a_message_waits() -> None:
    lines = Lines()
    assert list(lines.feed(b'{"id"')) == []
    assert list(lines.feed(b": 2}\n")) == [{"id": 2}]


def test_a_large_message_passes_a_small_pipe() -> None:
    into, out = os.pipe()
    large = {"reports": "x" * 300_000}

    def send() -> None:
        Writer(out).send(large)
        os.close(out)

    sender = threading.Thread(target=send)
    sender.start()
    assert list(messages(into)) == [large]
    sender.join()
    os.close(into)
