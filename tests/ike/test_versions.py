"""The table of NAT-T versions against values recomputed elsewhere."""

from itertools import permutations

import pytest

from lab.ike.versions import NAT_D_TYPES, NAT_OA_TYPES, VERSIONS, best_common, by_name, by_vendor_id

HASHES = {
    "draft-00": "4485152d18b6bbcd0be8a8469579ddcc",
    "draft-01": "16f6ca16e4a4066d83821a0f0aeaa862",
    "draft-02": "cd60464335df21f87cfdb2fc68b6a448",
    "draft-02n": "90cb80913ebb696e086381b5ec427b1f",
    "draft-03": "7d9419a65310ca6f2c179d9215529d56",
    "draft-04": "9909b64eed937c6573de52ace952fa6b",
    "draft-05": "80d0bb3def54565ee84645d4c85ce3ee",
    "draft-06": "4d1e0e136deafa34c4f3ea9f02ec7285",
    "draft-07": "439b59f8ba676c4c7737ae22eab8f582",
    "draft-08": "8f8d83826d246b6fc7a8a6a428c11de8",
    "unnumbered": "4df37928e9fc4fd1b3262170d515c662",
    "rfc3947": "4a131c81070358455c5728f20e95452f",
}


def test_vendor_ids_are_those_seen_in_the_field():
    assert {name: version.vendor_id.hex() for name, version in VERSIONS.items()} == HASHES


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("draft-00 draft-01", (130, 131, 61443, 61444, False, 1, True)),
        ("draft-02 draft-02n draft-03", (130, 131, 61443, 61444, True, 1, False)),
        ("draft-04", (15, 16, 3, 4, True, 1, False)),
        ("draft-05 draft-06 draft-07 draft-08", (15, 16, 3, 4, True, 2, False)),
        ("rfc3947 unnumbered", (20, 21, 3, 4, True, 2, False)),
    ],
)
def test_numbers_of_each_version(names, expected):
    for name in names.split():
        v = by_name(name)
        seen = (
            v.nat_d,
            v.nat_oa,
            v.udp_tunnel,
            v.udp_transport,
            v.floats,
            v.nat_oa_count,
            v.non_ike_marker,
        )
        assert seen == expected, name


def test_payload_types_of_detection_and_original_address():
    assert sorted(NAT_D_TYPES) == [15, 20, 130]
    assert sorted(NAT_OA_TYPES) == [16, 21, 131]


def test_modes():
    draft, rfc = by_name("draft-03"), by_name("rfc3947")
    assert [draft.mode_value(m, e) for m in ("tunnel", "transport") for e in (False, True)] == [
        1,
        61443,
        2,
        61444,
    ]
    assert rfc.mode_value("transport", encapsulated=True) == 4
    with pytest.raises(ValueError, match="mode: want tunnel or transport, got 'beet'"):
        rfc.mode_value("beet", encapsulated=True)


def test_the_best_common_version_does_not_depend_on_the_order_of_the_offer():
    names = ("draft-02n", "draft-03", "unnumbered", "rfc3947")
    for order in permutations(names):
        offered = [by_name(name).vendor_id for name in order]
        assert best_common(offered, VERSIONS.values()) is by_name("rfc3947")
        assert best_common(offered, [by_name("draft-03"), by_name("draft-02n")]) is by_name("draft-03")
    assert best_common([bytes(16)], VERSIONS.values()) is None


def test_unknown_names_and_ids():
    with pytest.raises(ValueError, match="no NAT-T version 'draft-09'; there are draft-00, "):
        by_name("draft-09")
    assert by_vendor_id(b"RFC 3947") is None
