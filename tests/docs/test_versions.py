from __future__ import annotations

import re
from pathlib import Path

from lab.ike.versions import VERSIONS

PAGE = Path(__file__).resolve().parents[2] / "docs/explanation/versions.md"


def rows() -> dict[str, list[str]]:
    """The rows of the first table by name, without code marks."""
    table = re.search(r"^\| version .*?\n\|[-| ]+\n((?:\|.*\n)+)", PAGE.read_text(), re.M)
    assert table is not None
    cells = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table[1].splitlines()
    ]
    return {name: rest for name, *rest in cells}


def test_the_table_of_versions_is_that_of_the_scripted_peer() -> None:
    assert rows() == {
        version.name: [
            version.vendor_id.hex(),
            str(version.nat_d),
            str(version.nat_oa),
            str(version.nat_oa_count),
            str(version.udp_tunnel),
            str(version.udp_transport),
            "4500" if version.floats else "500",
            "ESP: eight zero octets" if version.non_ike_marker else "IKE: four zero octets",
        ]
        for version in VERSIONS.values()
    }


def test_the_rows_stand_in_order_of_rank() -> None:
    assert list(rows()) == sorted(rows(), key=lambda name: VERSIONS[name].rank)
