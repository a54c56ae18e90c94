"""One cell of a run as one archive: results, topology, scenario, configurations, captures, with hashes.

The archive is a zip file with a manifest. Bundles come from strangers, so nothing of one is believed: names,
sizes and hashes are checked before anything is used, and nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from lab.errors import MisuseError
from lab.report.fields import FieldError, build
from lab.report.results import FILE, Result, ResultsError, Run

SUFFIX = ".nattlab.zip"
MANIFEST = "manifest.json"
FORMAT = "nattlab-bundle"
VERSION = 1
MOST_FILES = 5000
LARGEST_MANIFEST = 4 << 20
LARGEST_DIRECTORY = 4 << 20
"""Octets of the zip file's list of members."""
LARGEST_BUNDLE = 1 << 30
"""Octets of all files together, unpacked."""
_NAME = re.compile(r"[\w@+,=-][\w.@+,=-]*(/[\w@+,=-][\w.@+,=-]*){0,8}", re.ASCII)
_CELL = re.compile(r"[A-Z]+[A-Z0-9]*-\d+\[[\w.@+,-]+\]", re.ASCII)
_END_OF_DIRECTORY, _END_LENGTH = b"PK\x05\x06", 22
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error)
"""What zipfile raises for archives that are damaged, encrypted or packed by methods it does not know."""


class BundleError(MisuseError):
    """An archive is no bundle, or not a sound one; the text names it and what is wrong."""


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of a file."""

    size: int
    sha256: str
    """64 hexadecimal digits."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds."""

    format: str
    format_version: int
    created: str
    """UTC time, ISO 8601."""
    nattlab: str
    """Version of the lab that wrote it."""
    cell: str
    topology: str
    """Name of the topology's file in the bundle."""
    scenario: str
    """Name of the scenario's source in the bundle; empty where it was not found."""
    files: Mapping[str, FileEntry]
    """All files but the manifest."""


def write_bundle(
    path: Path, run: Run, result: Result, report: Path, topology: Path, scenario: Path | None, created: str
) -> Manifest:
    """Write the bundle of one cell of `run`, whose report lies in `report`; returns its manifest.

    `topology` and `scenario` are files of the project. Raises BundleError where there is no evidence or the
    file cannot be written.
    """
    files, kept = _evidence(result, report)
    if not files:
        raise BundleError(
            f"no evidence of {result.cell} was kept: {result.rerun} --keep-evidence, then again"
        )
    files[f"topology/{topology.name}"] = topology.read_bytes()
    if scenario is not None:
        files[f"scenario/{scenario.name}"] = scenario.read_bytes()
    files[FILE] = replace(run, errors=(), results=(kept,)).as_json().encode()
    if sum(map(len, files.values())) > LARGEST_BUNDLE or len(files) > MOST_FILES:
        raise BundleError(f"evidence of {result.cell} is more than a bundle takes: {len(files)} files")
    unfit = [name for name in files if not _NAME.fullmatch(name)]
    if unfit:
        raise BundleError(f"{unfit[0]!r}: a name that bundles do not take")
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    manifest = Manifest(
        format=FORMAT,
        format_version=VERSION,
        created=created,
        nattlab=run.nattlab,
        cell=result.cell,
        topology=f"topology/{topology.name}",
        scenario=f"scenario/{scenario.name}" if scenario is not None else "",
        files=dict(sorted(entries.items())),
    )
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_member(MANIFEST), json.dumps(asdict(manifest), indent=1) + "\n")
            for name, data in sorted(files.items()):
                archive.writestr(_member(name), data)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    return manifest


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _evidence(result: Result, report: Path) -> tuple[dict[str, bytes], Result]:
    """The files of all attempts by their names in the bundle, and the result with the new folders."""
    files: dict[str, bytes] = {}
    attempts = []
    renamed = {"": ""}
    for number, attempt in enumerate(result.attempts, 1):
        folder = report / attempt.evidence
        if attempt.evidence and folder.is_dir():
            renamed[attempt.evidence] = f"evidence/{number}"
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    files[f"evidence/{number}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()
        attempts.append(replace(attempt, evidence=renamed.get(attempt.evidence, "")))
    return files, replace(result, attempts=tuple(attempts), evidence=renamed.get(result.evidence, ""))


class Bundle:
    """A bundle whose every file was found as its manifest says."""

    def __init__(self, path: Path, manifest: Manifest, run: Run) -> None:
        self.path = path
        self.manifest = manifest
        self.run = run

    @property
    def result(self) -> Result:
        """The result of its cell."""
        return self.run.results[0]

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Check the bundle at `path` from end to end. Raises BundleError."""
        try:
            _check_directory(path)
            with zipfile.ZipFile(path) as archive:
                manifest = _manifest(archive, path)
                results = b""
                for name, entry in manifest.files.items():
                    for chunk in _checked(archive, name, entry, path):
                        results += chunk if name == FILE else b""
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error
        except _BROKEN_ZIP as error:
            raise BundleError(f"{path}: no bundle of nattlab, or a damaged one ({error})") from error
        try:
            run = Run.from_json(results.decode(), f"{path}: {FILE}")
        except (ResultsError, UnicodeDecodeError) as error:
            raise BundleError(str(error)) from error
        if [result.cell for result in run.results] != [manifest.cell]:
            raise BundleError(f"{path}: {FILE} is not about {manifest.cell}")
        return cls(path, manifest, run)

    def extract(self, folder: Path) -> None:
        """Write every file below the empty `folder`, checking each once more."""
        with zipfile.ZipFile(self.path) as archive:
            for name, entry in self.manifest.files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    for chunk in _checked(archive, name, entry, self.path):
                        file.write(chunk)

    def read(self, name: str) -> bytes:
        """The octets of one file of it; KeyError where it has none of that name."""
        with zipfile.ZipFile(self.path) as archive:
            return b"".join(_checked(archive, name, self.manifest.files[name], self.path))


def _check_directory(path: Path) -> None:
    """Refuse a list of members that is too long before anything reads it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_LENGTH - 0xFFFF))
        tail = file.read()
    at = tail.rfind(_END_OF_DIRECTORY)
    if at < 0 or len(tail) - at < _END_LENGTH:
        raise BundleError(f"{path}: no bundle of nattlab (no zip file)")
    count, length = struct.unpack_from("<HL", tail, at + 10)
    if count > MOST_FILES + 1 or length > LARGEST_DIRECTORY:
        raise BundleError(f"{path}: {count} files; a bundle has at most {MOST_FILES}")


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or len(names) > MOST_FILES + 1:
        raise BundleError(f"{path}: a file is in it twice, or more than {MOST_FILES} are")
    if MANIFEST not in names:
        raise BundleError(f"{path}: no bundle of nattlab (no {MANIFEST})")
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not _NAME.fullmatch(member.filename) or kind not in (0, stat.S_IFREG):
            raise BundleError(f"{path}: {member.filename!r} is no file a bundle may hold")
    with archive.open(MANIFEST) as file:
        text = file.read(LARGEST_MANIFEST + 1)
    if len(text) > LARGEST_MANIFEST:
        raise BundleError(f"{path}: {MANIFEST} is longer than {LARGEST_MANIFEST} octets")
    try:
        loaded = json.loads(text)
        if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
            raise BundleError(f'{path}: {MANIFEST}: "format" is not "{FORMAT}"')
        if loaded.get("format_version") != VERSION:
            version = loaded.get("format_version")
            raise BundleError(f"{path}: {MANIFEST}: format_version {version!r}; this nattlab reads {VERSION}")
        manifest = build(Manifest, loaded)
    except (FieldError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST}: {error}") from error
    _check_manifest(manifest, set(names), path)
    return manifest


def _check_manifest(manifest: Manifest, names: set[str], path: Path) -> None:
    listed = set(manifest.files)
    if listed != names - {MANIFEST}:
        odd = sorted(listed ^ (names - {MANIFEST}))[0]
        raise BundleError(f"{path}: {odd} is in the archive or in the manifest, but not in both")
    if not _CELL.fullmatch(manifest.cell):
        raise BundleError(f"{path}: {MANIFEST}: cell: {manifest.cell!r} is no name of a cell")
    for field, name in (("topology", manifest.topology), ("scenario", manifest.scenario), ("files", FILE)):
        if name and name not in listed:
            raise BundleError(f"{path}: {MANIFEST}: {field}: {name!r} is not in it")
    if sum(max(0, entry.size) for entry in manifest.files.values()) > LARGEST_BUNDLE:
        raise BundleError(f"{path}: larger than {LARGEST_BUNDLE >> 20} MiB when unpacked")


def _checked(archive: zipfile.ZipFile, name: str, entry: FileEntry, path: Path) -> Iterator[bytes]:
    """The octets of a file in pieces; BundleError after the last one if they are not what they should be."""
    digest, left = hashlib.sha256(), entry.size
    with archive.open(name) as file:
        for chunk in _pieces(file):
            left -= len(chunk)
            if left < 0:
                raise BundleError(f"{path}: {name} is longer than the {entry.size} octets of the manifest")
            digest.update(chunk)
            yield chunk
    if left or digest.hexdigest() != entry.sha256:
        raise BundleError(f"{path}: {name} is not what the manifest says: the bundle was changed or damaged")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
