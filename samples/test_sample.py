"""Scenarios of the suite, and one with tickets: known to fail between one pair, said to between another."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV2
from lab.scenario import scenario
from scenarios.test_algorithms import udp_length_follows_from_suite_and_size as udp_length_follows
from scenarios.test_encapsulation import floated_ike_has_the_marker as floated_ike_has_the_marker
from scenarios.test_encapsulation import ike_on_500_has_no_marker as ike_on_500_has_no_marker
from scenarios.test_encapsulation import tunnel_is_esp_in_udp as tunnel_is_esp_in_udp
from scenarios.test_mappings import after_a_new_address_esp_of_the_client_counts as new_address_counts

__all__ = [
    "floated_ike_has_the_marker",
    "ike_on_500_has_no_marker",
    "new_address_counts",
    "tunnel_is_esp_in_udp",
    "udp_length_follows",
]


@scenario(
    "KA-02",
    versions=(IKEV2,),
    pairs=(("natt", "natt"), ("strongswan", "strongswan")),
    expected_failure={
        "natt": "sample/1: no keepalives on direct paths",
        "strongswan": "sample/2: fixed long ago",
    },
    keepalive=0.2,
)
def keepalives_come_from_the_right(cell: Cell) -> None:
    cell.up()
    cell.ping()
    right = cell.endpoint("right").address
    if cell.spec.left == "natt":
        cell.watch_for(1.0, lambda seen: seen.keepalives.sent_by(right))
        expect(cell.seen.keepalives.sent_by(right), "right is behind no NAT").some()
    expect(cell.seen.esp_in_udp).some()
