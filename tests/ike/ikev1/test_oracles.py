"""Our messages as Wireshark and lab.capture understand them: they share no code with ours."""

import shutil
import subprocess

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap

from lab.capture.ikemessage import IkeMessage
from lab.ike.ikev1.suites import AES128, AES256, TRIPLE_DES, Phase1Suite
from lab.ike.keys import IKEV1_TABLE, ikev1_line
from lab.ike.versions import by_name

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def dissected(played, path, *fields):
    """tshark's fields of each datagram, with our phase 1 keys to decrypt by."""
    packets = [
        IP(src=d.source.address, dst=d.destination.address)
        / UDP(sport=d.source.port, dport=d.destination.port)
        / d.payload
        for d in played.seen
    ]
    wrpcap(str(path / "played.pcap"), packets)
    argv = ["tshark", "-r", str(path / "played.pcap"), "-T", "fields", "-E", "separator=|"]
    ports = {played.nats[0].shift + 500: "isakmp", played.nats[0].shift + 4500: "udpencap"}
    for port, protocol in ports.items():
        argv += ["-d", f"udp.port=={port},{protocol}"]
    for sa in played.left.machine.phase1s:
        line = ikev1_line(sa.channel.cookie_i, sa.keys.encryption_key)
        argv += ["-o", f"uat:{IKEV1_TABLE}:{line}"]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


@needs_tshark
@pytest.mark.parametrize(
    "suite",
    [
        Phase1Suite(AES128, "sha256", 19),
        Phase1Suite(AES256, "sha1", 14),
        Phase1Suite(TRIPLE_DES, "md5", 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("exchange", ["main", "aggressive"])
def test_wireshark_decrypts_phase_1_quick_mode_and_informational(play, tmp_path, suite, exchange):
    """Keys and the IVs of all exchanges as Wireshark computes them from what it saw."""
    played = play(both={"suites": (suite,), "exchange": exchange, "mode": "transport"}).up()
    played.do(played.left, "dpd")
    rows = dissected(played, tmp_path, "isakmp.typepayload", "isakmp.notify.msgtype", "_ws.malformed")
    first = 6 if exchange == "main" else 3
    if exchange == "main":
        assert [row[0] for row in rows[4:6]] == ["5,8", "5,8"]
    quick = ["8,1,2,3,3,3,10,5,5,21,21", "8,1,2,3,10,5,5,21,21", "8"]
    assert [row[0] for row in rows[first : first + 3]] == quick
    assert [row[:2] for row in rows[first + 3 :]] == [["8,11", "36136"], ["8,11", "36137"]]
    assert not any(row[2] for row in rows)


@needs_tshark
@pytest.mark.parametrize(
    ("name", "mode"), [("draft-00", "61444"), ("draft-03", "61444"), ("draft-04", "4"), ("rfc3947", "4")]
)
def test_encapsulation_mode_on_the_wire(play, tmp_path, name, mode):
    played = play(both={"nat_t": (by_name(name),), "mode": "transport"}).up()
    rows = dissected(played, tmp_path, "isakmp.ipsec.attr.encap_mode")
    assert rows[6][0].split(",") == [mode] * 3
    assert rows[7][0].split(",") == [mode]


def test_another_dissector_reads_our_first_messages(play):
    """The one of lab.capture, which shares no code with lab.ike: neither ours nor scapy's layers."""
    played = play(both={"nat_t": (by_name("rfc3947"), by_name("draft-02n"))}).up()
    first, _, third = (IkeMessage.parse(datagram.payload) for datagram in played.seen[:3])
    assert (first.exchange, first.length) == ("main mode", len(played.seen[0].payload))
    assert first.phase1_hashes == ("sha256",)
    assert first.vendor_ids[:2] == (by_name("rfc3947").vendor_id, by_name("draft-02n").vendor_id)
    assert [payload.type for payload in third.payloads] == [4, 10, 20, 20]
    assert [len(natd.hash) for natd in third.nat_d] == [32, 32]
