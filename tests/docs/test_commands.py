"""Every command of the documentation is run, in order, a page in a sandbox; what is shown must come."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.cli import SUBCOMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^>]*) -->\n)?^(?P<indent> *)```(?P<kind>[\w-]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.M | re.S,
)
LONGEST = 300.0
"""Seconds that one command may take."""


@dataclass
class Command:
    """A command of a console block, what is shown below it, and how it ends."""

    text: str
    shown: list[str] = field(default_factory=list)
    status: int = 0


@dataclass(frozen=True)
class File:
    """A file that a page asks to be written."""

    name: str
    text: str


def steps(page: str) -> list[Command | File]:
    """What a page has its reader do."""
    found: list[Command | File] = []
    for fence in FENCE.finditer(page):
        note, body = fence["note"] or "", fence["body"]
        if note.startswith("file: "):
            found.append(File(note.removeprefix("file: "), body))
        if fence["kind"] != "console":
            continue
        commands: list[Command] = []
        for line in body.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line.removeprefix("$ ")))
            elif line == ">" or line.startswith("> "):
                commands[-1].text += "\n" + line[2:]
            else:
                commands[-1].shown.append(line)
        if note.startswith("exits "):
            commands[-1].status = int(note.removeprefix("exits "))
        found += commands
    return found


def pattern(shown: list[str]) -> re.Pattern[str]:
    """Lines as shown: ``…`` is any text, alone on a line any lines; a blank is any run of blanks.

    Empty lines are left out.
    """
    lines = []
    for line in filter(str.strip, shown):
        if line == "…":
            lines.append(r"(?:.*\n)*")
        else:
            words = [".*".join(map(re.escape, word.split("…"))) for word in line.split()]
            lines.append(r"[ \t]*" + r"[ \t]*".join(words) + r"[ \t]*\n")
    return re.compile("".join(lines))


class Shell:
    """A bash with a /run of its own in `folder`, fed a command at a time."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        # A lab stands on when its maker ends: whoever kills this test ends the shell, and that ends the labs.
        script = (
            "mount -t tmpfs tmpfs /run && bash --noprofile --norc; "
            "for keeper in /run/nattlab/*/keeper; do test -e $keeper && kill -9 $(cat $keeper); done"
        )
        self._bash = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and output of one command, with errors where a terminal would show them."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        mark = f"@@{time.monotonic_ns()}@@"
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\necho {mark}$?\n".encode())
        self._bash.stdin.flush()
        said, end = b"", time.monotonic() + LONGEST
        while not (found := re.search(rf"{mark}(\d+)\n$", said.decode(errors="replace"))):
            ready, _, _ = select.select([self._bash.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{command}: no end after {LONGEST:g} s; it said: {said.decode(errors='replace')}"
            octets = os.read(self._bash.stdout.fileno(), 65536)
            assert octets, f"{command}: ended the shell; it said: {said.decode(errors='replace')}"
            said += octets
        return int(found[1]), said.decode(errors="replace")[: found.start()]

    def close(self) -> None:
        try:
            self._bash.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
            self._bash.communicate()


def write_scripts(folder: Path) -> None:
    """The project's commands, of whatever checkout PYTHONPATH names."""
    folder.mkdir()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in declared.items():
        module, _, function = target.partition(":")
        script = folder / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        script.chmod(0o755)


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """In a checkout with the virtual environment of the tests, unless the page makes its own."""
    page = (DOCS / request.node.callspec.params["name"]).read_text()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))
    }
    environment |= {"REPOSITORY": str(ROOT), "TERM": "dumb"}
    folder = tmp_path
    if "git clone" not in page:
        folder = tmp_path / "nattlab"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    if "make setup" not in page:
        scripts = tmp_path / "bin"
        write_scripts(scripts)
        environment |= {
            "PYTHONPATH": str(folder),
            "PATH": f"{scripts}:{sys.prefix}/bin:{environment['PATH']}",
        }
    opened = Shell(folder, environment)
    try:
        yield opened
    finally:
        opened.run("nattlab down --all")
        opened.close()


@pytest.mark.parametrize("name", [name for name in PAGES if steps((DOCS / name).read_text())])
def test_each_command_of_a_page_does_what_is_shown(name: str, shell: Shell) -> None:
    if name == "containers.md" and shutil.which("dockerd") is None:
        pytest.skip("unavailable here: dockerd; `scripts/setup engine` installs it")
    for step in steps((DOCS / name).read_text()):
        if isinstance(step, File):
            status, said = shell.run(f"cat >'{step.name}' <<'END OF FILE'\n{step.text}END OF FILE")
            assert status == 0, said
            continue
        status, said = shell.run(step.text)
        lines = "".join(f"{line}\n" for line in said.splitlines() if line.strip())
        if status != step.status or (step.shown and not pattern(step.shown).fullmatch(lines)):
            shown = "\n".join(step.shown)
            pytest.fail(
                f"$ {step.text}\nends with {status} and prints\n{said}\nwhere is shown\n{shown}", False
            )


@pytest.mark.parametrize("name", PAGES)
def test_no_command_hides_in_another_kind_of_block(name: str) -> None:
    kinds = {fence["kind"] for fence in FENCE.finditer((DOCS / name).read_text())}
    assert kinds <= {"console", "text", "python", "yaml", "toml", ""}


@pytest.mark.parametrize("name", [*PAGES, "../README.md"])
def test_commands_in_the_text_exist(name: str) -> None:
    for word in re.findall(r"`nattlab ([a-z]+)", (DOCS / name).read_text()):
        assert word in SUBCOMMANDS, f"{name} speaks of nattlab {word}"
