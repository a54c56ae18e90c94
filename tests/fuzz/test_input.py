"""A bounded run of the fuzzer of the input path, and proof that it notices harm."""

from __future__ import annotations

from typing import Any

import pytest

from lab.natt.ciphers import MacTransform
from lab.natt.counters import MEANINGS, Counters
from lab.natt.input import InputPath
from lab.natt.replay import ReplayWindow
from lab.natt.transforms import IntegrityError
from lab.natt.unwrap import TunnelUnwrap

from .fuzz_input import MODES, fuzz

PER_MODE = 500


def run() -> Any:
    return fuzz(PER_MODE * len(MODES), seed=7, world=PER_MODE)


def test_datagrams_of_all_kinds() -> None:
    tally = run()
    ends = {name for name in MEANINGS if name.startswith(("XfrmIn", "NattIn"))}
    assert set(tally) == (ends | {"NattMappings"}) - {"XfrmInError", "NattInTunnelError"}
    assert tally.total() - tally["NattMappings"] >= PER_MODE * len(MODES)
    assert tally["NattInDecapsulated"] > 1000


def test_it_notices_a_window_moved_before_the_icv_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ReplayWindow.check

    def hasty(self: ReplayWindow, low: int) -> int:
        sequence = honest(self, low)
        if 0 < sequence <= self.top:
            self._bitmap |= 1 << self.top - sequence
        return sequence

    monkeypatch.setattr(ReplayWindow, "check", hasty)
    with pytest.raises(AssertionError, match=r"^SA 0x.* is \("):
        run()


def test_it_notices_an_icv_that_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = MacTransform.open

    def trusting(self: MacTransform, packet: bytes, high: bytes) -> bytes:
        try:
            return honest(self, packet, high)
        except IntegrityError:
            return self._decrypt(packet[8 : -self.icv_length])

    monkeypatch.setattr(MacTransform, "open", trusting)
    with pytest.raises(AssertionError, match="is, ought to be"):
        run()


def test_it_notices_a_packet_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Counters.add

    def forgetful(self: Counters, name: str, count: int = 1) -> None:
        honest(self, name, count if name != "XfrmInStateSeqError" else 0)

    monkeypatch.setattr(Counters, "add", forgetful)
    with pytest.raises(AssertionError, match="counted"):
        run()


def test_it_notices_a_keepalive_that_moves_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = InputPath.run

    def gullible(self: InputPath, payloads: Any, source: Any, *rest: Any) -> Any:
        if b"\xff" in payloads:
            for sa in self._sadb:
                sa.heard = source
        return honest(self, payloads, source, *rest)

    monkeypatch.setattr(InputPath, "run", gullible)
    with pytest.raises(AssertionError, match=r"^SA 0x.* is \("):
        run()


def test_it_notices_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TunnelUnwrap, "unwrap", lambda self, payload, number: payload[10000])
    with pytest.raises(IndexError):
        run()
