"""The pool: requests go where the least is to do, a dead guest is replaced, a refusal is final."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from lab.nodes.guest.errors import GuestDiedError, GuestError
from lab.nodes.guest.guest import Guest
from lab.nodes.guest.pool import Client, Pool


class FakeGuest:
    def __init__(self, number: int, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.number = number
        self.is_alive = True
        self.is_ended = False
        self._answer = answer

    def wait_ready(self) -> None:
        pass

    def describe(self) -> str:
        return f"guest {self.number}"

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        try:
            return {**self._answer(request), "deadline": deadline}
        except GuestDiedError:
            self.is_alive = False
            raise

    def end(self) -> None:
        self.is_ended = True


Made = Callable[..., tuple[Pool, list[FakeGuest]]]


@pytest.fixture
def pool() -> Iterator[Made]:
    pools: list[Pool] = []

    def make(
        answer: Callable[[dict[str, Any]], dict[str, Any]], size: int = 2
    ) -> tuple[Pool, list[FakeGuest]]:
        booted: list[FakeGuest] = []

        def boot(number: int) -> Guest:
            booted.append(FakeGuest(number, answer))
            return cast(Guest, booted[-1])

        pools.append(Pool(boot, size))
        return pools[-1], booted

    yield make
    for each in pools:
        each.close()


def test_an_answer_comes_back_over_the_socket(pool: Made) -> None:
    made, booted = pool(lambda request: {"item": request["item"]})
    client = Client(made.path)
    assert client.ask({"item": "a"}, 9.0) == {"answer": {"item": "a", "deadline": 9.0}, "kernel": "guest 1"}
    assert client.ask({"item": "b"}, 9.0)["kernel"] == "guest 1"
    assert len(booted) == 1


def test_a_second_guest_boots_when_the_first_has_something_to_do(pool: Made) -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        both.wait()
        return {}

    made, _ = pool(answer)
    said: list[str] = []
    askers = [
        threading.Thread(target=lambda: said.append(Client(made.path).ask({}, 1)["kernel"])) for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(said) == ["guest 1", "guest 2"]


def test_a_dead_guest_is_told_of_and_replaced(pool: Made) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["item"] == "bomb":
            raise GuestDiedError("guest ended\nits console's last lines:\nKernel panic")
        return {}

    made, booted = pool(answer, 1)
    client = Client(made.path)
    assert client.ask({"item": "bomb"}, 1) == {"died": "guest ended\nits console's last lines:\nKernel panic"}
    assert client.ask({"item": "calm"}, 1)["kernel"] == "guest 2"
    assert len(booted) == 2


def test_a_guest_that_cannot_boot_is_not_tried_again() -> None:
    tries = []

    def boot(number: int) -> Guest:
        tries.append(number)
        raise GuestError("no image")

    made = Pool(boot, 1)
    client = Client(made.path)
    assert [client.ask({}, 1), client.ask({}, 1)] == [{"refused": "no image"}] * 2
    assert tries == [1]
    made.close()


def test_closing_ends_the_guests_and_the_socket(pool: Made) -> None:
    made, booted = pool(lambda _: {})
    client = Client(made.path)
    client.ask({}, 1)
    made.close()
    assert booted[0].is_ended
    assert not made.path.exists()
    with pytest.raises(OSError, match="No such file"):
        Client(made.path)
