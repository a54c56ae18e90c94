"""The engine that answers, or a private one for the tests of one worker."""

from collections.abc import Iterator

import pytest

from lab.net.errors import EngineError
from lab.nodes.engine import Engine, connect
from lab.nodes.private_engine import private_engine


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[Engine]:
    connect.cache_clear()
    try:
        yield connect()
        return
    except EngineError:
        pass
    with private_engine() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        connect.cache_clear()
        yield connect()
    connect.cache_clear()
