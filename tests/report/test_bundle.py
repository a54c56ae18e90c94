from __future__ import annotations

import json
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.report import bundle as module
from lab.report.bundle import Bundle, BundleError, write_bundle
from lab.report.verdict import Verdict
from tests.commands.bundles import CREATED, bundle, edited, remade, report
from tests.report.runs import cell

Files = dict[str, bytes]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return bundle(tmp_path / "good.zip", tmp_path / "report", Verdict.FAILED, Verdict.FAILED)


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_both_attempts_are_in_it_with_topology_results_and_hashes(good: Path, tmp_path: Path) -> None:
    opened = Bundle.open(good)
    assert set(opened.manifest.files) == {
        "evidence/1/capture.pcapng",
        "evidence/1/left/charon.log",
        "evidence/2/capture.pcapng",
        "evidence/2/left/charon.log",
        "results.json",
        "topology/one_nat.yaml",
    }
    assert (opened.result.cell, opened.run.seed, opened.manifest.created) == (cell(1), 7, CREATED)
    assert [attempt.evidence for attempt in opened.result.attempts] == ["evidence/1", "evidence/2"]
    opened.extract(tmp_path / "out")
    assert (tmp_path / "out/evidence/2/left/charon.log").read_text() == "failed\n"
    assert (tmp_path / "out/topology/one_nat.yaml").read_bytes() == topology_file.file_of(
        "one_nat"
    ).read_bytes()


def test_the_same_evidence_makes_the_same_archive(good: Path, tmp_path: Path) -> None:
    again = bundle(tmp_path / "again.zip", tmp_path / "again", Verdict.FAILED, Verdict.FAILED)
    assert again.read_bytes() == good.read_bytes()


def test_without_evidence_there_is_no_bundle(tmp_path: Path) -> None:
    whole, made = report(tmp_path / "report", Verdict.PASSED)
    bare = replace(made, attempts=tuple(replace(each, evidence="") for each in made.attempts))
    with pytest.raises(
        BundleError, match=r"no evidence of ENC-01.* was kept: nattlab run .* --keep-evidence"
    ):
        write_bundle(
            tmp_path / "x.zip",
            whole,
            bare,
            tmp_path / "report",
            topology_file.file_of("one_nat"),
            None,
            CREATED,
        )


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    whole, made = report(tmp_path / "report", Verdict.PASSED)
    file = topology_file.file_of("one_nat")
    with pytest.raises(BundleError, match="No such file"):
        write_bundle(tmp_path / "no/x.zip", whole, made, tmp_path / "report", file, None, CREATED)


@pytest.mark.parametrize(
    "name",
    [
        "../escape",
        "/etc/cron.d/x",
        "a/../../b",
        "a//b",
        "./a",
        "a\\..\\b",
        "C:/x",
        ".hidden",
        "a/.b",
        "a b",
        "ä",
    ],
)
def test_names_that_lead_elsewhere_are_refused(good: Path, tmp_path: Path, name: str) -> None:
    bad = remade(good, tmp_path / "bad.zip", lambda files: files.update({name: b"x"}))
    assert "is no file a bundle may hold" in refused(bad)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFIFO])
def test_links_and_devices_are_refused(good: Path, tmp_path: Path, kind: int) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for member in source.infolist():
            if member.filename == "evidence/1/left/charon.log":
                member.external_attr = (kind | 0o777) << 16
            target.writestr(member, source.read(member.filename))
    assert refused(bad) == "'evidence/1/left/charon.log' is no file a bundle may hold"


def drop(name: str) -> Callable[[Files], object]:
    return lambda files: files.pop(name)


def put(name: str, data: bytes) -> Callable[[Files], object]:
    return lambda files: files.update({name: data})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            put("evidence/1/left/charon.log", b"passed"),
            "evidence/1/left/charon.log is not what the manifest says",
        ),
        (
            put("evidence/1/left/charon.log", b"f" * 99),
            "evidence/1/left/charon.log is longer than the 7 octets",
        ),
        (put("evidence/1/left/charon.log", b""), "evidence/1/left/charon.log is not what the manifest says"),
        (
            put("evidence/1/extra", b""),
            "evidence/1/extra is in the archive or in the manifest, but not in both",
        ),
        (drop("evidence/1/capture.pcapng"), "evidence/1/capture.pcapng is in the archive or in the manifest"),
        (drop("manifest.json"), "no bundle of nattlab (no manifest.json)"),
        (put("manifest.json", b"{"), "manifest.json: Expecting property name"),
        (put("manifest.json", b"[" * 100_000), "manifest.json: "),
        (put("manifest.json", b"[]"), 'manifest.json: "format" is not "nattlab-bundle"'),
        (edited("manifest.json", format_version=2), "manifest.json: format_version 2; this nattlab reads 1"),
        (edited("manifest.json", cell="../x"), "manifest.json: cell: '../x' is no name of a cell"),
        (edited("manifest.json", topology="../x"), "manifest.json: topology: '../x' is not in it"),
        (edited("manifest.json", files=[]), "manifest.json: files: want an object, got []"),
        (
            edited("manifest.json", files={"results.json": {"size": "1"}}),
            "manifest.json: files.results.json.size: want",
        ),
    ],
)
def test_what_does_not_fit_its_manifest_is_refused(
    good: Path, tmp_path: Path, change: Callable[[Files], object], said: str
) -> None:
    bad = remade(good, tmp_path / "bad.zip", change, sound=False)
    assert refused(bad).startswith(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited("results.json", results=[]), "results.json is not about ENC-01["),
        (put("results.json", b"\xff"), ""),
        (edited("results.json", seed="x"), "results.json: seed: want a whole number"),
        (drop("results.json"), "manifest.json: files: 'results.json' is not in it"),
        (drop("topology/one_nat.yaml"), "manifest.json: topology: 'topology/one_nat.yaml' is not in it"),
    ],
)
def test_results_are_read_with_care(
    good: Path, tmp_path: Path, change: Callable[[Files], object], said: str
) -> None:
    bad = remade(good, tmp_path / "bad.zip", change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bad)
    assert said in str(caught.value)


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = remade(good, tmp_path / "bomb.zip", put("evidence/1/zeros", bytes(2 << 20)))
    assert bomb.stat().st_size < 1 << 17
    monkeypatch.setattr(module, "LARGEST_BUNDLE", 1 << 20)
    assert refused(bomb) == "larger than 1 MiB when unpacked"

    def lie(files: Files) -> None:
        manifest = json.loads(files["manifest.json"])
        manifest["files"]["evidence/1/zeros"] = {"size": 10, "sha256": "0" * 64}
        files["manifest.json"] = json.dumps(manifest).encode()
        files["evidence/1/zeros"] = bytes(2 << 20)

    liar = remade(good, tmp_path / "liar.zip", lie, sound=False)
    assert refused(liar) == "evidence/1/zeros is longer than the 10 octets of the manifest"


def test_a_long_manifest_and_many_files_are_refused(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_MANIFEST", 1000)
    assert refused(good) == "manifest.json is longer than 1000 octets"
    monkeypatch.setattr(module, "MOST_FILES", 3)
    assert refused(good) == "7 files; a bundle has at most 3"
    at = good.read_bytes().rfind(b"PK\x05\x06")
    lying = bytearray(good.read_bytes())
    struct.pack_into("<L", lying, at + 12, 1 << 30)
    (tmp_path / "lying.zip").write_bytes(lying)
    assert "files; a bundle has at most" in refused(tmp_path / "lying.zip")


def test_the_same_name_twice_is_refused(good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(good.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("results.json", "{}")
    assert refused(bad).startswith("a file is in it twice")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip file at all" * 10, b"PK\x05\x06" + bytes(10)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    assert refused(path).startswith("no bundle of nattlab")


def test_damage_anywhere_is_an_error_and_never_a_traceback(good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    path = tmp_path / "damaged.zip"
    for at in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            opened = Bundle.open(path)
        except BundleError:
            continue
        # Some octets of a zip file mean nothing: times, versions, comments.
        assert opened.manifest == Bundle.open(good).manifest
    for length in range(0, len(whole), 101):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.zip") == "No such file or directory"
