"""Captures as files: pcapng with an interface per link and comments, and whatever a user brings.

The writer is ours because scapy's knows neither nanoseconds nor a file without a nameless first interface.
"""

from __future__ import annotations

import gzip
import importlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader, RawPcapReader

from lab.capture.frame import Frame

LINKTYPE_NULL, LINKTYPE_ETHERNET, LINKTYPE_RAW = 0, 1, 101
LINKTYPE_LOOP = 108
LINKTYPE_SLL, LINKTYPE_IPV4, LINKTYPE_IPV6, LINKTYPE_SLL2 = 113, 228, 229, 276
_BYTE_ORDER = 0x1A2B3C4D
_SECTION, _INTERFACE, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
_OPTION_END, _OPTION_COMMENT = 0, 1
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS = 2
_INBOUND, _OUTBOUND = 1, 2
LONGEST_COMMENT = 0xFFFC
"""Octets; the length of an option has 16 bits, and the padding must not overflow it."""
LONGEST_SECTION_HEADER = 16 << 20
_NO_MAC = bytes(12)
_NO_IP = b"\x88\xb5"
"""The first ethertype of IEEE 802 for local experiments, in place of what carries no IP."""
_MORE_LINK_LAYERS = ("scapy.layers.ppp", "scapy.layers.dot11")
_GZIP_MAGIC = b"\x1f\x8b"
_PCAP_RECORD_HEADER, _PCAPNG_BLOCK_TYPE = 16, 4


class CaptureFileError(ValueError):
    """A capture file cannot be read; the message names the file and what is wrong with it.

    `frames` holds what could be read before that point.
    """

    def __init__(self, message: str, frames: Sequence[Frame] = ()) -> None:
        super().__init__(message)
        self.frames = tuple(frames)


def write_pcapng(
    path: Path | str,
    frames: Iterable[Frame],
    comments: Mapping[int, Sequence[str]] | None = None,
    links: Sequence[str] | None = None,
    descriptions: Mapping[str, str] | None = None,
    section_comments: Sequence[str] = (),
) -> int:
    """Write `frames` to `path`, one pcapng interface per link, times in nanoseconds; returns how many.

    `comments` maps frame numbers to the lines attached to that packet. `links` fixes the order of the
    interfaces and keeps links without frames; `descriptions` maps a link to its if_description,
    `section_comments` are about the file as a whole; each of them is cut at LONGEST_COMMENT octets.
    """
    every = list(frames)
    order = dict.fromkeys([*(links or ()), *(frame.link for frame in every)])
    ids = {link: number for number, link in enumerate(order)}
    with open(path, "wb") as file:
        about = b"".join(_comment(text) for text in section_comments)
        about += _option(_OPTION_END, b"") if about else b""
        file.write(_block(_SECTION, struct.pack("<LHHq", _BYTE_ORDER, 1, 0, -1) + about))
        for link in ids:
            options = _option(_IF_NAME, link.encode())
            if descriptions and link in descriptions:
                options += _option(_IF_DESCRIPTION, descriptions[link].encode())
            options += _option(_IF_TSRESOL, bytes([9])) + _option(_OPTION_END, b"")
            file.write(_block(_INTERFACE, struct.pack("<HHL", LINKTYPE_ETHERNET, 0, 0) + options))
        for frame in every:
            high, low = divmod(frame.time_ns, 1 << 32)
            size = len(frame.data)
            body = struct.pack("<LLLLL", ids[frame.link], high, low, size, size) + _padded(frame.data)
            for comment in (comments or {}).get(frame.number, ()):
                body += _comment(comment)
            flags = _OUTBOUND if frame.outgoing else _INBOUND
            body += _option(_EPB_FLAGS, struct.pack("<L", flags)) + _option(_OPTION_END, b"")
            file.write(_block(_ENHANCED_PACKET, body))
    return len(every)


def section_comments(path: Path | str) -> list[str]:
    """The comments about a whole pcapng file, its first section's; empty for a pcap file.

    Raises CaptureFileError for a file that cannot be opened or whose section header is broken.
    """
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == _GZIP_MAGIC
            source: gzip.GzipFile | BinaryIO = gzip.GzipFile(fileobj=file) if packed else file
            head = source.read(12)
            if head[:4] != struct.pack("<L", _SECTION):
                return []
            order = "<" if head[8:12] == struct.pack("<L", _BYTE_ORDER) else ">"
            length = struct.unpack(f"{order}L", head[4:8])[0]
            if not 28 <= length <= LONGEST_SECTION_HEADER:
                raise CaptureFileError(f"{path}: section header of {length} octets")
            body = source.read(length - 12)[12:-4]
    except (EOFError, zlib.error) as error:
        raise CaptureFileError(f"{path}: no pcap or pcapng file ({error})") from error
    except OSError as error:
        raise CaptureFileError(f"{path}: {error.strerror or error}") from error
    found = []
    while len(body) >= 4:
        code, size = struct.unpack_from(f"{order}HH", body)
        if code == _OPTION_COMMENT:
            found.append(body[4 : 4 + size].decode(errors="replace"))
        body = body[4 + size + -size % 4 :]
    return found


def read_capture(path: Path | str, link: str | None = None) -> list[Frame]:
    """Frames of a pcap or pcapng file, gzipped or not, numbered from 1 in file order, from Ethernet on.

    The link is the interface's name where the file has one, else `link`, else the file's stem. Packets of
    other link types that scapy knows (Linux cooked, raw IP, loopback, PPP, 802.11 …) get an Ethernet header
    of zero addresses. Raises CaptureFileError for what is no capture, ends within a packet, or has a link
    type we cannot read.
    """
    path = Path(path)
    frames: list[Frame] = []
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == _GZIP_MAGIC
            watched = _Watched(gzip.GzipFile(fileobj=file) if packed else file)
            for frame in _read(watched, path, path.stem if link is None else link):
                # A file that ends within a packet still yields what is left of that packet.
                if not watched.is_cut:
                    frames.append(frame)
    except (Scapy_Exception, EOFError, zlib.error, struct.error) as error:
        raise CaptureFileError(f"{path}: no pcap or pcapng file ({error})", frames) from error
    except OSError as error:
        raise CaptureFileError(f"{path}: {error.strerror or error}", frames) from error
    if watched.is_cut:
        raise CaptureFileError(f"{path}: cut short after packet {len(frames)}", frames)
    return frames


def _read(file: _Watched, path: Path, default: str) -> Iterator[Frame]:
    reader = RawPcapReader(file)
    for number, (data, meta) in enumerate(reader, 1):
        if isinstance(reader, RawPcapNgReader):
            linktype = meta.linktype
            ticks = ((meta.tshigh or 0) << 32) + (meta.tslow or 0)
            time_ns = ticks * 1_000_000_000 // meta.tsresol
            name = meta.ifname.decode("utf-8", "replace") if meta.ifname else default
            outgoing = meta.direction == _OUTBOUND
        else:
            linktype, name, outgoing = reader.linktype, default, False
            time_ns = meta.sec * 1_000_000_000 + meta.usec * (1 if reader.nano else 1000)
        yield Frame(time_ns, name, _ethernet(data, linktype, path, number), outgoing, number)


class _Watched:
    """A file that knows whether it ended within a record: scapy only logs that."""

    name = "capture"

    def __init__(self, file: gzip.GzipFile | BinaryIO) -> None:
        self._file = file
        self.is_cut = False

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error):
            self.is_cut = True
            return b""
        at_record_start = not data and size in (_PCAP_RECORD_HEADER, _PCAPNG_BLOCK_TYPE)
        self.is_cut = self.is_cut or (len(data) < size and not at_record_start)
        return data

    def close(self) -> None:
        self._file.close()


def _ethernet(data: bytes, linktype: int, path: Path, number: int) -> bytes:
    if linktype == LINKTYPE_ETHERNET:
        return data
    if linktype == LINKTYPE_SLL:
        return _NO_MAC + data[14:]
    if linktype == LINKTYPE_SLL2:
        return _NO_MAC + data[:2] + data[20:]
    # scapy reads libpcap's DLT_RAW of BSD as 12 or 14.
    if linktype in (LINKTYPE_RAW, LINKTYPE_IPV4, LINKTYPE_IPV6, 12, 14):
        return _NO_MAC + _ethertype(data) + data
    if linktype in (LINKTYPE_NULL, LINKTYPE_LOOP):
        return _NO_MAC + _ethertype(data[4:]) + data[4:]
    if _knows(linktype):
        packet = conf.l2types.num2layer[linktype](data)
        for layer in (IP, IPv6):
            if layer in packet:
                octets = packet[layer].original
                return _NO_MAC + _ethertype(octets) + bytes(octets)
        return _NO_MAC + _NO_IP
    raise CaptureFileError(f"{path}: packet {number} has link type {linktype}, which is not supported")


def _ethertype(packet: bytes) -> bytes:
    return b"\x86\xdd" if packet[:1] and packet[0] >> 4 == 6 else b"\x08\x00"


@cache
def _knows(linktype: int) -> bool:
    """Whether scapy has a layer for it, among those it does not load unless asked."""
    for module in _MORE_LINK_LAYERS:
        importlib.import_module(module)
    return linktype in conf.l2types.num2layer


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<L", 12 + len(body))
    return struct.pack("<L", kind) + length + body + length


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _comment(text: str) -> bytes:
    return _option(_OPTION_COMMENT, text.encode()[:LONGEST_COMMENT].decode(errors="ignore").encode())


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
