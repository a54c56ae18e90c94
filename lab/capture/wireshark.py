"""A capture as Wireshark sees it: the second opinion on what a packet is and what is inside it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.capture.packets import Packets
from lab.capture.pcapng import write_pcapng

_DEADLINE = 60.0
_PREFERENCES = ("esp.enable_encryption_decode:TRUE", "esp.enable_authentication_check:TRUE")

Fields = Mapping[str, list[str]]
"""Field name to its values in the order of layers, outermost first; empty where a packet has none."""


class WiresharkError(AssertionError):
    """tshark did not read the capture; the text holds its words."""


def wireshark(
    packets: Packets,
    *fields: str,
    esp_keys: Path | None = None,
    ikev1_keys: Path | None = None,
    nat_t_ports: Sequence[int] = (),
) -> list[Fields]:
    """What tshark finds in each of `packets`, by one run of it.

    `esp_keys` is a file in Wireshark's `esp_sa` format; ESP it has keys for is decrypted and its ICV checked.
    `ikev1_keys` is one in the format of `ikev1_decryption_table`; to decrypt, it takes whole exchanges.
    UDP on `nat_t_ports` is taken for that of port 4500. Raises WiresharkError.
    """
    with tempfile.TemporaryDirectory(prefix="wireshark-nattlab-") as folder:
        capture = Path(folder, "capture.pcapng")
        write_pcapng(capture, packets.frames)
        for table, keys in (("esp_sa", esp_keys), ("ikev1_decryption_table", ikev1_keys)):
            if keys is not None:
                Path(folder, table).write_bytes(keys.read_bytes())
        argv = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=/t", "-E", "aggregator=|"]
        argv += [part for preference in _PREFERENCES for part in ("-o", preference)]
        argv += [part for port in nat_t_ports for part in ("-d", f"udp.port=={port},udpencap")]
        argv += [part for field in fields for part in ("-e", field)]
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, "WIRESHARK_CONFIG_DIR": folder},
                capture_output=True,
                text=True,
                timeout=_DEADLINE,
            )
        except OSError as error:
            raise WiresharkError(f"tshark: {error.strerror}") from error
    lines = done.stdout.splitlines()
    if done.returncode or "Error loading table" in done.stderr or len(lines) != len(packets):
        raise WiresharkError(
            f"tshark ended with {done.returncode}, read {len(lines)} of {len(packets)} packets "
            f"and said: {done.stderr.strip()}"
        )
    return [
        {
            name: value.split("|") if value else []
            for name, value in zip(fields, line.split("\t"), strict=True)
        }
        for line in lines
    ]
