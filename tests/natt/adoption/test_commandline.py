"""The command line of `nattd run`, read in haste and by argparse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.natt.adoption import commandline
from lab.natt.adoption.commandline import Arguments, read_arguments

OPTIONS = "--device --address=10.0.0.1/8 --profile --profile=netbsd --control= --record --pfkey -- - -x -1 -h"
VALUES = "linux freebsd11 tun7 a=b --help --dev --device=tun7 iked -F"


@given(st.lists(st.sampled_from([*OPTIONS.split(), *VALUES.split(), "", "--device=a b"]), max_size=8))
def test_haste_reads_nothing_else_than_argparse(words: list[str]) -> None:
    hasty = commandline._plain(words)
    # A "--" that is an argument of the program is lost by argparse.
    if hasty is not None and "--" not in hasty.arguments:
        assert hasty == Arguments(**vars(commandline._parser().parse_args(words)))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("iked -d --device x", Arguments("iked", ["-d", "--device", "x"], [])),
        ("-- racoon -F", Arguments("racoon", ["-F"], [])),
        (
            "--device=tun7 --address fd00::1/64 --address 10.0.0.1/8 --profile netbsd --record r -- sh -c id",
            Arguments("sh", ["-c", "id"], ["fd00::1/64", "10.0.0.1/8"], "tun7", "netbsd", record="r"),
        ),
        ("--control c --pfkey p a -- b", Arguments("a", ["--", "b"], [], control="c", pfkey="p")),
    ],
)
def test_what_is_usual_is_read_in_haste(words: str, arguments: Arguments) -> None:
    assert commandline._plain(words.split()) == read_arguments(words.split()) == arguments


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "the following arguments are required: PROGRAM, ARGUMENT"),
        ("--device", "--device: expected one argument"),
        ("--profile plan9 -- iked", "--profile: invalid choice: 'plan9'"),
        ("--nonsense 1 -- iked", "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_words(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_arguments(words.split())
    assert complaint in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read_arguments(["--help"])
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name in commandline._OPTIONS)
