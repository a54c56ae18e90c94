"""ESP algorithms through the NAT: every one carries traffic, and its packets have the size of the book."""

from collections import Counter

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import IKEV1_MAIN, IKEV2, MANUAL
from lab.peers.suite import esp_suite
from lab.scenario import scenario
from scenarios.expected import by_engine, outcome
from scenarios.inner import inner_sink, send_inner


def without_chacha(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are not of ChaCha20."""
    return tuple(name for name in names if not name.startswith("chacha20"))


SWEEP = (
    "aes-gcm-16",
    "null-hmac-sha1",
    "null-hmac-sha2-256",
    "3des-cbc-hmac-md5",
    "3des-cbc-hmac-sha1",
    "aes-cbc-hmac-sha1",
    "aes-cbc-192-hmac-sha2-384",
    "aes-cbc-256-hmac-sha2-512",
    "aes-cbc-hmac-sha2-256",
    "aes-ctr-hmac-sha1",
    "aes-ctr-256-hmac-sha2-256",
    "aes-gcm-8",
    "aes-gcm-12-192",
    "aes-gcm-16-256",
    "chacha20-poly1305",
)
BEYOND_LIBIPSEC = (
    "null-hmac-sha1-esn",
    "aes-cbc-hmac-sha2-256-96",
    "aes-cbc-256-hmac-sha2-256-esn",
    "aes-gcm-8-esn",
    "aes-gcm-16-esn",
    "chacha20-poly1305-esn",
)
"""No extended sequence numbers in kernel-libipsec, and no draft truncation of SHA-256."""
EVERY = SWEEP + BEYOND_LIBIPSEC
EXPECTED = {
    MANUAL: {"natt": EVERY, "kernel": EVERY},
    IKEV1_MAIN: {"strongswan": by_engine(kernel=without_chacha(EVERY), libipsec=without_chacha(SWEEP))},
    IKEV2: {"strongswan": by_engine(kernel=EVERY, libipsec=SWEEP)},
}
"""ChaCha20-Poly1305 has no number in IKEv1."""

IP_AND_UDP = 28
SIZES = (*range(28, 61), 576, *range(1384, 1401))
"""Octets of inner packets: more residues than any block has, at both ends."""


def up_with_every_suite(cell: Cell) -> tuple[str, ...]:
    """Connect with a child SA for each suite that the two peers are expected to do."""
    suites = cell.shared_suites(EVERY)
    cell.up(esp=suites[0], further_esp=suites[1:])
    assert suites == outcome(EXPECTED[cell.version], cell.left)
    return suites


@scenario("ENC-07", versions=(MANUAL, IKEV2), features=("several-children",))
def udp_length_follows_from_suite_and_size(cell: Cell) -> None:
    for number, name in enumerate(up_with_every_suite(cell)):
        payloads = [bytes(size - IP_AND_UDP) for size in SIZES]
        with inner_sink(cell, number) as sink:
            send_inner(cell, sink, *payloads, b"fence", child=number)
            assert sink.until(b"fence") == payloads
        spi = cell.right.inbound_spi(number)
        sizes = [esp_suite(name).udp_length(size) for size in SIZES]
        for link in ("lan", "wan"):
            sent = cell.seen.on(link).esp_in_udp.where(lambda p, spi=spi: p.spi == spi, f"of {name}")
            lengths = [p.udp_length for p in sent[: len(SIZES)]]
            assert lengths == sizes, f"{name} on {link}: inner sizes {SIZES} gave {lengths}, due were {sizes}"


@scenario("ENC-08", versions=(MANUAL, IKEV1_MAIN, IKEV2), features=("several-children",))
def every_suite_carries_traffic(cell: Cell) -> None:
    suites = up_with_every_suite(cell)
    for number in range(len(suites)):
        cell.ping(child=number)
        cell.ping_back(child=number)
        cell.transfer(16384, child=number)
        cell.transfer_back(16384, child=number)
    seen = cell.seen
    for peer, end in ((cell.right, cell.endpoint("right")), (cell.left, cell.endpoint("left"))):
        arrived = Counter(packet.spi for packet in seen.esp_in_udp.to(end.address))
        for number, name in enumerate(suites):
            assert arrived[peer.inbound_spi(number)] >= 10, f"{name} at {end.name}: {arrived}"
    expect(seen.esp_in_udp).sequence_numbers_count_from(1)
    expect(seen.native_esp).none()
    expect(seen.tcp).none()
