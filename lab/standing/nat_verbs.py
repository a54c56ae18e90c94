"""What a person may have a NAT do, in words: `nat block esp`, `nat reboot 2`. The doing is RunningNat's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import get_args

from lab.net.behaviour import Block
from lab.net.errors import NetworkError
from lab.net.model import listed
from lab.net.xtables import BACKENDS
from lab.nodes.running_nat import RunningNat
from lab.standing.names import unknown
from lab.standing.registry import LabError

BLOCKS: tuple[str, ...] = get_args(Block)


@dataclass(frozen=True)
class Verb:
    """One thing that can happen to a NAT."""

    name: str
    words: str
    """What may follow it, for usage."""
    help: str
    do: Callable[[RunningNat, Sequence[str]], str]
    """Does it with the words that followed, returns what is true now. Raises LabError, NetworkError."""


def _forget(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(0, "forget", words)
    nat.forget()
    return "has forgotten every mapping"


def _remap(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(0, "remap", words)
    nat.remap()
    return f"gives every flow another port: {nat.config.describe()}"


def _readdress(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(1, "readdress", words)
    try:
        wanted = ip_address(words[0]) if words else None
    except ValueError as error:
        raise LabError(f"nat readdress: {error}; write e.g. `nattlab nat readdress 203.0.113.7`") from None
    if wanted is None:
        return f"has the outside address {nat.readdress()}"
    return f"has the outside address {nat.readdress(wanted, 4 if wanted.version == 4 else 6)}"


def _reboot(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(1, "reboot", words)
    seconds = _number("reboot", words, 0.0)
    nat.reboot(seconds)
    return f"was away for {seconds:g} s and has forgotten every mapping"


def _block(nat: RunningNat, words: Sequence[str]) -> str:
    if not words:
        raise LabError(f"nat block: say what: {listed(BLOCKS)}")
    nat.block(*_blocks(words))
    return f"drops {listed(sorted(nat.blocked))}"


def _unblock(nat: RunningNat, words: Sequence[str]) -> str:
    nat.unblock(*_blocks(words))
    return f"drops {listed(sorted(nat.blocked))}" if nat.blocked else "drops nothing by order any more"


def _expire(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(1, "expire", words)
    seconds = int(_number("expire", words, 1))
    nat.expire(seconds)
    return f"lets UDP mappings lapse after {seconds} s without packets"


def _clash(nat: RunningNat, words: Sequence[str]) -> str:
    _at_most(0, "clash", words)
    nat.clash()
    return "has no guard: a packet from outside may take the port of an inside flow"


def _hairpin(nat: RunningNat, words: Sequence[str]) -> str:
    if list(words) not in (["on"], ["off"]):
        raise LabError("nat hairpin: write `nattlab nat hairpin on` or `nattlab nat hairpin off`")
    nat.start_hairpin() if words[0] == "on" else nat.stop_hairpin()
    return f"has hairpinning {words[0]}, and has forgotten every mapping"


def _translate_by(nat: RunningNat, words: Sequence[str]) -> str:
    if len(words) != 1 or words[0] not in BACKENDS:
        raise LabError(f"nat translate-by: say which tables: {listed(BACKENDS)}")
    nat.translate_by("nft" if words[0] == "nft" else "legacy")
    return f"translates by iptables-{nat.backend}, and has forgotten every mapping"


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("forget", "", "lose every mapping, as a power cut does", _forget),
        Verb("remap", "", "give every flow another outside port", _remap),
        Verb("readdress", "[ADDRESS]", "take another outside address; without one the next free", _readdress),
        Verb("reboot", "[SECONDS]", "be away, and have forgotten everything", _reboot),
        Verb("block", "WHAT…", f"drop packets: {', '.join(BLOCKS)}", _block),
        Verb("unblock", "[WHAT…]", "carry them again; without a word all", _unblock),
        Verb("expire", "[SECONDS]", "let idle UDP mappings lapse after so long", _expire),
        Verb("clash", "", "let packets from outside take the port of an inside flow", _clash),
        Verb("hairpin", "on|off", "carry flows from inside to its own outside address", _hairpin),
        Verb("translate-by", "nft|legacy", "have the same rules in the other kernel tables", _translate_by),
    )
}
"""By name; all but translate-by are methods of lab.nodes.running_nat.RunningNat of the same name."""


def act(nats: Collection[RunningNat], verb: str, words: Sequence[str]) -> str:
    """Have one of `nats` do `verb`; the NAT is the word among `words` that names one, or the only one.

    Returns what is true now. Raises LabError, NetworkError.
    """
    if verb not in VERBS:
        raise LabError(unknown("verb", verb, VERBS))
    if not nats:
        raise LabError("this lab has no NAT: `nattlab topology` lists networks that have one")
    by_name = {nat.name: nat for nat in nats}
    named = [word for word in words if word in by_name]
    if len(named) > 1:
        raise LabError(f"nat {verb}: one NAT at a time, not {listed(named)}")
    if not named and len(by_name) > 1:
        raise LabError(
            f"this lab has several NATs, {listed(by_name)}: add which, as `nat {verb} {min(by_name)}`"
        )
    nat = by_name[named[0]] if named else next(iter(by_name.values()))
    rest = [word for word in words if word not in by_name]
    try:
        return f"{nat.name} {VERBS[verb].do(nat, rest)}"
    except NetworkError as error:
        raise LabError(str(error)) from error


def _at_most(count: int, verb: str, words: Sequence[str]) -> None:
    if len(words) > count:
        usage = f"nattlab nat {verb} {VERBS[verb].words} [NAT]".replace("  ", " ")
        raise LabError(f"nat {verb}: what is {words[count]!r}? It is `{usage}`")


def _number(verb: str, words: Sequence[str], usual: float) -> float:
    if not words:
        return usual
    try:
        seconds = float(words[0])
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 3600 or (verb == "expire" and (seconds < 1 or seconds % 1)):
        whole = "whole seconds, 1 or more" if verb == "expire" else "seconds, up to an hour"
        raise LabError(f"nat {verb}: {words[0]!r} is no number of {whole}, and no NAT here is called so")
    return seconds


def _blocks(words: Sequence[str]) -> list[Block]:
    for word in words:
        if word not in BLOCKS:
            raise LabError(f"nat block: {unknown('kind of packet', word, BLOCKS)}")
    return [block for block in get_args(Block) if block in words]
