"""Which version of NAT traversal two IKEv1 peers agree on."""

from dataclasses import replace
from functools import partial
from itertools import permutations

from lab.capture.expect import expect
from lab.capture.seen import Seen
from lab.cell import Cell
from lab.ike.ikev1.persona import PLAIN
from lab.peers.peer import AUTO, IKEV1_AGGRESSIVE, IKEV1_MAIN, IKEV2, LIBIPSEC, OFF
from lab.scenario import scenario
from lab.wait import wait_until
from scenarios.expected import initiators, responders
from scenarios.phase1 import (
    AS_RFC,
    IN_CLEAR,
    KNOWN,
    NAT_D_TYPE,
    OFFERED,
    RFC,
    STENBERG,
    TAKEN_UNOFFERED,
    TRIED,
    insistent,
    newest_phase1,
    phase1_of_script,
    terms,
    told,
    versions,
)
from scenarios.scripted import scripted

IKEV1 = (IKEV1_MAIN, IKEV1_AGGRESSIVE)
BEST = (RFC, "draft-03", "draft-02", "draft-02n")
"""In the order of preference of every responder."""


def start_responder(cell: Cell) -> None:
    """Start the right end so that it knows every version it can."""
    cell.start("right", **terms(cell, "right", nat_t=KNOWN["natt"]))


@scenario("VER-01", pairs=initiators(OFFERED), versions=IKEV1, features=("ike",), child=False)
def the_first_message_offers_all_in_order(cell: Cell) -> None:
    cell.up()
    assert newest_phase1(cell).offered == OFFERED[cell.spec.left]


@scenario("VER-02", pairs=responders(KNOWN), versions=IKEV1, features=("ike",), child=False)
def each_single_version_is_agreed_to_or_declined(cell: Cell) -> None:
    start_responder(cell)
    for name in TRIED.get(cell.spec.right, NAT_D_TYPE):
        nat_d, agreed = NAT_D_TYPE[name], name in KNOWN[cell.spec.right]
        with phase1_of_script(cell, **versions(name), persona=IN_CLEAR) as (phase1, _):
            assert phase1.offered == [name]
            assert phase1.answered == ([name] if agreed else []), name
            if agreed:
                wait_until(cell.right.nat_flags, f"NAT detection under {name}")
        phase1.expect_nat_d(*([nat_d] if agreed else []))
        phase1.expect_float(name if agreed else None)


@scenario("VER-03", pairs=responders(KNOWN), versions=(IKEV1_MAIN,), features=("ike",), child=False)
def of_several_versions_the_best_one_is_returned(cell: Cell) -> None:
    start_responder(cell)
    best = [name for name in BEST if name in KNOWN[cell.spec.right]]
    for offer in (*permutations(best, 2), best, best[::-1]):
        with phase1_of_script(cell, **versions(*offer)) as (phase1, _):
            assert phase1.offered == list(offer)
            assert phase1.answered == [min(offer, key=best.index)], offer


@scenario("VER-04", pairs=responders(KNOWN), versions=(IKEV1_MAIN,), features=("ike",), child=False)
def draft_02_has_two_names(cell: Cell) -> None:
    start_responder(cell)
    for name in ("draft-02", "draft-02n"):
        with phase1_of_script(cell, **versions(name)) as (phase1, _):
            assert phase1.answered == [name]
        phase1.expect_nat_d(130)
        phase1.expect_float(name)


@scenario("VER-05", pairs=responders(KNOWN), versions=(IKEV1_MAIN,), features=("ike",))
def drafts_04_to_08_are_spoken_or_not_at_all(cell: Cell) -> None:
    start_responder(cell)
    drafts = ("draft-04", "draft-05", "draft-06", "draft-07", "draft-08")
    as_rfc = AS_RFC.get(cell.spec.right, ())
    for name in (name for name in drafts if name in (*as_rfc, *TRIED.get(cell.spec.right, drafts))):
        agreed = name in KNOWN[cell.spec.right]
        with phase1_of_script(cell, children=1, **versions(name)) as (phase1, runner):
            child = runner.run_until(partial(told, runner, "child-established"), f"an SA under {name}")[0]
            assert child.detail["encapsulation"] == ("espinudp" if agreed else "none"), name
            if not agreed and cell.right.engine == LIBIPSEC:
                # It agreed to native ESP, which it cannot do; its DELETE names the SA of the other direction.
                ignored = runner.run_until(partial(told, runner, "ignored"), "the DELETE of that SA")
                assert str(child.detail["spi_in"]) in str(ignored[0])
        if name in as_rfc:
            # It waits for payloads of the RFC's type, and sends none where none come: nobody finds a NAT.
            assert phase1.answered == [name]
            phase1.expect_nat_d(NAT_D_TYPE[name])
            assert phase1.nat_d_types("right") == set()
        else:
            phase1.expect_nat_d(*([15] if agreed else []))
        phase1.expect_float(name if agreed else None)


@scenario("VER-06", pairs=responders(), versions=(IKEV1_MAIN,), features=("ike",), child=False)
def the_rfc_wins_over_the_unnumbered_draft(cell: Cell) -> None:
    start_responder(cell)
    for offer in permutations((RFC, "unnumbered")):
        with phase1_of_script(cell, **versions(*offer)) as (phase1, _):
            assert phase1.offered == list(offer)
            assert phase1.answered == [RFC]
        phase1.expect_nat_d(20)


@scenario("VER-07", pairs=responders(), versions=IKEV1, features=("ike",))
def the_stenberg_drafts_are_unknown(cell: Cell) -> None:
    cell.start("right")
    persona = replace(PLAIN, vendor_ids=tuple(STENBERG))
    with phase1_of_script(cell, persona=persona, **versions()) as (phase1, _):
        assert phase1.offered == list(STENBERG.values())
        assert phase1.answered == []
    phase1.expect_nat_d()
    phase1.expect_float(None)
    assert cell.right.is_alive()
    cell.start("left")
    cell.connect()
    cell.ping()


@scenario("VER-08", pairs=initiators(OFFERED), versions=IKEV1, features=("ike",), child=False)
def the_initiator_speaks_what_the_responder_chose(cell: Cell) -> None:
    offered = KNOWN["natt"] if cell.spec.left == "natt" else OFFERED[cell.spec.left]
    cell.start("right", nat_t=KNOWN["natt"])
    cell.start("left", **terms(cell, "left", nat_t=offered, ike={"persona": IN_CLEAR}))
    for name in offered:
        cell.renew("right", nat_t=(name,))
        cell.renew("left")
        cell.connect()
        phase1 = newest_phase1(cell)
        assert phase1.offered == list(offered)
        assert phase1.answered == [name]
        phase1.expect_nat_d(NAT_D_TYPE[name])
        phase1.expect_float(name)


@scenario("VER-09", pairs=initiators(TAKEN_UNOFFERED), versions=(IKEV1_MAIN,), features=("ike",), child=False)
def an_answer_that_was_not_offered_mixes_no_types(cell: Cell) -> None:
    cell.start("right", nat_t=KNOWN["natt"])
    # charon offers what it likes.
    cell.start("left", **({} if cell.spec.left == "strongswan" else {"nat_t": (RFC,)}))
    for name in ("draft-00", "draft-02", "draft-03", "draft-08"):
        cell.renew("right", nat_t=(name,), ike={"persona": insistent(name)})
        cell.renew("left")
        cell.connect()
        phase1 = newest_phase1(cell)
        assert name not in phase1.offered
        assert phase1.answered == [name]
        spoken = name if name in TAKEN_UNOFFERED[cell.spec.left] else None
        types = {NAT_D_TYPE[spoken]} if spoken else set()
        if name in AS_RFC.get(cell.spec.left, ()):
            types = {NAT_D_TYPE[RFC]}
        assert phase1.nat_d_types("left") == types, name
        phase1.expect_float(spoken)


@scenario("VER-10", pairs=initiators(), versions=(IKEV1_MAIN,), features=("ike",), child=False)
def of_an_echo_the_initiator_takes_the_best(cell: Cell) -> None:
    cell.start("right", nat_t=KNOWN["natt"], ike={"persona": replace(PLAIN, echoes_vendor_ids=True)})
    cell.start("left", **terms(cell, "left", nat_t=KNOWN["natt"]))
    for offered in (KNOWN["natt"], ("draft-02", "draft-03"), ("draft-08", "draft-02n"))[
        : 3 if cell.spec.left == "natt" else 1
    ]:
        cell.renew("left", **terms(cell, "left", nat_t=offered))
        cell.renew("right")
        cell.connect()
        phase1 = newest_phase1(cell)
        assert phase1.answered == phase1.offered
        best = max(phase1.offered, key=KNOWN["natt"].index)
        phase1.expect_nat_d(NAT_D_TYPE[best])


REFUSES = {"strongswan": (IKEV1_MAIN, IKEV2), "libreswan": (IKEV1_MAIN,)}
"""Peers that answer a major version they are not configured for, by what they are configured for; the others
are silent."""


def refuses(message: Seen) -> bool:
    """Whether it holds NO_PROPOSAL_CHOSEN (14) alone, as IKEv1 or IKEv2 writes it."""
    ike = message.ike
    if ike is None or len(ike.payloads) != 1:
        return False
    if ike.version == 2:
        return ike.notifies == ((14, b""),)
    return ike.exchange == "informational" and ike.payloads[0].body[6:8] == (14).to_bytes(2, "big")


@scenario("VER-22", pairs=responders(), versions=(IKEV1_MAIN, IKEV2), features=("ike",), child=False)
def the_other_major_version_leaves_nothing_behind(cell: Cell) -> None:
    cell.start("right")
    refuses_others = cell.version in REFUSES.get(cell.spec.right, ())
    for version in IKEV1 if cell.version == IKEV2 else (IKEV2,):
        begun = len(cell.seen)
        with scripted(cell, version=version) as runner:
            if refuses_others:
                name = "failed" if version == IKEV2 else "unprotected-notify"
                runner.run_until(partial(told, runner, name), "a refusal")
            elif cell.spec.right == "natt":
                wait_until(lambda: cell.right.manager.events, "the message to be thrown away")
                cell.right.manager.events.clear()
            else:
                with runner.background():
                    cell.until(
                        lambda seen, begun=begun: len(seen[begun:].on("wan").ike) > 1, "another attempt"
                    )  # type: ignore[misc]
    answers = cell.seen.on("wan").ike.sent_by(cell.endpoint("right").address)
    if refuses_others:
        expect(answers).each("NO_PROPOSAL_CHOSEN in the version of the question", refuses)
    else:
        expect(answers).none()
    expect(cell.seen.to_port(4500)).none()
    assert cell.right.nat_flags() == frozenset()
    cell.start("left")
    cell.connect()


@scenario(
    "VER-23", pairs=initiators(OFFERED), versions=IKEV1, features=("ike", "no-nat-traversal"), child=False
)
def nat_t_switched_off_is_not_offered(cell: Cell) -> None:
    cell.start("right")
    cell.start("left", encapsulation=OFF)
    cell.connect()
    phase1 = newest_phase1(cell)
    assert phase1.offered == []
    phase1.expect_nat_d()
    phase1.expect_float(None)
    cell.renew("right")
    cell.renew("left", encapsulation=AUTO)
    cell.connect()
    assert newest_phase1(cell).offered == OFFERED[cell.spec.left]


@scenario(
    "B80",
    pairs=responders(OFFERED),
    versions=IKEV1,
    features=("ike", "no-nat-traversal"),
    child=False,
    expected_failure={"natt-libreswan-*": "libreswan#1238"},
)
def nat_t_switched_off_is_not_agreed_to(cell: Cell) -> None:
    cell.start("right", encapsulation=OFF)
    cell.start("left", encapsulation=AUTO)
    cell.left.begin()
    cell.until(lambda seen: len(seen.on("wan").ike) > 1, "an answer")
    phase1 = newest_phase1(cell)
    assert phase1.offered == OFFERED["natt"]
    assert phase1.answered == []
    cell.left.wait_connected()
    cell.right.wait_connected()
    phase1.expect_nat_d()
    phase1.expect_float(None)
