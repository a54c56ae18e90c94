"""Kernels that guests run: Debian's, unpacked into a cache and never installed, or what a user names."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.nodes.guest import kvm
from lab.nodes.guest.errors import GuestError
from lab.unpacked import cache_folder

QEMU, UML = "qemu", "uml"
NAMES = {"debian": "linux-image-amd64", "uml": "user-mode-linux"}
"""Name of a kernel → Debian package: the stock kernel, for QEMU; the same release as a program."""
ADVICE = "scripts/setup guest fetches one"


@dataclass(frozen=True)
class Kernel:
    """A kernel that a guest can run."""

    name: str
    """As the user names it."""
    kind: str
    """QEMU or UML."""
    image: Path
    base: Path
    """The folder that has lib/modules/`release`."""
    release: str


def fetched(name: str) -> Kernel | None:
    """The newest kernel of that name in the cache; None if none was fetched."""
    folders = sorted(cache_folder().glob(f"kernel-{name}-*"), key=lambda folder: folder.stat().st_mtime)
    return _found(name, folders[-1]) if folders else None


def best() -> Kernel:
    """The fastest kernel fetched: QEMU's with KVM only. Raises GuestError if there is none."""
    there = [kernel for name in ("uml", "debian") if (kernel := fetched(name)) is not None]
    if not there:
        raise GuestError(f"no guest kernel is there: {ADVICE}")
    return there[-1] if len(there) > 1 and not kvm.refusal() else there[0]


def resolve(text: str) -> Kernel:
    """The kernel that `text` means: one of NAMES, or IMAGE[:MODULES] with MODULES at or above lib/modules.

    A kernel of NAMES is fetched if it is not there. Raises GuestError.
    """
    if text in NAMES:
        return fetched(text) or fetch(text)
    image, _, modules = text.partition(":")
    path = Path(image).absolute()
    if not path.is_file():
        raise GuestError(f"--kernel {text}: {', '.join(NAMES)}, or an image: there is no file {path}")
    kind = UML if path.read_bytes()[:4] == b"\x7fELF" else QEMU
    base = Path(modules).absolute() if modules else _above(path)
    match = re.fullmatch(r"(.*)/lib/modules/([^/]+)/?", str(base))
    if match:
        return Kernel(text, kind, path, Path(match[1]), match[2])
    return Kernel(text, kind, path, base, _only_release(base, f"--kernel {text}"))


def _above(image: Path) -> Path:
    """The nearest folder above an image that has lib/modules, as / is to /boot/vmlinuz."""
    for folder in image.parents:
        if (folder / "lib" / "modules").is_dir():
            return folder
    raise GuestError(f"{image}: no lib/modules above it; name the folder that has it: {image}:FOLDER")


def _only_release(base: Path, what: str) -> str:
    there = sorted(entry.name for entry in (base / "lib" / "modules").glob("*") if entry.is_dir())
    if len(there) != 1:
        found = f"has {', '.join(there)}" if there else "is not there or empty"
        raise GuestError(f"{what}: one release of modules is wanted, but {base}/lib/modules {found}")
    return there[0]


def _found(name: str, folder: Path) -> Kernel:
    images = [folder / "usr/bin/linux.uml"] if name == "uml" else sorted(folder.glob("boot/vmlinuz-*"))
    if not images or not images[0].is_file():
        raise GuestError(f"{folder} has no kernel image: remove it, and it is fetched anew")
    kind = UML if name == "uml" else QEMU
    return Kernel(name, kind, images[0], folder, _only_release(folder, name))


def fetch(name: str) -> Kernel:
    """Fetch the newest Debian package of kernel `name` into the cache, unless that release is there.

    Raises GuestError with apt's or dpkg's words.
    """
    try:
        return _fetch(name)
    except GuestError:
        # What apt knows of its archive may be nothing, or old.
        _output("apt-get", "update", "-qq")
        return _fetch(name)


def _fetch(name: str) -> Kernel:
    package = NAMES[name]
    cache_folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        if name == "debian":
            package = _dependency(package)
        version = _version(package)
        folder = cache_folder() / f"kernel-{name}-{version.replace(':', '_')}"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="fetching-") as scratch:
                made = _unpack(package, Path(scratch))
                _lay_out(made)
                made.rename(folder)
        return _found(name, folder)


@contextmanager
def _lock() -> Iterator[None]:
    with (cache_folder() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _output(*argv: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise GuestError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def _dependency(package: str) -> str:
    found = re.search(r"Depends: (linux-image-[0-9]\S+)", _output("apt-cache", "depends", package))
    if found is None:
        raise GuestError(f"apt-cache knows no kernel that {package} depends on: apt-get update?")
    return found[1]


def _version(package: str) -> str:
    found = re.search(r"Candidate: (\S+)", _output("apt-cache", "policy", package))
    if found is None or found[1] == "(none)":
        raise GuestError(f"apt-cache knows no package {package}: apt-get update?")
    return found[1]


def _unpack(package: str, scratch: Path) -> Path:
    _output("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, cwd=scratch)
    (archive,) = scratch.glob("*.deb")
    _output("dpkg-deb", "--extract", str(archive), str(scratch / "root"))
    return scratch / "root"


def _lay_out(root: Path) -> None:
    """Bring modules to lib/modules/RELEASE, drop what a guest does not need, index the modules."""
    shutil.rmtree(root / "usr/share", ignore_errors=True)
    modules = root / "lib/modules"
    if (root / "usr/lib/uml/modules").is_dir():
        modules.parent.mkdir()
        (root / "usr/lib/uml/modules").rename(modules)
    _output("depmod", "-b", str(root), _only_release(root, str(root)))


def overview() -> list[str]:
    """A line for each kernel of NAMES: whether it is there, and what it is."""
    lines = []
    for name, package in NAMES.items():
        found = fetched(name)
        there = f"Linux {found.release} in {found.base}" if found else f"not here: nattlab kernel {name}"
        lines.append(f"{name} (Debian package {package}): {there}")
    return lines
