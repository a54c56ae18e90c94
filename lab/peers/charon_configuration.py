"""strongswan.conf of a charon-systemd in a node: plugins, ports, patience, logs."""

from __future__ import annotations

from pathlib import Path

from lab.ike.ikev2.config import Retransmission
from lab.peers import charon_keys
from lab.peers.peer import IKE_PORT, LIBIPSEC, Connection

_PATIENCE = Retransmission(1.0, 1.8, 4)
"""Shorter than charon's own, by which a peer is gone after 165 seconds."""

_PLUGINS = (
    "aes aesni sha2 sha1 md5 random nonce x509 pem openssl gmp curve25519 hmac kdf gcm ctr cmac xcbc drbg"
    "{backend} kernel-netlink socket-default vici{further}"
)
_CONFIGURATION = """charon-systemd {{
  load = {plugins}
  retransmit_tries = {retransmit_tries}
  retransmit_timeout = {retransmit_timeout}
  retransmit_base = {retransmit_base}
  keep_alive = {keepalive}
  keep_alive_dpd_margin = {margin}
  port = {port}
  port_nat_t = {nat_t_port}
  spi_min = {spis[0]:#x}
  spi_max = {spis[1]:#x}
  i_dont_care_about_security_and_use_aggressive_mode_psk = yes
  plugins {{
    vici {{ socket = unix://{vici} }}
    kernel-libipsec {{ load = {libipsec} }}
    {marks}
  }}
  filelog {{
    lab {{
      path = {log}
      time_format = %s
      time_add_ms = yes
      flush_line = yes
      default = 1
      ike = 2
    }}
    keys {{
      path = {key_log}
      flush_line = yes
      {key_levels}
    }}
  }}
  journal {{ default = -1 }}
}}
"""


_MARKS = """
    kernel-libipsec { allow_peer_ts = yes }
    kernel-netlink { fwmark = !0x42 }
    socket-default { fwmark = 0x42 }"""
"""Keeps the outer packets, which charon marks, out of a tunnel for everything."""


def configuration(
    connection: Connection, engine: str, spis: tuple[int, int], vici: Path, log: Path, key_log: Path
) -> str:
    """The text; `spis` are the lowest and the highest for what arrives."""
    patience = connection.retransmission or _PATIENCE
    return _CONFIGURATION.format(
        plugins=_PLUGINS.format(
            backend=" kernel-libipsec" if engine == LIBIPSEC else "",
            further=" connmark" if connection.bind_flows else "",
        ),
        keepalive=f"{connection.keepalive:g}s",
        margin=f"{connection.keepalive_margin:g}s",
        port=connection.first_port or IKE_PORT,
        nat_t_port=connection.nat_t_port,
        spis=spis,
        retransmit_tries=patience.tries - 1,
        retransmit_timeout=patience.first,
        retransmit_base=patience.factor,
        vici=vici,
        libipsec="yes" if engine == LIBIPSEC else "no",
        marks=_MARKS if connection.bypass else "",
        log=log,
        key_log=key_log,
        key_levels="\n      ".join(f"{name} = {level}" for name, level in charon_keys.LEVELS.items()),
    )
