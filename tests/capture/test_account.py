from __future__ import annotations

import random
from pathlib import Path

from lab.capture.account import Account
from lab.capture.packets import Trace
from lab.capture.pcapng import CaptureFileError, read_capture, section_comments
from tests.capture.datagrams import captured, through_the_nat

DATA = Path(__file__).parent / "data"


def test_an_empty_capture_has_an_account() -> None:
    account = Account.of(Trace().packets)
    assert account.text(100, 10).splitlines() == ["no packets", "", "(no packets)", "", "nothing looks wrong"]
    assert account.as_dict()["packets"] == []


def test_what_looks_wrong_stands_last() -> None:
    account = Account.of(captured(*through_the_nat(float_after=False)))
    assert account.text(100, 10).splitlines()[-1].startswith("looks wrong: packets 3, 4: a NAT was found")


def test_damaged_captures_get_an_account_as_far_as_they_go(tmp_path: Path) -> None:
    recorded = [path.read_bytes() for path in sorted(DATA.glob("*.pcap"))]
    chance = random.Random(3947)
    path = tmp_path / "damaged.pcap"
    told = 0
    for _ in range(150):
        damaged = bytearray(chance.choice(recorded))
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
        try:
            frames = read_capture(path)
            assert section_comments(path) == []
        except CaptureFileError as error:
            frames = list(error.frames)
        account = Account.of(Trace(frames).packets)
        assert account.text(100, 20)
        assert len(account.as_dict()["packets"]) == len(frames)
        told += bool(frames)
    assert told > 75
