from __future__ import annotations

import pytest

from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL, UnsupportedError
from lab.report.verdict import KnownFailure
from lab.scenario import ATTRIBUTE, CellSpec, Scenario, ScenarioError, catalogue, scenario
from lab.selection import Selection, SelectionError

PAIRS = tuple((left, right) for left in ("natt", "strongswan") for right in ("natt", "strongswan"))
"""Between two of the peers, lest another one changes what is expected here."""


def declared(id: str = "ENC-01", **options: object) -> Scenario:
    options.setdefault("pairs", PAIRS)

    def function(cell: object) -> None: ...

    marked = scenario(id, **options)(function)  # type: ignore[arg-type]
    found: Scenario = getattr(marked, ATTRIBUTE)
    return found


def names(one: Scenario) -> list[str]:
    return [cell.name for cell in one.cells()]


def test_catalogue_ids_are_unique_and_complete() -> None:
    entries = catalogue()
    assert len(entries) > 290
    assert all(entry.title and entry.group and entry.source for entry in entries.values())


def test_a_scenario_unfolds_into_pairs_topologies_and_shared_versions() -> None:
    assert names(declared(topologies=("direct", "one_nat"), versions=(MANUAL, IKEV2))) == [
        "ENC-01[natt-natt-direct-manual]",
        "ENC-01[natt-natt-direct-ikev2]",
        "ENC-01[natt-natt-one_nat-manual]",
        "ENC-01[natt-natt-one_nat-ikev2]",
        "ENC-01[natt-strongswan-direct-ikev2]",
        "ENC-01[natt-strongswan-one_nat-ikev2]",
        "ENC-01[strongswan-natt-direct-ikev2]",
        "ENC-01[strongswan-natt-one_nat-ikev2]",
        "ENC-01[strongswan-strongswan-direct-ikev2]",
        "ENC-01[strongswan-strongswan-one_nat-ikev2]",
    ]


def test_a_scenario_may_name_its_pairs() -> None:
    one = declared(versions=(MANUAL, IKEV2), pairs=(("natt", "natt"), ("natt", "strongswan")))
    assert names(one) == [
        "ENC-01[natt-natt-one_nat-manual]",
        "ENC-01[natt-natt-one_nat-ikev2]",
        "ENC-01[natt-strongswan-one_nat-ikev2]",
    ]


def test_cells_on_demand_run_only_if_they_or_their_topology_are_named() -> None:
    one = declared(versions=(MANUAL,), pairs=(("natt", "natt"),), on_demand=("clients-50",)).cells()
    usual, large = "ENC-01[natt-natt-one_nat-manual]", "ENC-01[natt-natt-clients-50-manual]"
    assert [cell.name for cell in one] == [usual, large]
    for selection, chosen in (
        (Selection(cells=("ENC-01",)), usual),
        (Selection(topologies=("clients-50",)), large),
        (Selection(cells=(large,)), large),
    ):
        assert selection.choose(one) == [chosen]


def test_a_pair_without_the_version_gets_one_unsupported_cell() -> None:
    cells = {
        (cell.left, cell.right): cell
        for cell in declared(topologies=("direct", "one_nat"), versions=(MANUAL,)).cells()
    }
    for pair in (("natt", "strongswan"), ("strongswan", "natt"), ("strongswan", "strongswan")):
        with pytest.raises(UnsupportedError, match="strongswan: manual"):
            cells[pair].check_support()
    cells["natt", "natt"].check_support()


def test_a_feature_that_a_peer_does_not_declare_is_unsupported() -> None:
    cell = next(c for c in declared(features=("demultiplexing-events",)).cells() if c.left == "strongswan")
    with pytest.raises(UnsupportedError, match="strongswan: no demultiplexing-events"):
        cell.check_support()


def test_a_feature_may_take_more_of_a_host_with_one_peer_than_with_another() -> None:
    cells = declared(features=("honest-detection",), needs=("tshark",), versions=(IKEV2,)).cells()
    by_pair = {(cell.left, cell.right): cell.needs for cell in cells}
    assert by_pair["natt", "natt"] == ("tshark",)
    assert by_pair["natt", "strongswan"] == by_pair["strongswan", "natt"] == ("tshark", "INET_ESP")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "ENC-99"}, "ENC-99 is not in scenarios/catalogue.toml"),
        ({"versions": ("ikev3",)}, r"versions \['ikev3'\]; known are manual"),
        ({"versions": ()}, r"versions \(\)"),
        ({"pairs": (("natt", "cisco"),)}, "no pair natt-cisco; there are natt-natt, natt-strongswan, "),
        ({"colour": "green"}, "colour.*a connection has version, mode"),
        ({"mode": "beet"}, "ENC-01: mode: 'beet' is none of tunnel, transport"),
        ({"esp": "aes-gcm-17"}, "ENC-01: esp: no suite 'aes-gcm-17'; close are .*aes-gcm-16"),
    ],
)
def test_a_wrong_declaration_says_what_and_where(options: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        declared(**options)  # type: ignore[arg-type]


def test_a_change_to_a_wrong_value_names_the_scenario() -> None:
    cell = declared().cells()[0]
    with pytest.raises(ScenarioError, match="ENC-01: tfc: 70000 is not in"):
        cell.change(cell.make_connection(), tfc=70000)
    with pytest.raises(ScenarioError, match=r"ENC-01: .*'colour'.*a connection has"):
        cell.make_connection(colour="green")


CELLS: list[CellSpec] = [
    *declared("ENC-01", versions=(MANUAL, IKEV2)).cells(),
    *declared("ENC-03", versions=(IKEV1_MAIN, IKEV2), topologies=("direct",)).cells(),
    *declared("KA-01", versions=(MANUAL,)).cells(),
]


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (Selection(), len(CELLS)),
        (Selection(cells=("ENC",)), 13),
        (Selection(cells=("enc-01",)), 5),
        (Selection(cells=("KA-01[natt-natt-one_nat-manual]",)), 1),
        (Selection(peers=("natt",)), 13),
        (Selection(cells=("ENC",), peers=("strongswan",), versions=(IKEV2,)), 6),
        (Selection(topologies=("direct",)), 8),
    ],
)
def test_selections(selection: Selection, count: int) -> None:
    assert len(selection.choose(CELLS)) == count


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(cells=("ENC-02",)), "no cell is called ENC-02; close are ENC-0"),
        (Selection(topologies=("two_nats",)), "no cell has the topology two_nats; there are direct, one_nat"),
        (Selection(cells=("KA",), topologies=("direct",)), "no cell has all that was asked for"),
    ],
)
def test_a_selection_that_matches_nothing_offers_what_is_close(selection: Selection, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        selection.choose(CELLS)


def test_a_known_failure_is_told_by_peer_or_by_pattern() -> None:
    made = declared(
        expected_failure={
            "strongswan-*-ikev2": KnownFailure("#2", crashes=True),
            "strongswan": "#1",
        }
    )
    known = {spec.name: spec.known_failure for spec in made.cells()}
    assert known["ENC-01[strongswan-natt-one_nat-ikev2]"] == KnownFailure("#2", crashes=True)
    assert known["ENC-01[natt-strongswan-one_nat-ikev2]"] == KnownFailure("#1")
    assert known["ENC-01[natt-natt-one_nat-ikev2]"] is None
