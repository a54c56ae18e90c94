"""Kept evidence decrypts: tshark needs nothing but the folder of keys beside the capture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.capture import keytables
from lab.capture.pcapng import section_comments

ROOT = Path(__file__).resolve().parent.parent


def tshark(evidence: Path, which: str, *fields: str) -> list[list[str]]:
    argv = ["tshark", "-r", str(evidence / "capture.pcapng"), "-Y", which, "-T", "fields"]
    done = subprocess.run(
        [*argv, *(part for field in fields for part in ("-e", field))],
        env={**os.environ, "WIRESHARK_CONFIG_DIR": str(evidence / "keys")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("pair", "version", "exchange"),
    [
        ("strongswan-strongswan", "ikev2", "35"),
        ("strongswan-strongswan", "ikev1-main", "32"),
        ("natt-strongswan", "ikev2", "35"),
        ("strongswan-natt", "ikev1-main", "32"),
        ("natt-natt", "manual", None),
    ],
)
def test_the_inner_packets_and_the_identities_are_shown(
    tmp_path: Path, pair: str, version: str, exchange: str | None
) -> None:
    cell = f"ENC-01[{pair}-one_nat-{version}]"
    arguments = ["run", cell, "--keep-evidence", "--reports", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from lab.cli import main; sys.exit(main())", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    evidence = tmp_path / f"latest/cells/ENC-01.{pair}-one_nat-{version}"
    esp = tshark(evidence, "esp", "frame.interface_name", "ip.src", "_ws.col.Protocol")
    assert {link for link, _, _ in esp} == {"lan", "wan"}
    assert all(addresses.split(",")[1] in ("10.10.0.1", "10.20.0.1") for _, addresses, _ in esp)
    assert {protocol for _, _, protocol in esp} == {"ICMP", "TCP"}
    assert tshark(evidence, "esp.icv_bad == 1", "frame.number") == []
    assert len(tshark(evidence, "esp.icv_good == 1", "frame.number")) == len(esp)
    if exchange is not None:
        named = tshark(evidence, f"isakmp.exchangetype == {exchange} && isakmp.id.type", "ip.src")
        # Wireshark chains the IVs of IKEv1 through the file: a copy on a second link breaks the chain.
        assert len(named) >= (4 if version == "ikev2" else 2)
    comments = tshark(evidence, "esp && frame.comment", "frame.comment")
    assert any("met: every one of the" in "".join(comment) for comment in comments)
    tables = keytables.extract(section_comments(evidence / "capture.pcapng"))
    for name, lines in tables.items():
        assert (evidence / "keys" / name).read_text().splitlines() == lines
    assert "esp_sa" in tables
