"""Images that need no registry: the files of this host, all or of some packages. One layer each."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import ImageNotFound

from lab.net.errors import NetworkError
from lab.nodes.container_node import PROJECT
from lab.nodes.engine import Engine, asked
from lab.nodes.places import HOST

INSTALLED = "packages"
REPOSITORY = "nattlab"
PYTHON_LABEL = "nattlab.python"
"""Label of an image: the Python in it that has what the natt peer needs (cryptography, scapy)."""

PACKAGES = (
    "charon-systemd", "coreutils", "dash", "grep", "iproute2", "iptables", "iputils-ping",
    "libcharon-extra-plugins", "libstrongswan-extra-plugins", "libstrongswan-standard-plugins",
    "sed", "strongswan-swanctl",
)  # fmt: skip
"""What an image of strongSwan's release on this host is made of."""
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug")
_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd",
    "protocols", "services", "ssl/openssl.cnf",
)  # fmt: skip
_EMPTY = (
    "dev", "etc", "etc/ssl", "home", "proc", "root", "run", "sys", "tmp", "usr",
    "var", "var/lib", "var/log", "var/tmp",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """What a container is made of."""

    name: str
    """As the engine knows it."""
    binds: Mapping[Path, str] = field(default_factory=dict)
    """Directories of this host that it shows, by mode."""
    python: str = sys.executable


def resolved(engine: Engine, name: str) -> Image:
    """The image called `name`; ``host`` and ``packages`` are made on the spot if the engine lacks them.

    Raises EngineError, or ImageMissingError for any other name that the engine does not have.
    """
    if name == HOST:
        return Image(_host_image(engine), dict.fromkeys(_outermost(_host_directories()), "ro"))
    if name == INSTALLED:
        name = packages_image(engine)
    python = engine.image_labels(name).get(PYTHON_LABEL)
    return Image(name, {PROJECT: "ro"} if python else {}, python or "python3")


def _host_directories() -> list[Path]:
    return [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), PROJECT]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that are in none of the others."""
    found: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _host_image(engine: Engine) -> str:
    """The image of this host's root without /usr, which is bound; named after what it holds."""
    content = host_tar()
    name = f"{REPOSITORY}:host-{hashlib.sha256(content).hexdigest()[:12]}"
    return _imported(engine, name, content, {})


def host_tar(root: Path = Path("/")) -> bytes:
    """The tar of an image whose /usr comes from outside: links into it, empty directories, some of /etc.

    The same files give the same octets. Raises NetworkError for a host that still has a /bin of its own.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _skeleton(tar, root)
    return buffer.getvalue()


def _skeleton(tar: tarfile.TarFile, root: Path) -> None:
    for name in _EMPTY:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
        tar.addfile(entry)
    for name in _ROOT_LINKS:
        path = root / name
        if path.is_symlink():
            tar.addfile(_link(name, os.readlink(path)))
        elif path.exists():
            raise NetworkError(f"{path} is no link into /usr: name an image instead of {HOST!r}")
    tar.addfile(_link("var/run", "/run"))
    for name in _ETC:
        _add(tar, root / "etc" / name, f"etc/{name}")


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def _add(tar: tarfile.TarFile, path: Path, name: str, deep: bool = True) -> None:
    if path.is_symlink():
        tar.addfile(_link(name, os.readlink(path)))
    elif path.is_dir():
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
        for below in sorted(path.iterdir()) if deep else ():
            _add(tar, below, f"{name}/{below.name}")
    elif path.is_file():
        content = path.read_bytes()
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), path.stat().st_mode & 0o755
        tar.addfile(entry, io.BytesIO(content))


def packages_image(engine: Engine, packages: Iterable[str] = PACKAGES) -> str:
    """The image of the files of installed Debian packages and of all they depend on. Raises NetworkError."""
    content = packages_tar(packages)
    name = f"{REPOSITORY}:packages-{hashlib.sha256(content).hexdigest()[:12]}"
    return _imported(engine, name, content, {})


def packages_tar(packages: Iterable[str]) -> bytes:
    """The tar of a root with the installed files of `packages` and of their dependencies, and some of /etc.

    The same files give the same octets. Raises NetworkError naming a package that is not installed.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _skeleton(tar, Path("/"))
        there = {".", *_EMPTY, *_ROOT_LINKS}
        elsewhere = tuple(f"{path}/" for path in (*_LEFT_OUT, *(f"etc/{name}" for name in _ETC)))
        for name in sorted({_unified(path) for path in _files(closure(packages))} - there):
            if not f"{name}/".startswith(elsewhere):
                _add(tar, Path("/") / name, name, deep=False)
    return buffer.getvalue()


def closure(packages: Iterable[str]) -> list[str]:
    """`packages` and all installed packages they depend on. Raises NetworkError for one not installed."""
    depends: dict[str, list[str]] = {}
    provides: dict[str, str] = {}
    for line in _dpkg_query("-W", "-f", "${Package}\t${Depends}, ${Pre-Depends}\t${Provides}\n").splitlines():
        name, needed, provided = line.split("\t")
        depends[name] = re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9.+-]+)", needed)
        provides |= dict.fromkeys(re.findall(r"(?:^|,) *([a-z0-9][a-z0-9.+-]+)", provided), name)
    found: set[str] = set()
    waiting = list(packages)
    missing = sorted(set(waiting) - set(depends))
    if missing:
        raise NetworkError(f"not installed: {', '.join(missing)}")
    while waiting:
        name = waiting.pop()
        name = name if name in depends else provides.get(name, name)
        if name in depends and name not in found:
            found.add(name)
            waiting += depends[name]
    return sorted(found)


def _files(packages: Iterable[str]) -> Iterable[str]:
    return (line for line in _dpkg_query("--listfiles", *packages).splitlines() if line.startswith("/"))


def _dpkg_query(*arguments: str) -> str:
    if shutil.which("dpkg-query") is None:
        raise NetworkError("dpkg-query is not installed: this host is no Debian")
    done = subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"dpkg-query: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _unified(path: str) -> str:
    """`path` without its slash, and with /usr before what packages still ship outside of it."""
    name = path.strip("/")
    return f"usr/{name}" if name.partition("/")[0] in _ROOT_LINKS else name


def _imported(engine: Engine, name: str, content: bytes, labels: Mapping[str, str]) -> str:
    try:
        asked(engine.api.inspect_image, name)
        return name
    except ImageNotFound:
        changes = [f"LABEL {key}={value}" for key, value in labels.items()]
        repository, tag = name.split(":")
        asked(engine.api.import_image_from_data, content, repository=repository, tag=tag, changes=changes)
    engine.image_labels(name)
    return name
