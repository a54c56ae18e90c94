"""What this host and kernel can do, found out by doing it; a refusal names what is missing."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lab.errors import UnavailableError as UnavailableError
from lab.net.errors import NetworkError
from lab.net.namespace import Namespace
from lab.net.queue import Queue
from lab.unpacked import LIBRESWAN, PLUTO, cache_folder, libreswan

UDP_ENCAP = 100
AF_KEY = 15
PF_KEY_V2 = 2
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
CHARON = "/usr/sbin/charon-systemd"
IKED = "/usr/sbin/iked"
RACOON = "NATTLAB_RACOON"
"""Environment variable that names a racoon."""
SECCOMP_ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"

PROGRAMS = frozenset({"charon", "vici", "kernel-libipsec"})
"""Capabilities that are files of a peer: one that runs in an image of its own brings them."""
IN_GUESTS = frozenset({"INET_ESP", "NET_KEY", "UDP_ENCAP_NON_IKE", "netem"})
"""Capabilities of a kernel, which a guest with another kernel brings."""


@dataclass(frozen=True)
class Capability:
    """One thing a host may or may not be able to do."""

    name: str
    present: bool
    detail: str
    """What was tried and what came of it."""
    why: str
    """What cannot run without it."""


class _ProbeFailedError(Exception):
    """The thing probed for is not there; the text says what was seen."""


def _errno_text(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror})"


def _root() -> str:
    if os.geteuid() != 0:
        raise _ProbeFailedError(f"running as uid {os.geteuid()}")
    return "uid 0"


def _netns() -> str:
    with Namespace.create("probe"):
        return "unshare(CLONE_NEWNET) works"


def _tun() -> str:
    step = "open"
    # The device belongs to the namespace in which /dev/net/tun is opened, not to that of the ioctl.
    with Namespace.create("probe") as namespace, namespace.entered():
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            step = "ioctl TUNSETIFF on"
            with os.fdopen(fd, "rb", buffering=0) as device:
                fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", b"probe0", IFF_TUN_NO_PI))
        except OSError as error:
            raise _ProbeFailedError(f"{step} /dev/net/tun: {_errno_text(error)}") from error
    return "a TUN device can be made"


def _run_inside(argv: list[str], stdin: str | None = None, **environment: str) -> None:
    """Run a program in a throw-away network namespace; _ProbeFailedError with its last words if it fails."""
    try:
        with Namespace.create("probe") as namespace, namespace.entered():
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=20,
                env={**os.environ, **environment},
            )
    except OSError as error:
        raise _ProbeFailedError(f"{argv[0]}: {_errno_text(error)}") from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise _ProbeFailedError(f"{' '.join(argv[:3])}: {words[0]}")


def _xfrm_esp() -> str:
    state = "src 10.255.255.2 dst 10.255.255.1 proto esp spi 0x1000 mode tunnel auth hmac(sha1)"
    key = "0x" + "11" * 20
    _run_inside(["ip", "xfrm", "state", "add", *state.split(), key, "enc", "ecb(cipher_null)", ""])
    return "the kernel takes an ESP state"


def _pf_key() -> str:
    try:
        socket.socket(AF_KEY, socket.SOCK_RAW, PF_KEY_V2).close()
    except OSError as error:
        raise _ProbeFailedError(f"socket(AF_KEY): {_errno_text(error)}") from error
    return "AF_KEY sockets open"


def _udp_encap(kind: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, kind)
        except OSError as error:
            raise _ProbeFailedError(f"setsockopt(UDP_ENCAP, {kind}): {_errno_text(error)}") from error
    return f"UDP_ENCAP {kind} is taken"


def _iptables(backend: str) -> str:
    program = shutil.which(f"iptables-{backend}-restore")
    if program is None:
        raise _ProbeFailedError(f"iptables-{backend}-restore is not installed (Debian package iptables)")
    rules = "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n-A FORWARD -p esp -j DROP\n"
    rules += "-A INPUT -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"
    with tempfile.TemporaryDirectory(prefix="probe-nattlab-") as folder:
        _run_inside([program], rules, XTABLES_LOCKFILE=f"{folder}/lock")
    return f"{program} loads a NAT"


def _nft() -> str:
    program = shutil.which("nft")
    if program is None:
        raise _ProbeFailedError("nft is not installed (Debian package nftables)")
    _run_inside([program, "-f", "-"], "table ip probe { chain c { udp checksum 0 udp checksum set 1; }; }\n")
    return f"{program} loads rules"


def _nfqueue() -> str:
    program = shutil.which("iptables-legacy-restore")
    if program is None:
        raise _ProbeFailedError("iptables-legacy-restore is not installed (Debian package iptables)")
    with tempfile.TemporaryDirectory(prefix="probe-nattlab-") as folder:
        rules = "*mangle\n-A FORWARD -j NFQUEUE --queue-num 0\nCOMMIT\n"
        rules += "*raw\n-A PREROUTING -j CT --notrack\nCOMMIT\n"
        _run_inside([program], rules, XTABLES_LOCKFILE=f"{folder}/lock")
    with Namespace.create("probe") as namespace:
        Queue(namespace, (0,), lambda _, packet: packet).close()
    return f"{program} queues packets, and a program takes them"


def _npt() -> str:
    program = shutil.which("ip6tables-legacy-restore") or "ip6tables-legacy-restore"
    change = "-j SNPT --src-pfx fd01::/64 --dst-pfx fd02::/64"
    with tempfile.TemporaryDirectory(prefix="probe-nattlab-") as folder:
        rules = f"*mangle\n-A POSTROUTING {change}\nCOMMIT\n*raw\n-A PREROUTING -j CT --notrack\nCOMMIT\n"
        _run_inside([program], rules, XTABLES_LOCKFILE=f"{folder}/lock")
    return f"{program} translates prefixes"


def _egress_hook() -> str:
    chain = "type filter hook egress device lo priority 0; meta mark 1 fwd to lo;"
    _run_inside(["nft", "-f", "-"], f"table netdev probe {{ chain c {{ {chain} }}; }}\n")
    return "frames can be diverted where they leave"


def _qdisc_netem() -> str:
    _run_inside(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    return "netem can be attached"


def _program(path: str, package: str) -> str:
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise _ProbeFailedError(f"{path} is not an executable file (Debian package {package})")
    return path


def _libipsec() -> str:
    return _plugin("kernel-libipsec", "libcharon-extra-plugins")


def _vici() -> str:
    return _plugin("vici", "strongswan-swanctl")


def _plugin(name: str, package: str) -> str:
    path = f"/usr/lib/ipsec/plugins/libstrongswan-{name}.so"
    if not os.path.isfile(path):
        raise _ProbeFailedError(f"{path} is missing (Debian package {package})")
    return path


def _racoon() -> str:
    path = os.environ.get(RACOON, "")
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise _ProbeFailedError(f"{RACOON} names no program ({path!r}), and no Debian package has one")
    return path


def _libreswan() -> str:
    root = libreswan()
    if root is None:
        place = os.environ.get(LIBRESWAN) or f"{cache_folder()}/libreswan-*"
        raise _ProbeFailedError(f"{place}/{PLUTO} is not there (scripts/setup unpacks it)")
    return str(root / PLUTO)


def beside_racoon(name: str) -> str:
    """A program of the same package: NATTLAB_RACOONCTL and the like, else that beside racoon."""
    racoon = os.environ.get(RACOON, "")
    return os.environ.get(f"NATTLAB_{name.upper()}", "") or os.path.join(os.path.dirname(racoon), name)


def _racoonctl() -> str:
    path = beside_racoon("racoonctl")
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise _ProbeFailedError(f"{path} is not an executable file (NATTLAB_RACOONCTL or beside {RACOON})")
    return path


def _seccomp_notify() -> str:
    with open(SECCOMP_ACTIONS) as file:
        if "user_notif" not in file.read().split():
            raise _ProbeFailedError(f"{SECCOMP_ACTIONS} lists no user_notif")
    release = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    if release < (5, 14):
        raise _ProbeFailedError(f"Linux {platform.release()} cannot hand descriptors over atomically (5.14)")
    return "system calls can be answered by another process"


def _tshark() -> str:
    path = shutil.which("tshark")
    if path is None:
        raise _ProbeFailedError("tshark is not installed (Debian package tshark)")
    return path


def _container() -> str:
    # The docker package is slow to import, and most runs need no engine.
    from lab.nodes.engine import connect

    return connect().describe()


def _pid_namespace() -> str:
    done = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise _ProbeFailedError(done.stderr.strip())
    return "unshare(CLONE_NEWPID) works"


_PROBES: dict[str, tuple[Callable[[], str], str]] = {
    "root": (_root, "everything: namespaces, raw sockets and NAT rules need it"),
    "netns": (_netns, "everything: each node is a network namespace"),
    "pidns": (_pid_namespace, "leak-free stops: each lab's processes live in one PID namespace"),
    "iptables-nft": (lambda: _iptables("nft"), "NATs by iptables on the nf_tables backend (default)"),
    "iptables-legacy": (lambda: _iptables("legacy"), "NATs by iptables on the legacy backend"),
    "nft": (_nft, "NATs that do what iptables cannot say: break checksums, learn who may come in"),
    "NFQUEUE": (_nfqueue, "NATs with a middlebox in them: what ALGs and passthroughs do to IPsec"),
    "TUN": (_tun, "the natt peer and strongSwan's userland ESP: both carry inner packets over a TUN device"),
    "charon": (lambda: _program(CHARON, "charon-systemd"), "the strongswan peer"),
    "vici": (_vici, "the strongswan peer: it is driven over vici"),
    "kernel-libipsec": (_libipsec, "strongSwan where the kernel has no ESP"),
    "iked": (lambda: _program(IKED, "openiked"), "the openiked and openiked+natt peers"),
    "racoon": (_racoon, "the racoon and racoon+natt peers"),
    "racoonctl": (_racoonctl, "the racoon and racoon+natt peers: they are told what to do by it"),
    "libreswan": (_libreswan, "the libreswan peer"),
    "seccomp-notify": (_seccomp_notify, "unmodified key managers on natt's stack (nattd run)"),
    "UDP_ENCAP": (lambda: _udp_encap(2), "comparing our demultiplexing with this kernel's (RFC 3948)"),
    "UDP_ENCAP_NON_IKE": (
        lambda: _udp_encap(1),
        "kernel sockets for draft 00/01 encapsulation (gone since Linux 6.10; natt does it in user space)",
    ),
    "INET_ESP": (_xfrm_esp, "kernel ESP: strongSwan without faked NAT detection, native ESP, transport mode"),
    "NET_KEY": (_pf_key, "PF_KEY in the kernel: racoon, setkey and OpenIKED as peers"),
    "tshark": (_tshark, "Wireshark's opinion beside ours, and a look inside ESP with the peers' keys"),
    "NPT": (_npt, "NPTv6, translation of IPv6 prefixes"),
    "tayga": (
        lambda: _program("/usr/sbin/tayga", "tayga"),
        "NAT64: an initiator of IPv6 to an IPv4 responder",
    ),
    "netdev-egress": (_egress_hook, "links that lose, delay, reorder, double or corrupt, by a seed"),
    "netem": (_qdisc_netem, "the same by the kernel where no seed is asked for: the lab does it itself"),
    "container": (_container, "nodes that are containers, and peers of which an image is one release"),
}


@cache
def probe(name: str) -> Capability:
    """Find out whether this host has the capability `name`; KeyError for an unknown name."""
    check, why = _PROBES[name]
    try:
        return Capability(name, True, check(), why)
    except (_ProbeFailedError, NetworkError, OSError, subprocess.TimeoutExpired) as error:
        return Capability(name, False, str(error), why)


def names() -> list[str]:
    """Every capability this module knows, in the order a person reads them."""
    return list(_PROBES)


def require(*wanted: str) -> None:
    """Raise UnavailableError for the first of `wanted` that is missing, last for what a guest may have."""
    for name in sorted(wanted, key=lambda name: name in IN_GUESTS):
        found = probe(name)
        if not found.present:
            raise UnavailableError(name, found.detail)


def kernel() -> str:
    """Name and release of the running kernel, for reports."""
    return f"{platform.system()} {platform.release()}"
