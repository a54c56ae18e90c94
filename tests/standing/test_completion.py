"""What the Tab key offers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lab.cli import SUBCOMMANDS
from lab.commands.completers import versions
from lab.net import topology_file
from lab.net.behaviour import PRESETS
from lab.peers.registry import PEERS
from lab.scenario import catalogue
from lab.standing.nat_verbs import BLOCKS, VERBS

NATTLAB = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]


def beginning(start: str, words: Iterable[str]) -> set[str]:
    """Those of `words` that begin with `start`; at least one does."""
    found = {word for word in words if word.startswith(start)}
    assert found
    return found


def offered(line: str, tmp_path: Path, argv: list[str]) -> list[str]:
    """The completions of the last word of `line`, by argcomplete's protocol."""
    answers = tmp_path / "answers"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    answers.touch()
    subprocess.run(argv, env=environment, timeout=60, check=True, stdin=subprocess.DEVNULL)
    return answers.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("nattlab ", set(SUBCOMMANDS)),
        ("nattlab ca", beginning("ca", SUBCOMMANDS)),
        ("nattlab up both", beginning("both", topology_file.names())),
        ("nattlab up one_nat --left s", beginning("s", PEERS)),
        ("nattlab up one_nat --nat sym", beginning("sym", PRESETS)),
        ("nattlab up one_nat --nat marker", beginning("marker", PRESETS)),
        ("nattlab up nested --nat home,full", {f"home,{kind}" for kind in beginning("full", PRESETS)}),
        ("nattlab up one_nat --version ikev1-", beginning("ikev1-", versions())),
        ("nattlab run ENC-0", beginning("ENC-0", catalogue())),
        ("nattlab run --topology one_nat66", beginning("one_nat66", topology_file.names())),
        ("nattlab run TOP-02[natt-natt-one_nat-m", {"TOP-02[natt-natt-one_nat-manual]"}),
        ("nattlab topology two_c", beginning("two_c", topology_file.names())),
        ("nattlab nat for", beginning("for", VERBS)),
        ("nattlab nat block udp", beginning("udp", BLOCKS)),
        ("nattlab nat hairpin o", {"on", "off"}),
    ],
)
def test_words_are_completed(line: str, wanted: set[str], tmp_path: Path) -> None:
    found = {word.strip().replace("\\", "") for word in offered(line, tmp_path, NATTLAB)}
    assert wanted <= found
    if not line.endswith(" "):
        assert found == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("nattlab down one", {"one_nat"}),
        ("nattlab exec ", {"left", "nat", "right"}),
        ("nattlab shell --name one_nat ri", {"right"}),
        ("nattlab ls on", {"one_nat"}),
        ("nattlab capture --name on", {"one_nat"}),
        ("nattlab nat forget n", {"nat"}),
    ],
)
def test_names_of_what_stands_are_completed(
    line: str, wanted: set[str], tmp_path: Path, standing: Any
) -> None:
    found = {word.strip() for word in offered(line, tmp_path, standing.argv())}
    assert wanted <= found


def test_zsh_has_its_own_script() -> None:
    done = subprocess.run([*NATTLAB, "completion", "zsh"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("autoload -U compinit")
    assert "compdef _python_argcomplete nattlab" in done.stdout


def test_the_tab_key_of_bash_completes(tmp_path: Path, terminal: Any) -> None:
    command = tmp_path / "nattlab"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(NATTLAB)} "$@"\n')
    command.chmod(0o755)
    start = tmp_path / "rc"
    start.write_text('PS1="ready> "\neval "$(nattlab completion bash)"\n')
    path = f"{tmp_path}:{os.environ['PATH']}"
    with terminal(["bash", "--noprofile", "--rcfile", str(start), "-i"], PATH=path) as bash:
        bash.until("ready> ")
        bash.type("echo : nattlab up one_nat --nat\n")
        bash.until("ready> ")
        bash.type("nattlab topo\t")
        bash.until("topology ")
        bash.type("both_b\t")
        bash.until("both_behind_nat ")
        bash.type("\n")
        bash.until("ready> ")
        bash.type("exit\n")
        assert bash.end() == 0
