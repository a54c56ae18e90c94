"""nattctl against a running nattd: load, dump, round trip, errors with file and line, watch, stats."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Namespace

NATTCTL = [sys.executable, "-c", "import sys; from lab.natt.nattctl import main; sys.exit(main())"]
SHA1_KEY = "0x202122232425262728292a2b2c2d2e2f30313233"
FILE = f"""# both directions over UDP, and a policy
add 203.0.113.5[4500] 198.51.100.1[61001] esp-udp 0x11223344 -m tunnel -u 7 -r 32
  -E aes-cbc 0x000102030405060708090a0b0c0d0e0f -A hmac-sha1 {SHA1_KEY} ;
add 198.51.100.1[61001] 203.0.113.5[4500] esp-udp 0x44332211 -m tunnel -u 7 -ls 50 -lh 60 -E null
  -A hmac-sha2-256 0x202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f ;
spdadd 10.20.0.1/32[any] 10.10.0.1/32[any] any -P out ipsec esp/tunnel/203.0.113.5-198.51.100.1/unique:7 ;
"""


class Nattd:
    """A nattd with a PF_KEY socket and no SAs, in a namespace of its own."""

    def __init__(self, folder: Path) -> None:
        self.namespace = Namespace()
        self.namespace.run("ip address add 203.0.113.5/32 dev lo")
        self.namespace.run("ip link set lo up")
        config = folder / "nattd.toml"
        config.write_text(
            '[[socket]]\naddress = "203.0.113.5"\nport = 4500\nencap = "espinudp"\nprofile = "linux"\n'
            '[tunnel]\ndevice = "natt0"\naddresses = ["10.20.0.1/32"]\n'
        )
        self.paths = ["--pfkey", str(folder / "pfkey"), "--control", str(folder / "control")]
        argv = [sys.executable, "-m", "lab.natt.daemon", "--config", str(config), *self.paths]
        self.process = subprocess.Popen([*self.namespace.enter, *argv])

    def ctl(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        argv = [*NATTCTL, *self.paths, *arguments]
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=20)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.namespace.close()


@pytest.fixture
def nattd(tmp_path: Path) -> Iterator[Nattd]:
    running = Nattd(tmp_path)
    try:
        for _ in range(200):
            if running.ctl("dump").returncode == 0:
                break
        yield running
    finally:
        running.close()


def test_a_file_is_loaded_and_dumped_as_text_that_loads_again(nattd: Nattd) -> None:
    loaded = nattd.ctl("load", "-", text=FILE)
    assert (loaded.returncode, loaded.stdout, loaded.stderr) == (0, "", "")
    dumped = nattd.ctl("dump").stdout
    assert "203.0.113.5[4500] 198.51.100.1[61001] esp-udp 0x11223344 -m tunnel -u 7 -r 32" in dumped
    assert "-lh 60 -ls 50" in dumped
    assert "spdadd 10.20.0.1/32[any] 10.10.0.1/32[any] any -P out" in dumped
    assert nattd.ctl("flush").returncode == 0
    assert nattd.ctl("dump").stdout == ""
    again = nattd.ctl("load", "-", text=dumped)
    assert again.returncode == 0, again.stderr
    assert sorted(nattd.ctl("dump").stdout.splitlines()) == sorted(dumped.splitlines())


def test_what_nattd_refuses_is_told_with_file_and_line(nattd: Nattd, tmp_path: Path) -> None:
    assert nattd.ctl("load", "-", text=FILE).returncode == 0
    file = tmp_path / "again.conf"
    again = "add 203.0.113.5[4500] 198.51.100.1[61001] esp-udp 0x11223344 -E null"
    file.write_text(f"# once more\n\n{again} -A hmac-sha1 {SHA1_KEY} ;\n")
    refused = nattd.ctl("load", str(file))
    assert refused.returncode == 1
    assert refused.stderr == f"nattctl: {file}:3: add: File exists (EEXIST)\n"


def test_a_typing_mistake_in_any_file_changes_nothing(nattd: Nattd, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.conf", tmp_path / "bad.conf"
    good.write_text(FILE)
    bad.write_text("flush;\nadd me;\n")
    refused = nattd.ctl("load", str(good), str(bad))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"nattctl: {bad}:2:5: expected source as ADDRESS")
    assert nattd.ctl("dump").stdout == ""


def test_get_prints_the_association(nattd: Nattd) -> None:
    nattd.ctl("load", "-", text=FILE)
    got = nattd.ctl("load", "-", text="get 203.0.113.5 198.51.100.1 esp 0x11223344;")
    assert got.stdout.startswith("add 203.0.113.5[4500] 198.51.100.1[61001] esp-udp 0x11223344")


def test_watch_tells_datagrams_and_pf_key_messages(nattd: Nattd) -> None:
    watching = subprocess.Popen([*NATTCTL, *nattd.paths, "watch"], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    try:
        with nattd.namespace.socket("203.0.113.5", 40000) as sock:
            kinds: set[str] = set()
            assert json.loads(watching.stdout.readline()) == {"event": "watching"}
            sock.sendto(b"\0\0\0\0hello", ("203.0.113.5", 4500))
            nattd.ctl("load", "-", text=FILE)
            while not {"delivered", "ADD"} <= kinds:
                event = json.loads(watching.stdout.readline())
                kinds.add(event.get("type", event["event"]))
    finally:
        watching.terminate()
        watching.wait(10)


def test_stats_and_sas_of_the_control_socket(nattd: Nattd) -> None:
    nattd.ctl("load", "-", text=FILE)
    with nattd.namespace.socket("203.0.113.5", 40000) as sock:
        sock.sendto(b"\x00\x00\x01\x00" + bytes(20), ("203.0.113.5", 4500))
        while "XfrmInNoStates" not in (stats := nattd.ctl("stats").stdout):
            assert nattd.process.poll() is None
    assert stats.split() == ["XfrmInNoStates", "1"]
    assert {json.loads(line)["spi"] for line in nattd.ctl("sas").stdout.splitlines()} == {
        0x11223344,
        0x44332211,
    }


def test_nobody_there_is_told_in_one_line(tmp_path: Path) -> None:
    argv = [*NATTCTL, "--pfkey", str(tmp_path / "none"), "dump"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr == f"nattctl: no PF_KEY socket at {tmp_path / 'none'}: No such file or directory\n"


def test_what_passes_in_the_clear_is_left_out_of_the_devices_table(nattd: Nattd) -> None:
    routes = "ip route show table all type throw"
    world = "spdadd 10.20.0.1/32 0.0.0.0/0 any -P out ipsec esp/tunnel/203.0.113.5-198.51.100.1/require;"
    lan = "0.0.0.0/0 192.0.2.0/24 any -P out"
    assert nattd.ctl("load", "-", text=f"{world} spdadd {lan} none;").returncode == 0
    assert nattd.namespace.run(routes).split()[:4] == ["throw", "192.0.2.0/24", "table", "4502"]
    assert nattd.ctl("load", "-", text=f"spddelete {lan};").returncode == 0
    assert nattd.namespace.run(routes) == ""
    assert nattd.ctl("load", "-", text=f"spdadd {lan} none;").returncode == 0
    nattd.process.terminate()
    assert nattd.process.wait(10) == 0
    assert nattd.namespace.run(routes) == ""
