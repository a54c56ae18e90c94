"""The IP header around ESP in tunnel mode."""

from socket import IP_TOS, IPPROTO_IP

from lab.capture.expect import expect
from lab.cell import Cell
from lab.peers.peer import MANUAL, OuterHeader
from lab.scenario import scenario
from scenarios.demultiplexing import PEER_PORT, PROBE_PORT
from scenarios.expected import without
from scenarios.forging import SUITE, esp_by_hand, inner_packet
from scenarios.inner import Sink, inner_sink
from scenarios.reckoning import Reckoning

EF, AF11, ECT, CE = 46, 10, 2, 3
INNER_TOS = EF << 2 | ECT
FIXED = OuterHeader(dscp=AF11, ecn=False, df="clear", ttl=33)
POLICIES = (
    (OuterHeader(), True, INNER_TOS, True),
    (OuterHeader(), False, INNER_TOS, False),
    (FIXED, True, AF11 << 2, False),
    (OuterHeader(df="set"), False, INNER_TOS, True),
)
"""Policy and inner DF; then outer TOS octet and outer DF."""

IP_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO = 10, 0, 2


@scenario("ENC-19", pairs=without("kernel"), versions=(MANUAL,), esp=SUITE)
def outer_header_follows_its_policy(cell: Cell) -> None:
    cell.start()
    with inner_sink(cell) as sink:
        for number, (policy, inner_df, tos, outer_df) in enumerate(POLICIES):
            if policy != cell.connection.outer:
                cell.restart("left", outer=policy)
            _send_marked(cell, sink, inner_df)
            for link, ttl in (("lan", policy.ttl), ("wan", policy.ttl - 1)):
                sent = cell.until(
                    lambda seen, n=number, on=link: seen.on(on).esp_in_udp[n:], f"ESP on {link}"
                )
                expect(sent, note=f"{policy}, inner DF {inner_df}").exactly(1).each_field(
                    tos=tos, dont_fragment=outer_df, ttl=ttl
                )
    _congestion_comes_inward(cell)


def _send_marked(cell: Cell, sink: Sink, dont_fragment: bool) -> None:
    end = cell.endpoint("left")
    with end.node.socket() as sock:
        sock.bind((end.inner, 0))
        sock.setsockopt(IPPROTO_IP, IP_TOS, INNER_TOS)
        sock.setsockopt(IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO if dont_fragment else PMTUDISC_DONT)
        sock.sendto(b"marked", sink.address)


def _congestion_comes_inward(cell: Cell) -> None:
    """RFC 6040 section 4.2: CE outside marks an ECN-capable packet inside, and drops any other."""
    left = cell.endpoint("left")
    with inner_sink(cell) as sink, left.node.socket() as outside:
        sink.tell_tos()
        outside.bind((left.address, PROBE_PORT))
        outside.setsockopt(IPPROTO_IP, IP_TOS, CE)
        with Reckoning(cell.right) as reckoning:
            for sequence, tos in ((1000, EF << 2), (1001, INNER_TOS)):
                packet = inner_packet(cell, sink, b"congested", tos=tos)
                outside.sendto(esp_by_hand(cell, sequence, packet), (left.remote, PEER_PORT))
            assert sink.tos_of_next() == EF << 2 | CE
        reckoning.expect(NattInEcnDropped=1, NattInDecapsulated=1, NattMappings=1)
    expect(cell.seen.on("wan").esp_in_udp[-2:]).each_field(tos=CE)
