"""IPv6 inside, IPv4 outside: tayga(8) makes each insider an IPv4 address, which the NAT then masks."""

from __future__ import annotations

from ipaddress import IPv6Network

from lab.net.errors import NetworkError
from lab.nodes.namespace_node import NamespaceNode
from lab.nodes.node import Program
from lab.wait import DeadlineExceededError, wait_until

TAYGA = "/usr/sbin/tayga"
DEVICE = "nat64"
OWN, POOL = "192.168.255.1", "192.168.255.0/24"
"""IPv4 addresses between the two translations (RFC 7915 and NAT44)."""
CONFIGURATION = """tun-device {device}
ipv4-addr {own}
prefix {prefix}
dynamic-pool {pool}
data-dir {data}
"""


def start_nat64(node: NamespaceNode, prefix: IPv6Network) -> Program:
    """Translate between `prefix` and IPv4 on `node` until its programs end. Raises NetworkError."""
    text = CONFIGURATION.format(device=DEVICE, own=OWN, prefix=prefix, pool=POOL, data=node.scratch)
    configuration = str(node.write_file("tayga.conf", text))
    node.run([TAYGA, "--config", configuration, "--mktun"]).check()
    for command in (
        f"ip link set {DEVICE} up",
        f"ip route add {POOL} dev {DEVICE}",
        f"ip -6 route add {prefix} dev {DEVICE}",
    ):
        node.run(command.split()).check()
    program = node.start([TAYGA, "--config", configuration, "--nodetach"], "tayga")
    try:
        # It has opened the device when that has a carrier.
        wait_until(lambda: _is_running(node, program), lambda: f"tayga to run: {program.output()}")
    except DeadlineExceededError as error:
        raise NetworkError(f"nat {node.name}: {error}") from error
    return program


def _is_running(node: NamespaceNode, program: Program) -> bool:
    if program.returncode is not None:
        raise NetworkError(f"nat {node.name}: tayga ended with {program.returncode}: {program.output()}")
    return "LOWER_UP" in node.run(["ip", "link", "show", DEVICE]).check().stdout
