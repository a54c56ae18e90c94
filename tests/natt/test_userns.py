"""nattd in two network namespaces of one user namespace, and rights that are missing told by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cryptography
import pytest

import lab

from .conftest import Namespace, Nattd, inventory, join, manual_config, mirrored_config

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")

NOBODY = 65534
BECOME = {
    "nobody": ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"],
    "own user": [],
}
PATHS = [str(Path(module.__path__[0]).parent) for module in (lab, cryptography)]
ENVIRONMENT = ["env", f"PYTHONPATH={':'.join(PATHS)}", "PYTHONDONTWRITEBYTECODE=1"]


@cache
def interpreter(user: str) -> str:
    """A Python that the user may run, with nattd; skips the test if there is none."""
    said = ""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [*BECOME[user], *ENVIRONMENT, python, "-c", "import lab.natt.daemon"]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=30, cwd="/")
        if done.returncode == 0:
            return python
        said = done.stderr.strip().splitlines()[-1]
    pytest.skip(f"{user} cannot run nattd: {said}")


class UserNamespace(Namespace):
    """A network namespace that belongs to a user namespace; of `beside`, or a new one."""

    def __init__(self, user: str, beside: UserNamespace | None = None) -> None:
        self.python = interpreter(user)
        made = [*BECOME[user], "unshare", "-Urn"] if beside is None else [*beside.entrance(), "unshare", "-n"]
        super().__init__(made)

    def entrance(self) -> list[str]:
        # Becoming another user clears the parent-death signal.
        spaces = [f"--{kind}=/proc/{self.holder.pid}/ns/{kind}" for kind in ("user", "net")]
        return ["nsenter", *spaces, "setpriv", "--pdeathsig=KILL", *ENVIRONMENT]


@pytest.fixture(params=list(BECOME))
def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(user: str) -> Iterator[Path]:
    """A folder of the user's own."""
    path = Path(tempfile.mkdtemp())
    if user == "nobody":
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ends(user: str) -> Iterator[tuple[UserNamespace, UserNamespace]]:
    made: list[UserNamespace] = []
    try:
        left = UserNamespace(user)
        made.append(left)
        right = UserNamespace(user, left)
        made.append(right)
        join(left, right)
        yield left, right
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("encap", ["espinudp", "none"])
def test_a_ping_inside_a_user_namespace(user: str, folder: Path, ends: Any, encap: str) -> None:
    identity = ends[0].run("cat /proc/self/uid_map").split()
    assert identity == ["0", str(NOBODY) if user == "nobody" else "0", "1"]
    before = inventory(ends[0])
    pfkey = folder / "left.pfkey"
    left = Nattd(ends[0], folder, "left", manual_config(encap=encap), "--pfkey", str(pfkey))
    right = Nattd(ends[1], folder, "right", mirrored_config(encap=encap))
    try:
        assert os.stat(f"/proc/{left.process.pid}").st_uid == (NOBODY if user == "nobody" else 0)
        assert " 3 received" in ends[0].run("ping -c 3 -i 0.2 -W 5 10.20.0.1")
        assert left.counters() == right.counters() == {"NattOutEncapsulated": 3, "NattInDecapsulated": 3}
        assert inventory(ends[0]) != before
        assert pfkey.is_socket()
    finally:
        assert left.stop() == right.stop() == 0
    assert inventory(ends[0]) == before
    assert not pfkey.exists()
    assert not left.control.exists()


def refusal(user: str, folder: Path, config: str, *more: str, become: list[str] | None = None) -> str:
    """The one line of a nattd that must not come up."""
    path = folder / "nattd.toml"
    path.write_text(config)
    argv = [interpreter(user), "-m", "lab.natt.daemon", "--config", str(path), *more]
    done = subprocess.run(
        [*(BECOME[user] if become is None else become), *ENVIRONMENT, *argv],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("nattd: ")


BARE = f"""[[sa]]
spi=0x1000
source="127.0.0.1"
destination="127.0.0.2"
direction="out"
encap="none"
encryption="aes-gcm-16"
encryption-key="{bytes(20).hex()}"
"""


@pytest.mark.parametrize("user", ["nobody"], indirect=True)
@pytest.mark.parametrize(
    ("config", "pfkey", "refused"),
    [
        ("", True, "a mark on packets takes CAP_NET_ADMIN"),
        ('[tunnel]\ndevice="natt7"\n', False, "a TUN device takes CAP_NET_ADMIN"),
        (BARE, False, "a raw socket takes CAP_NET_RAW"),
    ],
    ids=["mark", "device", "raw socket"],
)
def test_what_takes_a_right_names_it(user: str, folder: Path, config: str, pfkey: bool, refused: str) -> None:
    here = Namespace()
    become = [*here.enter, *BECOME[user]]
    sock = f'[[socket]]\naddress="127.0.0.1"\nport=4500\nencap="espinudp"\n{config}'
    more = ("--pfkey", str(folder / "pfkey")) if pfkey else ()
    try:
        line = refusal(user, folder, sock, *more, become=become)
    finally:
        here.close()
    assert line.endswith(f"Operation not permitted, {refused}")
    assert [path.name for path in folder.iterdir()] == ["nattd.toml"]


def test_a_missing_device_file_is_named(user: str, folder: Path) -> None:
    script = 'mount -t tmpfs none /dev/net && ip link set lo up && exec "$@"'
    become = [*BECOME[user], "unshare", "-Urnm", "sh", "-c", script, "sh"]
    config = '[[socket]]\naddress="127.0.0.1"\nport=4500\nencap="espinudp"\n[tunnel]\ndevice="natt7"\n'
    line = refusal(user, folder, config, become=become)
    assert line == "[tunnel]: device natt7: /dev/net/tun: No such file or directory"
