"""What starts a guest: the command lines of User-Mode Linux and of QEMU, through virtme-ng."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.nodes.guest import kvm
from lab.nodes.guest.errors import GuestError
from lab.nodes.guest.kernels import UML, Kernel

HERE = Path(__file__).parent
MEMORY = "2G"
_AVX = "AVX2_Usable AVX_Usable AVX512F_Usable AVX_Fast_Unaligned_Load AVX2 AVX AVX512F AVX512VL ERMS"
NO_AVX = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in _AVX.split()),
    # CPUID leaf 1, ECX 28: AVX; leaf 7, EBX 5, 16, 17, 21, 28, 30, 31: AVX2, AVX-512, ECX 9, 10: VAES.
    "OPENSSL_ia32cap": "~0x1000000000000000:~0x600D0230020",
    "NSS_DISABLE_AVX": "1",
    "NSS_DISABLE_AVX2": "1",
}
"""Has the C library, OpenSSL and NSS leave AVX alone: where lab.nodes.guest.fxsave is in force, a page fault
clears the upper halves of its registers. AES-GCM of OpenSSL comes out wrong then, and nothing says why."""


_FIRST = ("sh", "-c", '"$@"; exit $?', "sh")
_CONTAINED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *_FIRST)
"""Everything of a guest ends with the first process of its PID namespace. That is a shell: by abort(3), which
is how a kernel that is a program panics, a first process does not end."""


@dataclass(frozen=True)
class Job:
    """What a guest is to run, and what of this host it needs to see."""

    program: Sequence[str]
    directory: Path
    shared: Sequence[Path]
    writable: Path
    """What is written below it stays; the rest of the files is the guest's own."""
    environment: Mapping[str, str]


def boot_file(kernel: Kernel, job: Job) -> str:
    """Shell assignments for init.sh."""
    environment = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": _path(), **job.environment}
    if kernel.kind == UML:
        environment |= NO_AVX
    words = {
        "KIND": kernel.kind,
        "MODULES": str(kernel.base),
        "WANTED": str(HERE / "modules.txt"),
        # A folder before what lies in it: to mount the one would hide the other.
        "SHARED": " ".join(str(path) for path in sorted(set(job.shared))),
        "WRITABLE": str(job.writable),
        "DIRECTORY": str(job.directory),
        "PROGRAM": shlex.join(job.program),
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join([*exports, *(f"{name}={shlex.quote(value)}" for name, value in words.items()), ""])


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def uml_command(kernel: Kernel, boot: Path, channel: tuple[int, int] | None) -> list[str]:
    """User-Mode Linux with this host's files as its root, read only.

    Its console is standard output; `channel` are descriptors to read and write. Without one the console is
    this terminal. In a PID namespace, as it is many processes.
    """
    console = ["con0=fd:0,fd:1"]
    if channel is not None:
        console = ["con0=null,fd:1", f"con1=fd:{channel[0]},fd:{channel[1]}"]
    return [
        *_CONTAINED,
        *(sys.executable, "-I", str(HERE / "fxsave.py"), str(kernel.image)),
        *(f"mem={MEMORY}", "rootfstype=hostfs", "ro", f"init={HERE / 'init.sh'}", f"nattlab_boot={boot}"),
        *("quiet", "con=null", *console),
    ]


def qemu_command(kernel: Kernel, boot: Path, job: Job, refusal: str) -> list[str]:
    """QEMU through virtme-ng: the channel is standard input and output, the console standard error.

    `refusal` says why not with KVM; empty for KVM. Raises GuestError if QEMU or virtme-ng is missing.
    """
    return [
        *_CONTAINED,
        *_virtme(kernel, job, refusal),
        "--show-boot-console",
        *("--script-sh", f"sh {shlex.quote(str(HERE / 'init.sh'))} {shlex.quote(str(boot))}"),
    ]


def qemu_terminal(kernel: Kernel, boot: Path, job: Job, refusal: str) -> list[str]:
    """QEMU through virtme-ng with this terminal. Raises GuestError like qemu_command()."""
    wrapper = boot.with_name("shell")
    wrapper.write_text(f"#!/bin/sh\nexec sh {shlex.quote(str(HERE / 'init.sh'))} {shlex.quote(str(boot))}\n")
    wrapper.chmod(0o755)
    return [*_virtme(kernel, job, refusal), f"--rodir={boot.parent}", "--shell", str(wrapper)]


def _virtme(kernel: Kernel, job: Job, refusal: str) -> list[str]:
    program = Path(sys.executable).parent / "virtme-run"
    if not program.exists() or shutil.which("qemu-system-x86_64") is None:
        raise GuestError("a Debian kernel as a guest needs virtme-ng and qemu-system-x86: scripts/setup qemu")
    # These two are the guest's own there.
    hidden = (Path("/tmp"), Path("/var/tmp"))
    return [
        *(str(program), "--kimg", str(kernel.image), "--mods", "auto", "--memory", MEMORY, "--cpus", "1"),
        *("--force-9p", "--user", "root"),
        *(f"--rodir={path}" for path in job.shared if any(map(path.is_relative_to, hidden))),
        f"--rwdir={job.writable}",
        *(["--disable-kvm"] if refusal else []),
    ]


def command(kernel: Kernel, boot: Path, job: Job, channel: tuple[int, int]) -> list[str]:
    """The command that starts a guest of this kernel. Raises GuestError."""
    if kernel.kind == UML:
        return uml_command(kernel, boot, channel)
    return qemu_command(kernel, boot, job, kvm.refusal())
