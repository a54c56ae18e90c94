"""Images that need no registry: this host's own files, or Debian packages. One layer each."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import ImageNotFound

from lab.net.errors import EngineError, NetworkError
from lab.nodes.container_node import PROJECT
from lab.nodes.engine import Engine, asked
from lab.nodes.places import HOST

DEBIAN = "debian"
REPOSITORY = "nattlab"
PYTHON_LABEL = "nattlab.python"
"""Label of an image: the Python in it that has what the natt peer needs (cryptography, scapy)."""

DEBIAN_PACKAGES = (
    "charon-systemd,libcharon-extra-plugins,libstrongswan-standard-plugins,libstrongswan-extra-plugins,"
    "iproute2,iptables,iputils-ping,python3,python3-cryptography,python3-scapy"
)
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
    """The image called `name`; ``host`` and ``debian`` are made on the spot if the engine lacks them.

    Raises EngineError, or ImageMissingError for any other name that the engine does not have.
    """
    if name == HOST:
        return Image(_host_image(engine), dict.fromkeys(_outermost(_host_directories()), "ro"))
    if name == DEBIAN:
        name = debian_image(engine)
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
    return buffer.getvalue()


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    if path.is_symlink():
        tar.addfile(_link(name, os.readlink(path)))
    elif path.is_dir():
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
        for below in sorted(path.iterdir()):
            _add(tar, below, f"{name}/{below.name}")
    elif path.is_file():
        content = path.read_bytes()
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))


def debian_image(engine: Engine) -> str:
    """An image of Debian packages, made with mmdebstrap from this host's own package sources."""
    name = f"{REPOSITORY}:debian-{hashlib.sha256(DEBIAN_PACKAGES.encode()).hexdigest()[:12]}"
    try:
        asked(engine.api.inspect_image, name)
        return name
    except ImageNotFound:
        return _imported(engine, name, debian_tar(), {PYTHON_LABEL: "/usr/bin/python3"})


def debian_tar() -> bytes:
    """The tar of a minimal Debian with DEBIAN_PACKAGES. Raises NetworkError with mmdebstrap's last words."""
    if shutil.which("mmdebstrap") is None:
        raise NetworkError("mmdebstrap is not installed (Debian package mmdebstrap)")
    sources = next(
        (
            path
            for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
            if os.path.exists(path)
        ),
        None,
    )
    if sources is None:
        raise NetworkError("this host has no package sources of Debian to make an image from")
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
    argv += ["--aptopt=APT::Install-Recommends false", f"--include={DEBIAN_PACKAGES}"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("man", "doc", "locale")]
    done = subprocess.run([*argv, _suite(), "-", sources], capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise NetworkError(f"mmdebstrap ended with {done.returncode} and said: {words[-1]}")
    return done.stdout


def _suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise NetworkError("/etc/os-release names no release of Debian")


def _imported(engine: Engine, name: str, content: bytes, labels: Mapping[str, str]) -> str:
    try:
        asked(engine.api.inspect_image, name)
        return name
    except ImageNotFound:
        changes = [f"LABEL {key}={value}" for key, value in labels.items()]
        repository, tag = name.split(":")
        asked(engine.api.import_image_from_data, content, repository=repository, tag=tag, changes=changes)
    if not asked(engine.api.images, name):
        raise EngineError(f"the engine took image {name} and does not have it")
    return name
