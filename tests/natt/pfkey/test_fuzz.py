"""A bounded run of the PF_KEY fuzzer, and proof that it notices harm."""

from __future__ import annotations

import errno
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.natt.pfkey.associations import AssociationRequests
from lab.natt.pfkey.numbers import Abi, Dialect, PfKeyError

SCRIPT = Path(__file__).parents[2] / "fuzz" / "fuzz_pfkey.py"


@pytest.fixture(scope="module")
def fuzz() -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("fuzz_pfkey", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    run: Callable[..., Any] = module.fuzz
    return run


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dialect", list(Dialect), ids=lambda dialect: dialect.value)
def test_mutated_messages(fuzz: Callable[..., Any], dialect: Dialect, order: str) -> None:
    tally = fuzz(3000, seed=7, abi=Abi(dialect, order))
    assert tally["refused"] + tally["accepted"] == 3000
    for number in ("ADD", "DELETE", "GET", "GETSPI", "FLUSH", "X_SPDADD", "X_SPDDELETE", "X_SPDGET"):
        assert tally[number] > 0, number


def test_it_notices_a_refusal_that_changed_something(
    fuzz: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = AssociationRequests.add

    def two_faced(self: AssociationRequests, request: Any) -> Any:
        honest(self, request)
        raise PfKeyError(errno.EINVAL, "no")

    monkeypatch.setattr(AssociationRequests, "add", two_faced)
    with pytest.raises(AssertionError, match="refused, and something changed"):
        fuzz(3000, seed=7, abi=Abi(Dialect.LINUX))


def test_it_notices_a_crash(fuzz: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AssociationRequests, "get", lambda self, request: request.nothing)
    with pytest.raises(AttributeError):
        fuzz(3000, seed=7, abi=Abi(Dialect.LINUX))
