"""Peers that live in images: another release of one the lab drives, and one that it knows nothing of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.net.errors import NetworkError
from lab.nodes import images
from lab.nodes.engine import Engine
from lab.peers.image_peer import declared, shell
from lab.peers.peer import Connection, UnsupportedError

ROOT = Path(__file__).parents[2]
PRODUCT = Path(__file__).parent / "product"
NATTLAB = [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())"]


@pytest.fixture(scope="session")
def packages(engine: Engine) -> str:
    return images.packages_image(engine)


@pytest.fixture(scope="session")
def product(engine: Engine, packages: str) -> str:
    tag = "nattlab-test:product"
    _, log = engine.client.images.build(
        path=str(PRODUCT), tag=tag, buildargs={"BASE": packages}, network_mode="none"
    )
    list(log)
    return tag


def run(reports: Path, *arguments: str) -> dict[str, dict]:
    done = subprocess.run(
        [*NATTLAB, "run", "-n", "2", "--reports", str(reports), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    results = reports / "latest/results.json"
    assert results.exists(), done.stdout + done.stderr
    return {each["cell"]: each for each in json.loads(results.read_text())["results"]}


def test_another_release_of_a_peer_is_an_image(packages: str, tmp_path: Path):
    cells = run(tmp_path, "ENC-01", "--topology=one_nat", "--version=ikev2", f"--peer=strongswan={packages}")
    verdicts = {(each["left"], each["right"]): each["verdict"] for each in cells.values()}
    for pair in (("natt", "strongswan"), ("strongswan", "natt"), ("strongswan", "strongswan")):
        assert verdicts[pair] == "passed"
    assert all(f"--peer=strongswan={packages}" in each["rerun"] for each in cells.values())
    report = (tmp_path / "latest/junit.xml").read_text()
    assert packages in report


def test_an_unknown_peer_joins_the_matrix_by_its_contract(product: str, tmp_path: Path):
    cells = run(tmp_path, "ENC-01", "KA-01", "--topology=one_nat", f"--peer=product={product}")
    verdicts = {name: each["verdict"] for name, each in cells.items()}
    for scenario in ("ENC-01", "KA-01"):
        for pair in ("natt-product", "product-natt", "strongswan-product", "product-strongswan"):
            for version in ("ikev1-main", "ikev2"):
                assert verdicts[f"{scenario}[{pair}-one_nat-{version}]"] == "passed", cells
    refused = cells["ENC-01[product-strongswan-one_nat-ikev1-aggressive]"]
    assert refused["verdict"] == "unsupported"
    assert "aggressive mode with a pre-shared key is not offered" in refused["reason"]


def test_a_peer_that_needs_more_privileges_than_containers_have_says_so(engine: Engine, tmp_path: Path):
    (cell,) = run(tmp_path, "ENC-01[openiked+natt-natt-one_nat-ikev2]", "--nodes=container").values()
    assert cell["verdict"] == "unsupported"
    assert "CAP_SYS_PTRACE" in cell["reason"]


def test_an_image_that_declares_nothing_is_refused(packages: str, tmp_path: Path):
    done = subprocess.run(
        [*NATTLAB, "run", "ENC-01", f"--peer=daemon={packages}", "--reports", str(tmp_path), "-n", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode not in (0, 1)
    assert "has no label nattlab.versions" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_labels_become_capabilities():
    labels = {"nattlab.versions": "ikev2, ikev1-main", "nattlab.esp": "aes-gcm-16", "nattlab.needs": "TUN"}
    peer = declared("daemon", "daemon:1", labels)
    assert peer.name == "daemon"
    assert peer.capabilities.versions == {"ikev1-main", "ikev2"}
    assert peer.needs(Connection("ikev2")) == ("TUN",)
    assert peer.release() == "daemon:1"
    peer.check(Connection("ikev2"))
    with pytest.raises(UnsupportedError, match="daemon: mode transport"):
        peer.check(Connection("ikev2", mode="transport"))
    with pytest.raises(ValueError, match=r"image daemon:1: nattlab\.versions: 'ikev3' is none of"):
        declared("daemon", "daemon:1", {"nattlab.versions": "ikev3"})


def test_the_connection_for_a_shell():
    text = shell({"mobike": True, "secret": "it's", "local": {"protects": ["10.0.0.1/32", "10.0.0.2/32"]}})
    assert text == "mobike=true\nsecret='it'\"'\"'s'\nlocal_protects='10.0.0.1/32 10.0.0.2/32'\n"
    said = subprocess.run(["sh", "-c", f"{text}echo $secret $local_protects"], capture_output=True, text=True)
    assert said.stdout == "it's 10.0.0.1/32 10.0.0.2/32\n"


def test_packages_bring_what_they_depend_on():
    assert {"libc6", "libstrongswan", "charon-systemd"} <= set(images.closure(["charon-systemd"]))
    with pytest.raises(NetworkError, match="not installed: nonesuch"):
        images.closure(["nonesuch", "dash"])
