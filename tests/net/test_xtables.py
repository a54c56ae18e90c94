import fcntl
from pathlib import Path

import pytest

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.nat import NatConfig
from lab.net.rules import nat_rules
from lab.net.xtables import BACKENDS, default_backend, refusal, restore, xtables
from lab.wait import wait_until

RULES = nat_rules(NatConfig(inside=("lan",), outside="wan"))


@pytest.fixture
def namespace():
    with Namespace.create("nat") as made:
        yield made


def inhabitants(namespace: Namespace) -> int:
    count = 0
    for place in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            count += place.stat().st_ino == namespace.inode
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("POSTROUTING -o", "POSTROUTTING -o", "6, `-A POSTROUTTING -o wan -j MASQUERADE`"),
        ("*filter", "*filt", "8, `*filt`"),
        ("-p esp", "-p espy", "12, `-A FORWARD -p espy -j DROP`"),
    ],
)
def test_a_refused_rule_is_quoted(
    backend, old: str, new: str, line: str, namespace: Namespace, tmp_path: Path
):
    with pytest.raises(NetworkError) as caught:
        restore(namespace, RULES.replace(old, new), backend, tmp_path / "lock")
    assert str(caught.value).startswith(f"nat nat: iptables-{backend}-restore: refused line {line}: ")


def test_a_refusal_without_a_line_shows_all_rules():
    assert refusal("*nat\nCOMMIT\n", "Permission denied (you must be root)\n") == (
        "refused its rules: Permission denied (you must be root)\n*nat\nCOMMIT\n"
    )
    assert refusal("*nat\n", "line 9 failed").startswith("refused its rules: line 9 failed")


def test_a_missing_backend_names_the_package(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        NetworkError, match=r"iptables-nft-restore: No such file .*\(Debian package iptables\)"
    ):
        restore(namespace, RULES, "nft", tmp_path / "lock")
    with pytest.raises(NetworkError, match=r"no iptables backend .*legacy.*nft"):
        default_backend.__wrapped__()


def test_abandoning_ends_the_program(namespace: Namespace, tmp_path: Path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = xtables(namespace, RULES, "legacy", tmp_path / "lock")
        wait_until(lambda: inhabitants(namespace) == 1, "iptables-restore to wait for the lock")
        running.abandon()
    assert inhabitants(namespace) == 0
    running.abandon()


def test_the_default_backend_is_one_that_works(namespace: Namespace, tmp_path: Path):
    assert default_backend() in BACKENDS
    restore(namespace, RULES, default_backend(), tmp_path / "lock")
