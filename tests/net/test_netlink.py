import struct

import pytest

from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.netlink import Compiler, RouteSocket, messages


@pytest.fixture
def namespace():
    with Namespace.create("left") as made:
        yield made


def test_a_veth_request_differs_only_in_sequence_and_descriptor():
    with Compiler() as compiler:
        request = compiler.veth("veth lan", "lan", 2, 5, "nat")
    one, two = request.bound(0, {"nat": 7}), request.bound(9, {"nat": 300})
    changed = [at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    offset = request.descriptors[0][0]
    assert changed == [8, offset, offset + 1]
    assert struct.unpack_from("=I", two, offset) == (300,)
    assert struct.unpack_from("=HHI", one, 4) == (16, 0x605, 0), "RTM_NEWLINK, create exclusively with ack"
    assert struct.unpack_from("=HH", one, offset - 4) == (8, 28), "IFLA_NET_NS_FD"


def test_the_first_refused_request_is_named_with_the_kernels_words(namespace: Namespace):
    with Compiler() as compiler, RouteSocket(namespace) as route:
        up = compiler.request("lo up", "link", "set", index=1, state="up")
        lost = compiler.request(
            "route to default via 10.9.9.9", "route", "add", dst="default", gateway="10.9.9.9"
        )
        route.send([up], {})
        with pytest.raises(NetworkError) as caught:
            route.send([up, lost, lost], {})
        assert str(caught.value) == (
            "left: route to default via 10.9.9.9: Network is unreachable (ENETUNREACH): "
            "Nexthop has invalid gateway"
        )
        with pytest.raises(NetworkError, match=r"left: absent up: No such device \(ENODEV\)"):
            route.send([compiler.request("absent up", "link", "set", index=77, state="up")], {})
        route.send([], {})


def test_a_link_without_carrier_is_refused(namespace: Namespace):
    with Compiler() as compiler, RouteSocket(namespace) as route, Namespace.create("right") as other:
        route.send([compiler.veth("veth", "lan", 2, 2, "right")], {"right": other.fileno()})
        route.send([compiler.request("lan up", "link", "set", index=2, state="up")], {})
        look = compiler.request("carrier of lan", "link", "get", carrier=True, index=2)
        with pytest.raises(NetworkError, match="left: carrier of lan: it has no carrier"):
            route.send([look], {})
        with RouteSocket(other) as far:
            far.send([compiler.request("lan up", "link", "set", index=2, state="up")], {})
        route.send([look], {})


def test_a_truncated_datagram_is_split_as_far_as_it_goes():
    whole = struct.pack("=IHHII", 20, 3, 0, 5, 0) + b"abcd"
    assert messages(whole + whole[:10]) == [(3, 0, 5, b"abcd")]
    assert messages(struct.pack("=IHHII", 4, 3, 0, 5, 0)) == []
    assert messages(b"") == []
