from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.nodes.crash import core_dumps, crashes
from lab.nodes.namespace_node import NamespaceNode
from lab.nodes.network import Network


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NamespaceNode]:
    with Network.build(topology_file.load("direct"), tmp_path) as network:
        yield network.nodes["left"]


def test_what_the_lab_ends_itself_has_not_crashed(node: NamespaceNode) -> None:
    node.start(["sleep", "60"], "ends").terminate()
    node.start(["sleep", "60"], "killed").kill()
    hangs = node.start(["sleep", "60"], "signalled")
    hangs.signal(signal.SIGUSR1)
    hangs.wait()
    node.start(["sh", "-c", "echo harmless; exit 3"], "fails").wait()
    assert crashes(node) == []


def test_a_signal_of_its_own_is_told_with_the_program(node: NamespaceNode) -> None:
    program = node.start(["sh", "-c", "kill -SEGV $$"], "daemon")
    program.wait()
    program.signal(signal.SIGTERM)
    assert "left: daemon was killed by SIGSEGV, which the lab did not send" in crashes(node)


def test_a_core_dump_is_found_where_the_program_ran(node: NamespaceNode) -> None:
    folder = node.scratch / "deep"
    folder.mkdir()
    (folder / "core.17").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<H", 4) + bytes(100))
    (folder / "program").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<H", 2) + bytes(100))
    assert crashes(node) == ["left: core dump deep/core.17, 118 octets"]
    assert core_dumps(node) == [folder / "core.17"]


def test_programs_run_where_their_core_dumps_are_looked_for(node: NamespaceNode) -> None:
    program = node.start(["pwd"], "where")
    program.wait()
    assert program.stdout.read_text() == f"{node.scratch}\n"


@pytest.mark.parametrize(
    "line",
    [
        "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x60",
        "esp.c:12:7: runtime error: shift exponent 64 is too large",
        "00[DMN] killing ourself, received critical signal",
        "Traceback (most recent call last):",
    ],
)
def test_what_sanitizers_and_handlers_write_counts(node: NamespaceNode, line: str) -> None:
    (node.scratch / "daemon.log").write_text(f"started\n{line}\nmore\n")
    assert crashes(node) == [f"left: daemon.log says: {line}"]


@pytest.mark.skipif(
    not Path("/proc/sys/kernel/core_pattern").read_text().strip().isidentifier(),
    reason="core dumps of this host go elsewhere (kernel.core_pattern)",
)
def test_a_program_that_crashes_may_dump_core(node: NamespaceNode) -> None:
    # Limits are set right after the start; the shell waits for that.
    crashing = node.start(["sh", "-c", 'until [ "$(ulimit -c)" != 0 ]; do :; done; kill -SEGV $$'], "daemon")
    crashing.wait()
    killed, dumped = crashes(node)
    assert killed == "left: daemon was killed by SIGSEGV, which the lab did not send"
    assert dumped.startswith("left: core dump core")
    assert [path.parent for path in core_dumps(node)] == [node.scratch]
