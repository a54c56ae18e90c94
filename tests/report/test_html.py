from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.net import topology_file
from lab.report.divergence import END, divergence, step_of
from lab.report.html import front
from lab.report.html.diagram import diagram
from lab.report.html.network import MOST, drawing
from lab.report.html.page import cell_page
from lab.report.plan import nat_kind, plan
from lab.report.record import Record
from lab.report.timeline import timeline
from lab.report.verdict import Verdict
from tests.report.conftest import AUTH, Wire, connected
from tests.report.pages import Links, eaten, write_report
from tests.report.runs import EVERY, cell, result, run

Make = Callable[..., Record]


@pytest.fixture
def report(tmp_path: Path, make_record: Make) -> Path:
    return write_report(tmp_path, make_record)


def page(report: Path, number: int) -> str:
    return (report / f"cells/ENC-{number:02}.natt-strongswan-one_nat-ikev2/index.html").read_text()


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_every_cell_has_a_page_and_every_link_leads_somewhere(report: Path) -> None:
    pages = [report / "index.html", *(report / "cells").glob("*/index.html")]
    assert len(pages) == 1 + len(EVERY.results)
    for each in pages:
        links = Links(each)
        assert links.broken() == [], each
        assert sorted(links.ids) == sorted(set(links.ids)), each
        assert all(source.endswith("report.css") or source == "data:," for source in links.sources), each
        assert not re.search(r"https?://(?!www\.rfc-editor\.org/)", each.read_text()), each


def test_the_front_page_tells_first_what_needs_attention(report: Path) -> None:
    text = (report / "index.html").read_text()
    attention = text[text.index('id="attention"') : text.index('id="peers"')]
    cells = re.findall(r"<h3><a href=\"[^\"]*\">([^<]*)</a>", attention)
    assert [name.partition("[")[0] for name in cells] == ["ENC-08", "ENC-02", "ENC-06", "ENC-07"]
    assert "whatever stands there takes everything on this port for ESP" in words(attention)
    assert "First difference to attempt 2 of this run: now IKE_AUTH request marked 1 ⇒" in words(attention)
    assert "no module named y" in words(text)
    assert text.index("<title>✗") > 0


def test_what_others_wrote_is_text_and_not_markup(report: Path) -> None:
    text = page(report, 2)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(&#39;left&#39;)&lt;/script&gt; &amp; ␛[1m" in text
    assert "`&lt;b&gt;` &amp; ␛[1m␀" in text


def test_a_failure_is_shown_with_its_reason_sequence_timeline_and_evidence(report: Path) -> None:
    text = page(report, 2)
    assert "No run of this cell that passed is known here" in text
    assert "changed on its way by nat: IKE on the NAT-T port without the non-ESP marker" in text
    rows = re.findall(r'<tr class="m-(\w+)[^"]*"><td class="num">([\d.]+)</td>', text)
    assert [float(ms) for _, ms in rows] == sorted(float(ms) for _, ms in rows)
    assert {"lab", "packet", "log", "conntrack"} == {source for source, _ in rows}
    assert "-A POSTROUTING -o wan -j MASQUERADE" in text
    assert 'href="../ENC-02.natt-strongswan-one_nat-ikev2.attempt-2/capture.pcapng"' in text
    assert "nattlab run &#39;ENC-02[natt-strongswan-one_nat-ikev2]&#39;" in text


def test_a_flaky_cell_is_compared_with_its_own_second_attempt(report: Path) -> None:
    text = words(page(report, 7))
    assert "Compared with attempt 2 of this run" in text
    assert "IKE_AUTH request marked 1 ⇒ ESP in UDP" in text


def test_a_failure_is_compared_with_the_last_run_that_passed(tmp_path: Path, make_record: Make) -> None:
    write_report(tmp_path, make_record, run(result(cell(2), Verdict.PASSED)), "20260130-081500-7")
    report = write_report(tmp_path, make_record)
    text = page(report, 2)
    assert "Compared with the last run that passed, 2023-11-14 22:13:20 UTC" in words(text)
    assert "differs from here on" in text
    kept = [path.name for path in (tmp_path / "passed").iterdir()]
    assert sorted(kept) == [f"ENC-0{n}.natt-strongswan-one_nat-ikev2.json" for n in (1, 2)]


def test_cells_that_were_not_run_say_why(report: Path) -> None:
    assert "Why it was not run strongswan: manual (it does ikev2)" in words(page(report, 3))
    assert "What is missing here INET_ESP: ip xfrm state: not supported" in words(page(report, 4))
    for number in (3, 4, 8):
        assert "What happened" not in page(report, number)
        assert '<title id="net-title">The network one_nat' in page(report, number)


def test_a_page_shows_its_scenario(tmp_path: Path, make_record: Make) -> None:
    source = ('def other():\n    pass\n\n\n@scenario("ENC-01")\ndef holds(cell):\n'
              '    """Told in RFC 3948 section 2."""\n    cell.up()\n')  # fmt: skip
    (tmp_path / "test_one.py").write_text(source)
    wire = Wire()
    record = replace(make_record(wire, connected(wire)), place="test_one.py:4")
    shown = cell_page(tmp_path, tmp_path, result(cell(1), Verdict.PASSED), record, None)
    assert (shown.place, shown.docstring) == ("test_one.py:5", "Told in RFC 3948 section 2.")
    assert shown.code.startswith('@scenario("ENC-01")\ndef holds(cell):')
    gone = replace(record, place="test_gone.py:4")
    shown = cell_page(tmp_path, tmp_path, result(cell(1), Verdict.PASSED), gone, None)
    assert (shown.place, shown.docstring, shown.code) == ("test_gone.py:5", "", "")


def test_sources_link_to_the_sections_of_rfcs(report: Path) -> None:
    assert '<a href="https://www.rfc-editor.org/rfc/rfc3948#section-2">RFC 3948 §2</a>' in page(report, 1)


def test_a_chip_shows_the_gravest_of_its_cells() -> None:
    cells = [
        result("KA-01[a-b-one_nat-ikev2]", Verdict.PASSED),
        result("KA-01[a-b-direct-ikev2]", Verdict.FAILED, Verdict.FAILED),
        result("KA-02[a-b-direct-ikev2]", Verdict.UNSUPPORTED),
        result("ENC-01[a-a-direct-ikev2]", Verdict.PASSED),
    ]
    lefts, rights, squares = front.peer_matrix(cells)
    assert (lefts, rights) == (["a"], ["a", "b"])
    ((group, chips),) = squares["a", "b"].groups
    assert (group, [chip.number for chip in chips]) == ("KA", ["01", "02"])
    assert (chips[0].gravest.topology, chips[0].words, chips[0].differs) == (
        "direct",
        "1 failed, 1 passed",
        True,
    )
    assert squares["a", "b"].counts == "1 failed, 1 passed, 1 unsupported"


def test_the_nat_matrix_tells_ports_and_the_median_time(make_record: Make) -> None:
    cells = [result(f"ENC-0{n}[a-b-one_nat-ikev2]", Verdict.PASSED) for n in range(1, 4)]
    records = {}
    for number, each in enumerate(cells):
        wire = Wire()
        records[each.cell] = make_record(wire, connected(wire, outside=61001 + number))
    direct = replace(cells[0], cell="ENC-04[a-b-direct-ikev2]")
    records[direct.cell] = replace(records[cells[0].cell], plan=plan(topology_file.load("direct"), {}, ()))
    lefts, rights, ways = front.nat_matrix([*cells, direct], records)
    assert (lefts, rights) == (["no NAT", "home"], ["no NAT"])
    (way,) = ways["home", "no NAT"]
    assert (way.how, way.ports) == ("ESP in UDP after the float", "4500 ⇒ 61001…61003")
    assert (way.median_ms, way.timed, way.cells, way.bad) == (pytest.approx(10.1), 3, 3, 0)


def test_kinds_of_nat_stand_in_the_order_of_rfc_4787() -> None:
    names = ["symmetric", "home → cgnat", "ADM/EIF, ports random", "home", "no NAT", "full_cone"]
    ordered = sorted(names, key=front._rank)
    assert ordered == ["no NAT", "full_cone", "home", "ADM/EIF, ports random", "symmetric", "home → cgnat"]
    assert front.in_rfc_words("home → cgnat") == "EIM/APDF → EIM/EIF"
    assert front.in_rfc_words("ADM/EIF, ports random") == ""


def test_kinds_of_nat_have_the_names_of_presets() -> None:
    def kinds(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        drawn = plan(topology_file.load(name), {}, ())
        return drawn.left_nats, drawn.right_nats

    assert kinds("direct") == ((), ())
    assert kinds("nested") == (("home", "cgnat"), ())
    assert kinds("both_behind_nat@symmetric,full_cone") == (("symmetric",), ("full_cone",))
    assert kinds("hairpin") == (("home",), ("home",))
    node = topology_file.load("one_nat@ADM-EIF").node("nat")
    assert node.nat is not None
    assert nat_kind(node.nat) == "ADM/EIF, ports random"


def test_ports_that_a_nat_changed_and_addresses_from_nowhere_stand_out(make_record: Make) -> None:
    wire = Wire()
    record = make_record(wire, connected(wire))
    drawn = diagram(record.plan, record.steps)
    assert [life.name for life in drawn.lifelines] == ["left", "nat", "right"]
    floated = drawn.lines[3]
    assert [(a.near, a.near_new, a.far, a.far_new) for a in floated.arrows] == [
        ("4500", False, "4500", False),
        ("61001", True, "4500", False),
    ]
    assert drawn.styles == ("ike", "marked", "esp")
    moved = replace(record.steps[3].hops[1], src="203.0.113.9")
    step = replace(record.steps[3], hops=(record.steps[3].hops[0], moved))
    assert diagram(record.plan, [step]).lines[0].arrows[1].near == "203.0.113.9:61001"


def test_a_drawing_has_room_for_all_that_is_said(make_record: Make) -> None:
    record = make_record(*eaten(), passed=False)
    drawn = diagram(record.plan, record.steps, diverging=3)
    assert [line.diverges for line in drawn.lines].index(True) == 3
    assert all(line.x - line.reach > 0 and line.x + line.reach < drawn.width for line in drawn.lines)
    assert drawn.height > max(line.y + line.height for line in drawn.lines)


def test_of_many_nodes_some_are_drawn() -> None:
    drawn = drawing(plan(topology_file.load("clients"), {}, ()))
    assert [box.node.name for box in drawn.boxes if box.node.column == 0] == [
        "left", *(f"left{n}" for n in range(2, MOST + 1))
    ]  # fmt: skip
    assert drawn.hidden == 8 - MOST
    for one in drawn.boxes:
        for other in drawn.boxes:
            if one is not other and one.node.column == other.node.column:
                assert one.y + one.height < other.y or other.y + other.height < one.y


def test_the_first_difference_of_two_shapes() -> None:
    assert divergence("abc", "abc") is None
    found = divergence([*"abcdefghij"], [*"abcxy"])
    assert found is not None
    assert (found.index, found.common) == (3, ("b", "c"))
    assert found.then == ("d", "e", "f", "g", "h")
    assert found.now == ("x", "y", END)
    shorter = divergence([*"ab"], [*"a"])
    assert shorter is not None
    assert (shorter.then, shorter.now) == (("b", END), (END,))


def test_a_place_in_a_shape_is_found_in_its_steps(make_record: Make) -> None:
    wire = Wire()
    for number in range(3):
        wire.out(number, AUTH, 4500, 61001)
    entries = connected(wire)
    record = make_record(wire, entries)
    for index, text in enumerate(record.shape):
        at = step_of(record.steps, index)
        assert at is not None
        assert text in (f"{record.steps[at].where} {record.steps[at].text}", record.shape[index])
    assert step_of(record.steps, len(record.shape)) is None


def test_log_lines_without_a_time_are_passed_over(make_record: Make) -> None:
    wire = Wire()
    record = replace(make_record(wire, connected(wire)), begin_ns=1_700_000_000_000_000_000)
    logs = {
        "left/charon.log": "1700000000.004 05[IKE] one\nnonsense\n1700000000.002 two",
        "right/charon.stderr": "1700000000.004 not a log",
        "conntrack.log": "1700000000.0005 nat conntrack new: x",
    }
    found = timeline(record, logs)
    told = [(m.ms, m.source, m.where, m.text) for m in found if m.source in ("log", "conntrack")]
    assert told == [
        (pytest.approx(0.5), "conntrack", "nat", "conntrack new: x"),
        (pytest.approx(2.0), "log", "left", "two"),
        (pytest.approx(4.0), "log", "left", "05[IKE] one"),
    ]
    assert [m.ms for m in found] == sorted(m.ms for m in found)
