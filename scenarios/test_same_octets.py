"""natt's ESP and the kernel's, octet for octet: what one makes the other would have made, and takes."""

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import MANUAL, OFF
from lab.peers.suite import ESP_SUITES
from lab.scenario import scenario
from scenarios.octets import SIZES, exchange, made_again
from scenarios.reckoning import Reckoning

WITH_NATT = (("natt", "kernel"), ("kernel", "natt"))


def same_octets(cell: Cell) -> None:
    """Exchange datagrams in every suite and compare what the kernel sent and took with natt."""
    suites = [suite.name for suite in cell.connection.suites]
    kernel = "left" if cell.spec.left == "kernel" else "right"
    peer = cell.peer(kernel)
    with Reckoning(peer) as reckoning:
        for number in range(len(suites)):
            exchange(cell, number)
    assert reckoning.rises() == {}, "the kernel must have dropped nothing"
    each = len(SIZES) + 1
    assert made_again(cell, kernel) == dict.fromkeys(suites, each)
    taken = [sa for sa in peer.sas() if sa["direction"] == "in"]
    assert [(sa["packets"], sa["seq"], sa["wrong_icv"]) for sa in taken] == [(each, each, 0)] * len(suites)


SUITES = tuple(
    suite.name
    for suite in ESP_SUITES.values()
    if suite.integrity in ("", "hmac-sha1-96") or suite.name.startswith(("null-", "aes-cbc-hmac"))
)
"""Every cipher in every length of key, every MAC, and each with extended sequence numbers."""


@scenario("ENC-20", pairs=WITH_NATT, topologies=("one_nat", "direct"), versions=(MANUAL,))
def kernel_and_natt_make_the_same_octets(cell: Cell) -> None:
    assert cell.shared_suites(SUITES) == SUITES
    suites = {"esp": SUITES[0], "further_esp": SUITES[1:]}
    if cell.spec.topology == "direct":
        cell.up(encapsulation=OFF, **suites)
        same_octets(cell)
        expect(cell.seen.esp_in_udp).none()
        return
    cell.up(**suites)
    same_octets(cell)
    expect(cell.seen.native_esp).none()
    cell.stop_peers()
    cell.recorder.clear()
    cell.up(mode="transport", esp="aes-gcm-16", further_esp=())
    same_octets(cell)
