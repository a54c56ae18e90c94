"""libreswan: one pluto per node, driven over its control socket by whack.

Its Debian package excludes strongSwan's, so scripts/setup unpacks it; pluto finds its helpers where they were
compiled to be, in /usr/libexec, by a mount of its own. ESP is the kernel's alone. IKE SAs without a child
come up on any kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lab.nodes.node import Completed
from lab.peers import libreswan_conf, xfrm_keys
from lab.peers.peer import (
    AUTO,
    FORCE,
    GROUPS,
    IDS,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    IKEV2,
    KERNEL,
    OFF,
    Capabilities,
    Connection,
    Endpoint,
    Peer,
    PeerError,
    UnsupportedError,
)
from lab.peers.readiness import last_lines
from lab.peers.suite import ESP_SUITES
from lab.unpacked import PLUTO, libreswan
from lab.wait import wait_until

READY_DEADLINE = 15.0
INITIATE_DEADLINE = 20.0
_EXEC = "usr/libexec"
_MOUNTED = 'mount --bind "$1" /usr/libexec && shift && exec "$@"'
_STATE = re.compile(r'#(\d+): "(\w+)"(?:\[\d+\] \S+?)?:\d+ STATE_(\w+)')
_SPIS = re.compile(r'#(\d+): "(\w+)"(?:\[\d+\] \S+)? .*?esp\.([0-9a-f]+)@\S+ esp\.([0-9a-f]+)@')
_IKE_STATES = ("MAIN_I4", "MAIN_R3", "AGGR_I2", "AGGR_R2", "V2_ESTABLISHED_IKE_SA")
_CHILD_STATES = ("QUICK_I2", "QUICK_R2", "V2_ESTABLISHED_CHILD_SA")


class Libreswan(Peer):
    """A pluto in a node of its own."""

    name = "libreswan"
    refuses_containers = "its files are unpacked on this host and mounted where it looks for them"
    capabilities = Capabilities(
        versions=frozenset({IKEV1_MAIN, IKEV1_AGGRESSIVE, IKEV2}),
        modes=frozenset({"tunnel", "transport"}),
        encapsulations=frozenset({AUTO, FORCE, OFF}),
        groups=frozenset(GROUPS),
        ids=frozenset(IDS),
        esp=frozenset(ESP_SUITES),
        options=frozenset({"further_esp", "inner_family", "wildcard", "nat_t", "replay_window"})
        # Of retransmission an established IKE SA takes the first interval alone.
        | {"identity", "initial_contact", "liveness", "child_lifetime"}
        | {"ike_fragmentation"},
        # What an initiator deletes it begins anew at once.
        features=frozenset({"ike", "keepalive", "nat-detection", "rekey-ike", "no-nat-traversal"}),
    )

    @classmethod
    def features(cls, version: str) -> frozenset[str]:
        """A phase 1 it does not replace when told to."""
        return super().features(version) - (set() if version == IKEV2 else {"rekey-ike"})

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """The program, and for a child SA the kernel's ESP."""
        return ("libreswan", "INET_ESP") if connection.child else ("libreswan",)

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Besides what is declared: its keepalives are of whole seconds, IKEv1 has fewer suites, and it
        offers the drafts together or not at all.
        """
        super().check(connection)
        if connection.keepalive != int(connection.keepalive):
            raise UnsupportedError(cls.name, f"keepalives every {connection.keepalive:g} s")
        for suite in connection.suites:
            if connection.version != IKEV2 and (suite.encryption == "chacha20-poly1305" or suite.esn):
                raise UnsupportedError(cls.name, f"ESP suite {suite.name} with IKEv1")
        if libreswan_conf.nat_method(connection) is None:
            raise UnsupportedError(cls.name, f"nat_t {', '.join(connection.nat_t)}")

    @classmethod
    @cache
    def release(cls) -> str:
        """``Libreswan 4.10`` as unpacked."""
        root = libreswan()
        if root is None:
            return "Libreswan (not unpacked)"
        done = subprocess.run(
            [root / PLUTO, "--version"], capture_output=True, text=True, timeout=10, env=_environment(root)
        )
        return " ".join(done.stdout.split()[:2]) or "Libreswan (release unknown)"

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        super().__init__(endpoint, connection)
        self._keys: dict[str, None] = {}
        self._seen = (0, False)
        """Length of the log when it was last asked whether it is connected, and its answer."""

    @property
    def engine(self) -> str:
        """See Peer.engine."""
        return KERNEL

    @property
    def _root(self) -> Path:
        root = libreswan()
        assert root is not None
        return root

    def start(self) -> None:
        """Start pluto, wait until it says that it listens, load the connections."""
        connection, end = self.connection, self.endpoint
        node = end.node
        for name, octets in _nss_database(self._root).items():
            node.write_file(f"nss/{name}", octets)
        for folder in ("run", "ipsec.d"):
            (node.scratch / folder).mkdir(exist_ok=True)
        node.write_file("ipsec.secrets", libreswan_conf.secrets(connection))
        node.write_file("updown", libreswan_conf.UPDOWN, 0o700)
        text = libreswan_conf.text(connection, end, node.scratch)
        conf = node.write_file("ipsec.conf", text)
        for number in range(1, len(connection.suites)):
            inner = end.child(number).inner
            bits = 128 if ":" in inner else 32
            node.run(["ip", "address", "replace", f"{inner}/{bits}", "dev", "lo"]).check()
        argv = [str(self._root / PLUTO), "--nofork", "--stderrlog", "--config", str(conf)]
        argv += ["--rundir", str(self._path("run"))]
        mounted = ["unshare", "--mount", "sh", "-c", _MOUNTED, "sh", str(self._root / _EXEC), *argv]
        self._program = node.start(mounted, "pluto", env=_environment(self._root))
        wait_until(
            self._is_ready, lambda: f"pluto on {end.name} to load and listen; {self._words()}", READY_DEADLINE
        )
        if not connection.child and connection.version == IKEV2:
            self._whack("--impair", "omit-v2-ike-auth-child")

    def _path(self, name: str) -> Path:
        return self.endpoint.node.scratch / name

    def _is_ready(self) -> bool:
        """Whether it has loaded its connections, after which it opens its sockets, and answers."""
        if not self.is_alive():
            raise PeerError(f"pluto on {self.endpoint.name} ended before it was ready: {self._words()}")
        log = self._log.read_text(errors="replace")
        names = map(libreswan_conf.child_name, range(len(self.connection.suites)))
        is_told = all(f'"{name}": added ' in log for name in names) and "listening for IKE messages" in log
        return is_told and "listening for IKE messages" in self._whack("--listen")

    def _run_whack(self, *words: str, timeout: float = 10.0) -> Completed:
        argv = [str(self._root / _EXEC / "ipsec/whack"), "--ctlsocket", str(self._path("run/pluto.ctl"))]
        return self.endpoint.node.run([*argv, *words], env=_environment(self._root), timeout=timeout)

    def _whack(self, *words: str, timeout: float = 10.0) -> str:
        try:
            done = self._run_whack(*words, timeout=timeout)
        except TimeoutError as error:
            raise PeerError(f"{error}; {self._words()}") from error
        if done.returncode:
            said = last_lines(done.stdout + done.stderr)
            what = f"could not {' '.join(words)}{'' if self.is_alive() else ' (pluto has died)'}"
            raise PeerError(f"libreswan on {self.endpoint.name} {what}: {said}; {self._words()}")
        return done.stdout

    def connect(self) -> None:
        """Initiate the IKE SA and its children; returns when all are installed here."""
        if not self.connection.child:
            # IKEv1 asks for a child all the same, and waits for it.
            self.begin()
        else:
            for number in range(len(self.connection.suites)):
                name = libreswan_conf.child_name(number)
                self._whack("--initiate", "--name", name, timeout=INITIATE_DEADLINE)
        self.wait_connected()

    def begin(self) -> None:
        """Initiate and do not wait."""
        self._whack("--initiate", "--asynchronous", "--name", libreswan_conf.child_name(0))

    def wait_connected(self) -> None:
        """Wait for an established IKE SA, and for the child SAs where they were asked for."""
        wait_until(
            self._is_connected,
            lambda: (
                f"libreswan on {self.endpoint.name} to have its SAs; it has {self.sas()}; {self._words()}"
            ),
            INITIATE_DEADLINE,
        )

    def _is_connected(self) -> bool:
        """Asked anew only if the log has grown: to start whack takes long where much waits."""
        length = self._log.stat().st_size
        if length != self._seen[0]:
            self._seen = (length, self._has_all())
        return self._seen[1]

    def _has_all(self) -> bool:
        count = len(self.connection.suites) if self.connection.child else 0
        due = {libreswan_conf.child_name(number) for number in range(count)}
        states = self.sas()
        ready = {state["connection"] for state in states if state["state"] in _CHILD_STATES}
        return due <= ready and any(state["state"] in _IKE_STATES for state in states)

    def rekey_child(self) -> None:
        """Begin to replace the first child SA; IKEv1 makes another one."""
        verb = "--rekey-ipsec" if self.connection.version == IKEV2 else "--initiate"
        self._whack(verb, "--asynchronous", "--name", libreswan_conf.child_name(0))

    def rekey_ike(self) -> None:
        """Begin to replace the IKE SA; not with IKEv1."""
        self._whack("--rekey-ike", "--asynchronous", "--name", libreswan_conf.child_name(0))

    def delete_child(self) -> None:
        """Delete the newest first child SA, here and there."""
        self._delete(_CHILD_STATES)

    def delete_ike(self) -> None:
        """Delete the IKE SA and its children, here and there."""
        self._delete(_IKE_STATES)

    def _delete(self, kinds: tuple[str, ...]) -> None:
        found = [state["number"] for state in self.sas() if state["state"] in kinds]
        if not found:
            raise PeerError(f"libreswan on {self.endpoint.name} has nothing to delete: {self.sas()}")
        self._whack("--deletestate", str(found[-1]))

    @property
    def has_ike(self) -> bool:
        """Whether an IKE SA is established here."""
        return any(state["state"] in _IKE_STATES for state in self.sas())

    def sas(self) -> list[dict[str, Any]]:
        """What whack lists of states, oldest first: ``number``, ``connection``, ``state``, and of child SAs
        the SPIs ``spi-in`` and ``spi-out``.
        """
        found: dict[int, dict[str, Any]] = {}
        for line in self._whack("--showstates").splitlines():
            if state := _STATE.search(line):
                number = int(state[1])
                found[number] = {"number": number, "connection": state[2], "state": state[3]}
            elif spis := _SPIS.search(line):
                found[int(spis[1])] |= {"spi-out": int(spis[3], 16), "spi-in": int(spis[4], 16)}
        return [found[number] for number in sorted(found)]

    def inbound_spis(self) -> frozenset[int]:
        """SPIs of the child SAs from the other end."""
        return frozenset(state["spi-in"] for state in self.sas() if "spi-in" in state)

    def inbound_spi(self, child: int = 0) -> int:
        """SPI of the newest child SA of that number from the other end."""
        name = libreswan_conf.child_name(child)
        found = [s["spi-in"] for s in self.sas() if s["connection"] == name and "spi-in" in s]
        if not found:
            raise PeerError(f"libreswan on {self.endpoint.name} has no child SA {name}")
        return int(found[-1])

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local`` and ``nat-remote`` those that pluto has found last."""
        log = self._log.read_text(errors="replace")
        if "NAT_TRAVERSAL local policy enforces encapsulation" in log:
            return frozenset({"nat-local", "nat-remote"})
        found = dict(re.findall(r"NAT_TRAVERSAL (this|that) end is (NOT )?behind NAT", log))
        ends = {"this": "nat-local", "that": "nat-remote"}
        return frozenset(flag for end, flag in ends.items() if found.get(end) == "")

    def stop(self) -> None:
        """Ask it to end, which sends DELETE; SIGKILL if that does not end it."""
        if self._program is not None and self.is_alive():
            self._remember_keys()
            self._program.terminate()

    def key_tables(self) -> dict[str, str]:
        """See Peer.key_tables; ESP's alone, which the kernel tells."""
        if self.is_alive():
            self._remember_keys()
        return {"esp_sa": "".join(f"{line}\n" for line in self._keys)} if self._keys else {}

    def _remember_keys(self) -> None:
        if self.connection.child:
            listed = self.endpoint.node.run(["ip", "xfrm", "state"]).check().stdout
            self._keys |= dict.fromkeys(xfrm_keys.esp_lines(listed))

    def logs(self) -> list[Path]:
        """ipsec.conf, ipsec.secrets, pluto's log, which is its standard error."""
        return self._existing(self._path("ipsec.conf"), self._path("ipsec.secrets"))

    @property
    def _log(self) -> Path:
        assert self._program is not None
        return self._program.stderr

    def _words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        told = "\n".join(line for line in lines if ": |" not in line)
        return f"its log ends: {last_lines(told)}"


def _environment(root: Path) -> Mapping[str, str]:
    paths = [root / "usr/sbin", root / "usr/libexec/ipsec"]
    libraries = ":".join(str(path) for path in sorted((root / "usr/lib").glob("*-linux-gnu*")))
    path = ":".join([*map(str, paths), os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])
    return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}


@cache
def _nss_database(root: Path) -> dict[str, bytes]:
    """File name → octets of a database without certificates, made once."""
    with tempfile.TemporaryDirectory(prefix="nattlab-nss-") as folder:
        argv = [str(root / "usr/bin/certutil"), "-N", "-d", f"sql:{folder}", "--empty-password"]
        subprocess.run(argv, check=True, capture_output=True, timeout=60, env=_environment(root))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
