from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.capture.dissect import dissect
from lab.capture.frame import Frame
from lab.capture.pcapng import read_capture
from lab.capture.seen import Seen

DATA = Path(__file__).parent / "data"


@pytest.fixture
def recorded_frames() -> Callable[[str], list[Frame]]:
    return lambda name: read_capture(DATA / f"{name}.pcap", link="wan")


@pytest.fixture
def recorded(recorded_frames: Callable[[str], list[Frame]]) -> Callable[[str], list[Seen]]:
    return lambda name: [dissect(frame) for frame in recorded_frames(name)]
