"""What starts a guest, to the word; and what its first script is told, as a shell reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.nodes.guest import machines
from lab.nodes.guest.errors import GuestError
from lab.nodes.guest.kernels import QEMU, UML, Kernel
from lab.nodes.guest.machines import HERE, Job

JOB = Job(
    program=["python", "-c", "print('a b')"],
    directory=Path("/work dir"),
    shared=[Path("/srv/x"), Path("/tmp/y")],
    writable=Path("/srv/out"),
    environment={"A": "1 2"},
)


def kernel(kind: str) -> Kernel:
    return Kernel("a", kind, Path("/k/image"), Path("/k"), "6.1")


def test_user_mode_linux() -> None:
    argv = machines.uml_command(kernel(UML), Path("/b"), (7, 8))
    assert argv == [
        *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("sh", "-c", '"$@"; exit $?', "sh"),
        *(sys.executable, "-I", f"{HERE}/fxsave.py", "/k/image"),
        *("mem=2G", "rootfstype=hostfs", "ro", f"init={HERE}/init.sh", "nattlab_boot=/b"),
        *("quiet", "con=null", "con0=null,fd:1", "con1=fd:7,fd:8"),
    ]


@pytest.mark.parametrize("refusal", ["", "emulated"])
def test_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: str) -> None:
    (tmp_path / "virtme-run").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(machines.shutil, "which", lambda _: "/usr/bin/qemu")
    argv = machines.qemu_command(kernel(QEMU), Path("/b c"), JOB, refusal)
    assert argv[argv.index(str(tmp_path / "virtme-run")) :] == [
        *(
            str(tmp_path / "virtme-run"),
            "--kimg",
            "/k/image",
            "--mods",
            "auto",
            "--memory",
            "2G",
            "--cpus",
            "1",
        ),
        *("--force-9p", "--user", "root", "--rodir=/tmp/y", "--rwdir=/srv/out"),
        *(["--disable-kvm"] if refusal else []),
        *("--show-boot-console", "--script-sh", f"sh {HERE}/init.sh '/b c'"),
    ]


def test_qemu_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.shutil, "which", lambda _: None)
    with pytest.raises(GuestError, match="scripts/setup qemu"):
        machines.qemu_command(kernel(QEMU), Path("/b"), JOB, "")


@pytest.mark.parametrize("kind", [UML, QEMU])
def test_a_shell_reads_the_boot_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "boot").write_text(machines.boot_file(kernel(kind), JOB))
    names = ("KIND", "MODULES", "SHARED", "WRITABLE", "DIRECTORY", "A")
    tell = "printf '%s|' " + " ".join(f'"${name}"' for name in names)
    script = f". {tmp_path}/boot; {tell}; eval set -- $PROGRAM; printf '%s|' \"$@\"; env"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{kind}|/k|/srv/x /tmp/y|/srv/out|/work dir|1 2|python|-c|print('a b')|")
    assert ("OPENSSL_ia32cap=~0x1000000000000000:~0x600D0230020" in done.stdout) == (kind == UML)
    assert "HOME=/root\n" in done.stdout


def test_modules_are_names() -> None:
    names = (HERE / "modules.txt").read_text().split()
    assert {"esp4", "af_key", "iptable_nat", "veth", "authenc"} <= set(names)
    assert len(names) == len(set(names))
