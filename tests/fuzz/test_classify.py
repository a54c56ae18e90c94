"""A bounded run of the fuzzer of classify, and proof that it notices a wrong row."""

from __future__ import annotations

import pytest

from lab.natt import wire

from . import fuzz_classify
from .receivers import TABLES


def test_every_mode_of_every_profile() -> None:
    tally = fuzz_classify.fuzz(5000, seed=7)
    assert tally.pop("refused") == 5000
    assert tally.total() == 5000 * len(TABLES)
    assert set(tally) == {kind.value for kind in wire.Kind}
    modes = {(profile, encap) for profile in wire.Profile for encap in profile.encaps}
    assert set(TABLES) == modes


def test_it_notices_an_octet_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def lax(payload: bytes, encap: wire.Encap, profile: wire.Profile) -> wire.Verdict:
        if len(payload) == 16 and payload[:8] == bytes(8) and encap is wire.Encap.ESPINUDP_NON_IKE:
            return wire.Verdict(wire.Kind.ESP, 8)
        return wire.classify(payload, encap, profile)

    monkeypatch.setattr(fuzz_classify, "classify", lax)
    with pytest.raises(AssertionError, match=r"espinudp-non-ike 0{16}.{16}: .*ESP.*, not .*USER"):
        fuzz_classify.fuzz(5000, seed=7)
