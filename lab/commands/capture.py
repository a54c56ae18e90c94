"""`nattlab capture`: what a standing lab has captured, as a ladder, as a file, or as it comes."""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.capture.account import looks_wrong
from lab.capture.frame import Frame
from lab.capture.ladder import ladder
from lab.capture.packets import Trace
from lab.capture.pcapng import write_pcapng
from lab.capture.rolling import RollingLadder
from lab.capture.seen import Ports
from lab.commands.ladder import account_of, terminal_width
from lab.commands.subcommands import Subcommands, add_lab_option, add_limit_option
from lab.errors import MisuseError
from lab.standing.client import ask
from lab.standing.registry import LabError, Listed, find

_POLL = 0.25


def add_to(commands: Subcommands) -> None:
    """Declare the subcommand and its options."""
    capture = commands.add_parser(
        "capture",
        help="what was on the links of a standing lab, or is; or what a capture file holds",
        description="A ladder of what was captured since the lab was built, and what looks wrong with it. "
        "With FILE, the same of a pcap or pcapng file; `nattlab ladder` has more options for these.",
    )
    capture.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a pcap or pcapng file")
    add_lab_option(capture)
    capture.add_argument("--live", action="store_true", help="draw packets as they come, until ^C")
    capture.add_argument("--seconds", type=float, metavar="S", help="with --live: end after so long")
    add_limit_option(capture)
    capture.add_argument("--write", type=Path, metavar="FILE", help="the packets as pcapng, too")
    capture.set_defaults(call=_capture)


def _capture(options: argparse.Namespace) -> int:
    if options.seconds is not None and not options.live:
        raise MisuseError("--seconds goes with --live")
    if options.file is not None:
        if options.live or options.write is not None or options.name is not None:
            raise MisuseError("a FILE is no lab: leave out --live, --write and --name")
        print(account_of(options.file).text(terminal_width(), options.limit))
        return 0
    lab = find(options.name)
    width = terminal_width()
    trace = _live(lab, options.seconds, width) if options.live else _all(lab, options.limit, width)
    if options.write is not None:
        try:
            write_pcapng(options.write, trace.frames, trace.comments, trace.links)
        except OSError as error:
            raise LabError(f"--write {options.write}: {error.strerror}") from error
        print(f"{len(trace)} packets in {options.write}")
    return 0


def _all(lab: Listed, limit: int, width: int) -> Trace:
    number, trace, left = 0, Trace(), {}
    more = True
    while more:
        answer = ask(lab, "frames", after=number)
        if not number:
            trace, left = _trace(answer), answer["left"]
        trace.extend(_frames(answer))
        number, more = _last(answer, number), answer["more"]
    print(ladder(trace.packets, trace.links, width=width, limit=limit, left=left))
    for finding in looks_wrong(trace.packets):
        print(f"looks wrong: {finding}")
    return trace


def _live(lab: Listed, seconds: float | None, width: int) -> Trace:
    """Draw what comes until somebody interrupts, the lab goes down, or `seconds` are over."""
    answer = ask(lab, "frames")
    trace = _trace(answer)
    rolling = RollingLadder(trace.links, answer["left"], width)
    end = None if seconds is None else time.monotonic() + seconds
    number = 0
    try:
        while end is None or time.monotonic() < end:
            frames = list(_frames(answer))
            trace.extend(frames)
            rolling.add(trace.look(frame) for frame in frames)
            for line in rolling.lines(time.time_ns()):
                print(line, flush=True)
            number = _last(answer, number)
            answer = ask(lab, "frames", after=number, wait=_POLL)
    except KeyboardInterrupt:
        print()
    except LabError as error:
        print(error)
    for line in rolling.lines():
        print(line)
    return trace


def _trace(answer: dict[str, Any]) -> Trace:
    return Trace(links=answer["links"], ports=Ports(answer["ports"]["ike"], answer["ports"]["nat_t"]))


def _frames(answer: dict[str, Any]) -> Iterator[Frame]:
    for number, time_ns, link, outgoing, data in answer["frames"]:
        yield Frame(time_ns, link, base64.b64decode(data), outgoing, number)


def _last(answer: dict[str, Any], before: int) -> int:
    frames = answer["frames"]
    return int(frames[-1][0]) if frames else before
