"""racoon, unmodified, on natt's stack: the IKEv1 daemon NAT traversal was first written for on Linux.

No Debian 12 package holds it. The program is the one that NATTLAB_RACOON names; which NAT-T versions it
offers was chosen when it was compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache

from lab.peers.adopted import AdoptedPeer
from lab.peers.peer import (
    IKE_PORT,
    IKEV1_AGGRESSIVE,
    IKEV1_MAIN,
    NAT_T_PORT,
    Capabilities,
    Connection,
    UnsupportedError,
)
from lab.peers.suite import ESP_SUITES, EspSuite
from lab.probe import RACOON

_CIPHERS = {"3des-cbc": "3des", "aes-cbc": "aes {bits}"}
_MACS = {"hmac-md5-96": "hmac_md5", "hmac-sha1-96": "hmac_sha1"}
_CONFIGURATION = """path pre_shared_key "{secrets}";
path pidfile "{pid}";
log debug;
listen {{
  isakmp {address} [{ike}];
  isakmp_natt {address} [{natt}];
  adminsock disabled;
  strict_address;
}}
timer {{ natt_keepalive {keepalive:g} sec; }}
remote {remote} {{
  exchange_mode {mode};
  my_identifier address;
  nat_traversal on;
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


class Racoon(AdoptedPeer):
    """A racoon in a node of its own, with the policies that it does not make itself."""

    name = "racoon+natt"
    program = "racoon"
    capabilities = Capabilities(
        versions=frozenset({IKEV1_MAIN, IKEV1_AGGRESSIVE}),
        esp=frozenset(name for name, suite in ESP_SUITES.items() if _is_known(suite)),
        groups=frozenset({"modp2048"}),
        # With a shared secret its main mode takes no names.
        ids=frozenset({"address"}),
        # Keepalives it sends to every peer with a NAT on either side. Its phase 2 outlives its phase 1.
        features=frozenset({"ike", "nat-detection"}),
    )

    @classmethod
    def needs(cls, connection: Connection) -> tuple[str, ...]:
        """The program, and what `nattd run` takes."""
        return ("racoon", "seccomp-notify", "TUN")

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
                address=end.address,
                remote=end.remote,
                ike=IKE_PORT,
                natt=NAT_T_PORT,
                keepalive=connection.keepalive,
                mode="aggressive" if connection.version == IKEV1_AGGRESSIVE else "main",
                cipher=_CIPHERS[suite.encryption].format(bits=suite.key_bits),
                mac=_MACS[suite.integrity],
            ),
        )
        return [os.environ[RACOON], "-F", "-f", str(path), "-l", str(self._path("log"))]

    def start(self) -> None:
        """Start it, and then say the policies: it hears of them over PF_KEY."""
        # It appends, and what an earlier one said is no sign of this one.
        self._path("log").unlink(missing_ok=True)
        super().start()
        for way in ("out", "in"):
            self.key_socket.load(self.policy(way))

    def is_ready(self) -> bool:
        """It says so last of its IKE port."""
        return f"{self.endpoint.address}[{IKE_PORT}] used as isakmp port" in self.output()

    def output(self) -> str:
        """Its log, or before there is one its standard error."""
        log = self._path("log")
        return log.read_text(errors="replace") if log.exists() else super().output()

    @property
    def has_ike(self) -> bool:
        """Whether a phase 1 is established here, by the log."""
        log = self.output()
        return log.count("ISAKMP-SA established") > log.count("ISAKMP-SA deleted")

    def nat_flags(self) -> frozenset[str]:
        """Of ``nat-local`` and ``nat-remote`` those of the last phase 1."""
        found = re.findall(r"NAT (?:not )?detected:? ?(.*)", self.output())
        words = {"ME": "nat-local", "PEER": "nat-remote"}
        return frozenset(words[word] for word in (found[-1].split() if found else ()) if word in words)
