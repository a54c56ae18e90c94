"""Kernels are found in the cache, or where a user says; else the mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.nodes.guest import kernels, kvm
from lab.nodes.guest.errors import GuestError
from lab.nodes.guest.kernels import QEMU, UML


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "nattlab").mkdir()
    return tmp_path / "nattlab"


def made(folder: Path, image: str, release: str) -> Path:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(b"MZ")
    (folder / "lib/modules" / release).mkdir(parents=True)
    return folder


def test_the_cache_has_what_was_unpacked_into_it(cache: Path) -> None:
    assert kernels.fetched("debian") is None
    folder = made(cache / "kernel-debian-6.1.1-1", "boot/vmlinuz-6.1.0-1-amd64", "6.1.0-1-amd64")
    found = kernels.fetched("debian")
    assert found is not None
    assert (found.kind, found.release, found.base) == (QEMU, "6.1.0-1-amd64", folder)
    assert found.image.name == "vmlinuz-6.1.0-1-amd64"


def test_a_cached_folder_without_an_image_is_named(cache: Path) -> None:
    (cache / "kernel-uml-6.1").mkdir()
    with pytest.raises(GuestError, match=r"kernel-uml-6\.1 has no kernel image"):
        kernels.resolve("uml")


@pytest.mark.parametrize(("refusal", "best"), [("", "debian"), ("emulated", "uml")])
def test_qemu_comes_first_with_kvm_only(
    cache: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, best: str
) -> None:
    monkeypatch.setattr(kvm, "refusal", lambda: refusal)
    made(cache / "kernel-debian-1", "boot/vmlinuz-1", "1")
    made(cache / "kernel-uml-1", "usr/bin/linux.uml", "1")
    assert kernels.best().name == best


def test_without_any_kernel_it_is_said_how_to_get_one(cache: Path) -> None:
    with pytest.raises(GuestError, match="scripts/setup guest"):
        kernels.best()


def test_an_image_finds_its_modules_above_it(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "boot/vmlinuz-6.9.1", "6.9.1")
    found = kernels.resolve(str(root / "boot/vmlinuz-6.9.1"))
    assert (found.kind, found.base, found.release) == (QEMU, root, "6.9.1")


@pytest.mark.parametrize("named", ["modules", "modules/lib/modules/6.9.1"])
def test_modules_may_be_named(tmp_path: Path, named: str) -> None:
    made(tmp_path / "modules", "unused", "6.9.1")
    (tmp_path / "image").write_bytes(b"\x7fELF")
    found = kernels.resolve(f"{tmp_path}/image:{tmp_path}/{named}")
    assert (found.kind, found.base, found.release) == (UML, tmp_path / "modules", "6.9.1")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        GuestError, match=r"--kernel debain: debian, uml, or an image: there is no file /.*debain"
    ):
        kernels.resolve("debain")
    (tmp_path / "image").write_bytes(b"MZ")
    with pytest.raises(GuestError, match="no lib/modules above it"):
        kernels.resolve(str(tmp_path / "image"))
    with pytest.raises(GuestError, match="one release of modules is wanted"):
        kernels.resolve(f"{tmp_path}/image:{tmp_path}")
    for release in ("1", "2"):
        (tmp_path / "lib/modules" / release).mkdir(parents=True)
    with pytest.raises(GuestError, match=r"has 1, 2$"):
        kernels.resolve(f"{tmp_path}/image:{tmp_path}")
