from __future__ import annotations

from pathlib import Path

import pytest

from lab.capture import keytables
from lab.capture.pcapng import CaptureFileError, read_capture, section_comments, write_pcapng

LEFT = '"IPv4","*","203.0.113.2","0x4c000001","NULL","","NULL",""'
RIGHT = '"IPv4","*","10.1.0.2","0x52000001","NULL","","NULL",""'


def test_tables_of_both_ends_come_together_once_and_exact_lines_first() -> None:
    found = keytables.merged([{"esp_sa": f"{LEFT}\n{RIGHT}\n"}, {"esp_sa": f"{LEFT}\n", "x": "\n"}])
    assert found == {
        "esp_sa": [
            LEFT,
            RIGHT,
            '"IPv4","*","*","0x4c000001","NULL","","NULL",""',
            '"IPv4","*","*","0x52000001","NULL","","NULL",""',
        ]
    }


def test_tables_travel_in_the_file_whatever_their_length(tmp_path: Path) -> None:
    tables = {"esp_sa": [f"line {n} " + "x" * 200 for n in range(1000)], "ikev2_decryption_table": ["a,b"]}
    path = tmp_path / "capture.pcapng"
    write_pcapng(path, [], links=["lan"], section_comments=["nattlab, a cell", *keytables.comments(tables)])
    assert read_capture(path) == []
    found = section_comments(path)
    assert found[0] == "nattlab, a cell"
    assert keytables.extract(found) == tables
    assert keytables.extract(["Wireshark table passwd:\nx", "other"]) == {}


def test_a_comment_is_cut_where_pcapng_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    write_pcapng(path, [], links=["lan"], section_comments=["ä" * 70_000])
    assert section_comments(path) == ["ä" * (0xFFFC // 2)]


def test_wireshark_is_told_of_other_ports(tmp_path: Path) -> None:
    keytables.write(tmp_path / "keys", {"esp_sa": [LEFT]}, nat_t_ports=(4500, 4501))
    assert (tmp_path / "keys/esp_sa").read_text() == f"{LEFT}\n"
    assert "esp.enable_encryption_decode: TRUE" in (tmp_path / "keys/preferences").read_text()
    assert "udp.port,4501," in (tmp_path / "keys/decode_as_entries").read_text()
    keytables.write(tmp_path / "usual", {"esp_sa": [LEFT]}, nat_t_ports=(4500,))
    assert not (tmp_path / "usual/decode_as_entries").exists()


def test_files_without_comments_and_broken_ones(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(20))
    assert section_comments(other) == []
    other.write_bytes(b"\n\r\r\n\xff\xff\xff\xff\x4d\x3c\x2b\x1a")
    with pytest.raises(CaptureFileError, match="section header of 4294967295 octets"):
        section_comments(other)
    with pytest.raises(CaptureFileError, match="No such file"):
        section_comments(tmp_path / "none")
