from __future__ import annotations

import json
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import CookedLinux, Ether
from scapy.packet import Packet
from scapy.utils import wrpcap

from lab.capture import keytables
from lab.capture.pcapng import write_pcapng
from lab.cli import main
from tests.capture.datagrams import (
    KEEPALIVE,
    LEFT,
    MARKER,
    NAT,
    RIGHT,
    datagram,
    esp,
    frames,
    ikev2,
    native,
    through_the_nat,
)

DATA = Path(__file__).parent.parent / "capture/data"


def test_a_recorded_session_is_told_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ladder", str(DATA / "racoon-03.pcap"), "--check"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:5] == [
        "21 packets on racoon-03 within 3.888 s: 9 ike-marked, 8 esp-in-udp, 4 ike",
        "IKE 4446bd26aac6172a: 192.0.2.1:500 → 192.0.2.2:500",
        "  IKEv1, draft-ietf-ipsec-nat-t-ike-03, NAT-D payload 130 (drafts 00-03)",
        "  initiator is behind a NAT, or says so",
        "  floated to 4500 → 4500 at packet 5",
    ]
    assert "ESP in UDP" in said
    assert said.endswith("nothing looks wrong\n")


WRONG: list[tuple[Packet, str]] = [
    (datagram(LEFT, RIGHT, ikev2()), "IKE on the NAT-T port without the non-ESP marker: taken for ESP"),
    (datagram(LEFT, RIGHT, KEEPALIVE, 500, 500), "keepalive on port 500"),
    (datagram(LEFT, RIGHT, MARKER + ikev2(), 500, 500), "IKE behind a non-ESP marker on the IKE port"),
    (datagram(LEFT, RIGHT, bytes(8) + esp()), "ESP behind a non-IKE marker, which belongs on port 500"),
    (native(LEFT, RIGHT, esp(0)), "ESP with SPI 0"),
    (datagram(LEFT, RIGHT, esp(7)), "SPI 7 is reserved"),
    (datagram(LEFT, RIGHT, b"\x01\x02"), "2 octets on the NAT-T port: no keepalive, marker or SPI"),
    (datagram(LEFT, RIGHT, MARKER + ikev2()[:-4]), "IKE length field"),
]


@pytest.mark.parametrize(("packet", "said"), WRONG, ids=[said[:24] for _, said in WRONG])
@pytest.mark.parametrize("linktype", ["ethernet", "cooked", "raw"])
def test_what_is_wrong_is_said_whatever_the_link(
    packet: Packet, said: str, linktype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "brought.pcap"
    carrier = {"ethernet": Ether(), "cooked": CookedLinux(proto=0x800), "raw": None}[linktype]
    wrpcap(str(path), [packet if carrier is None else carrier / packet])
    assert main(["ladder", str(path), "--check"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("looks wrong: ")]
    assert len(wrong) == 1
    assert said in wrong[0]
    assert main(["ladder", str(path)]) == 0


def test_ports_that_never_floated_and_a_nat_named_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "brought.pcapng"
    write_pcapng(path, frames(*through_the_nat(float_after=False)))
    assert main(["ladder", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["links"], told["kinds"]) == (["wan"], {"ike": 4})
    (talk,) = told["conversations"]
    assert (talk["initiator_is_translated"], talk["responder_is_translated"]) == (True, False)
    assert (talk["from"], talk["to"], talk["floated_at"]) == (f"{NAT}:61000", f"{RIGHT}:500", None)
    assert ["never floated" in text for text in told["looks_wrong"]] == [True]
    first = told["packets"][0]
    assert (first["kind"], first["sport"], first["says"]) == ("ike", 61000, "IKE_SA_INIT request NAT: src")


def test_other_ports_are_taken_for_what_they_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "brought.pcap"
    wrpcap(str(path), [Ether() / datagram(LEFT, RIGHT, esp(), 4501, 4501)])
    main(["ladder", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["kinds"] == {"udp": 1}
    main(["ladder", str(path), "--json", "--nat-t-port", "4501"])
    assert json.loads(capsys.readouterr().out)["kinds"] == {"esp-in-udp": 1}


def test_keys_that_the_file_carries_are_taken_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, keys = tmp_path / "evidence.pcapng", tmp_path / "keys"
    tables = {"esp_sa": ['"IPv4","*","*","0x1","NULL","","NULL",""']}
    write_pcapng(path, [], links=["lan"], section_comments=keytables.comments(tables))
    assert main(["ladder", str(path), "--keys", str(keys)]) == 0
    assert (keys / "esp_sa").read_text().splitlines() == tables["esp_sa"]
    assert "no packets" in capsys.readouterr().out
    assert main(["ladder", str(DATA / "racoon-03.pcap"), "--keys", str(keys)]) == 2
    assert "racoon-03.pcap carries no keys" in capsys.readouterr().err


def test_a_file_cut_short_is_shown_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes((DATA / "racoon-03.pcap").read_bytes()[:-5])
    assert main(["ladder", str(path)]) == 0
    said = capsys.readouterr()
    assert "cut short after packet 20; what was read before is shown" in said.err
    assert said.out.startswith("20 packets")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "no pcap or pcapng file"),
        (b"just text, and rather a lot of it, so that a header could be read", "no pcap or pcapng file"),
    ],
)
def test_what_is_no_capture_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    path = tmp_path / "notes.txt"
    if content is not None:
        path.write_bytes(content)
    assert main(["ladder", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nattlab: {path}: {said}")
    assert len(error.splitlines()) == 1


def test_a_port_that_is_none_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ladder", "x.pcap", "--nat-t-port", "0"])
    assert caught.value.code == 2
    assert "'0' is no UDP port" in capsys.readouterr().err


def test_ip_without_udp_is_no_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.pcap"
    wrpcap(str(path), [Ether() / IP(src=LEFT, dst=RIGHT, proto=47)])
    assert main(["ladder", str(path)]) == 0
    assert "IP protocol 47" in capsys.readouterr().out


def test_capture_takes_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(DATA / "racoon-03.pcap")
    assert main(["ladder", file]) == 0
    told = capsys.readouterr().out
    assert main(["capture", file]) == 0
    assert capsys.readouterr().out == told
    assert main(["capture", file, "--live"]) == 2
    assert "a FILE is no lab: leave out --live" in capsys.readouterr().err
    assert main(["capture", str(tmp_path / "none.pcap")]) == 2
    assert "none.pcap: No such file" in capsys.readouterr().err
