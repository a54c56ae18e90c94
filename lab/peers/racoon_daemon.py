"""racoon, unmodified: how it is configured, told and read, whatever stack it is on.

No Debian 12 package holds it. The program is the one that NATTLAB_RACOON names; which NAT-T versions it
offers was chosen when it was compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache

from lab.ike.keys import IKEV1_TABLE, ikev1_line
from lab.peers.daemon import DaemonPeer
from lab.peers.peer import (
    IKE_PORT,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    NAT_T_PORT,
    OFF,
    Connection,
    PeerError,
    UnsupportedError,
)
from lab.peers.suite import ESP_SUITES, EspSuite
from lab.probe import RACOON, beside_racoon

VERSIONS = frozenset({IKEV1_MAIN, IKEV1_AGGRESSIVE})
IKE_GROUPS = frozenset({"modp2048"})
IDS = frozenset({"address"})
"""With a shared secret its main mode takes no names."""
_CIPHERS = {"3des-cbc": "3des", "aes-cbc": "aes {bits}"}
_MACS = {"hmac-md5-96": "hmac_md5", "hmac-sha1-96": "hmac_sha1"}
_NAT_TRAVERSAL = {OFF: "off"}
_CONFIGURATION = """path pre_shared_key "{secrets}";
path pidfile "{pid}";
log debug;
listen {{
  isakmp {address} [{ike}];
  isakmp_natt {address} [{natt}];
  adminsock "{admin}" "root" "root" 0600;
  strict_address;
}}
timer {{
  natt_keepalive {keepalive:g} sec;
  counter 6;
  interval 2 sec;
}}
remote {remote} {{
  exchange_mode {mode};
  my_identifier address;
  nat_traversal {nat_traversal};
  proposal_check obey;
  proposal {{
    encryption_algorithm aes 128;
    hash_algorithm sha256;
    authentication_method pre_shared_key;
    dh_group modp2048;
  }}
}}
sainfo anonymous {{
  lifetime time 1 hour;
  encryption_algorithm {cipher};
  authentication_algorithm {mac};
  compression_algorithm deflate;
}}
"""


def _is_known(suite: EspSuite) -> bool:
    return suite.encryption in _CIPHERS and suite.integrity in _MACS and not suite.esn


ESP = frozenset(name for name, suite in ESP_SUITES.items() if _is_known(suite))


_IKE_KEY = re.compile(
    r"final encryption key computed:\n.*DEBUG: *\n((?:[0-9a-f]{8}[ \n])+)"
    r"|ISAKMP-SA established .* spi:([0-9a-f]{16}):[0-9a-f]{16}"
)


def ike_lines(log: str) -> list[str]:
    """Lines of the table ``ikev1_decryption_table`` for each phase 1 of a log at its level ``debug``."""
    lines, key = [], ""
    for found in _IKE_KEY.finditer(log):
        if found[1]:
            key = "".join(found[1].split())
        elif key:
            lines.append(ikev1_line(bytes.fromhex(found[2]), bytes.fromhex(key)))
    return lines


class RacoonPeer(DaemonPeer):
    """A racoon in a node of its own, with the policies that it does not make itself."""

    program = "racoon"

    @classmethod
    def check(cls, connection: Connection) -> None:
        """Besides what is declared: a phase 1 has a phase 2, and its keepalives are in whole seconds."""
        super().check(connection)
        if not connection.child:
            raise UnsupportedError(cls.name, "a phase 1 without a phase 2")
        if connection.keepalive != int(connection.keepalive):
            raise UnsupportedError(cls.name, f"keepalives every {connection.keepalive:g} s")

    @classmethod
    @cache
    def release(cls) -> str:
        """``ipsec-tools 0.9.1`` of the program that is named."""
        program = os.environ.get(RACOON, "")
        try:
            done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10)
        except OSError:
            return f"racoon ({RACOON} names no program)"
        found = re.search(r"ipsec-tools \S+", done.stdout + done.stderr)
        return found[0] if found else "racoon (release unknown)"

    def configure(self) -> Sequence[str]:
        """Write racoon.conf and its secrets, which nobody else may read."""
        connection, end = self.connection, self.endpoint
        (suite,) = connection.suites
        secrets = end.node.write_file("racoon.secrets", f"{end.remote} {connection.secret}\n")
        path = end.node.write_file(
            f"{self.program}.conf",
            _CONFIGURATION.format(
                secrets=secrets,
                pid=self._path("pid"),
                admin=self._path("sock"),
                address=end.address,
                remote=end.remote,
                ike=IKE_PORT,
                natt=NAT_T_PORT,
                keepalive=connection.keepalive,
                mode="aggressive" if connection.version == IKEV1_AGGRESSIVE else "main",
                nat_traversal=_NAT_TRAVERSAL.get(connection.encapsulation, "on"),
                cipher=_CIPHERS[suite.encryption].format(bits=suite.key_bits),
                mac=_MACS[suite.integrity],
            ),
        )
        # It appends, and what an earlier one said is no sign of this one.
        self._path("log").unlink(missing_ok=True)
        return [os.environ[RACOON], "-F", "-f", str(path), "-l", str(self._path("log"))]

    def load_policies(self) -> None:
        """Say the policies of this connection."""
        for way in ("out", "in"):
            self.key_socket.load(self.policy(way))

    def is_ready(self) -> bool:
        """It says so last of its IKE port."""
        return f"{self.endpoint.address}[{IKE_PORT}] used as isakmp port" in self.output()

    def output(self) -> str:
        """Its log, or before there is one its standard error."""
        log = self._path("log")
        return log.read_text(errors="replace") if log.exists() else super().output()

    def _racoonctl(self, *words: str) -> str:
        argv = [beside_racoon("racoonctl"), "-s", str(self._path("sock")), *words]
        done = self.endpoint.node.run(argv)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise PeerError(f"racoonctl {' '.join(words)} on {self.endpoint.name}: {said}")
        return done.stdout

    def begin(self) -> None:
        """Ask for a phase 2 and do not wait."""
        end = self.endpoint
        bits, family = (128, "inet6") if ":" in end.inner else (32, "inet")
        selectors = (f"{address}/{bits}/0" for address in (end.inner, end.remote_inner))
        self._racoonctl("establish-sa", "esp", family, *selectors, "any")

    @property
    def has_ike(self) -> bool:
        """Whether a phase 1 is established here, by the log."""
        log = self.output()
        return log.count("ISAKMP-SA established") > log.count("ISAKMP-SA deleted")

    def key_tables(self) -> dict[str, str]:
        """See Peer.key_tables; those of IKE are out of its log of its own secrets."""
        lines = ike_lines(self.output()) if self._path("log").exists() else []
        mine = {IKEV1_TABLE: "".join(f"{line}\n" for line in lines)} if lines else {}
        return {**super().key_tables(), **mine}

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local`` and ``nat-remote`` those of the last phase 1."""
        found = re.findall(r"NAT (?:not )?detected:? ?(.*)", self.output())
        words = {"ME": "nat-local", "PEER": "nat-remote"}
        return frozenset(words[word] for word in (found[-1].split() if found else ()) if word in words)
