"""Addresses that carry others: prefix translation (RFC 6296) and IPv4 within IPv6 (RFC 6052). Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

WORDS = 8


def npt(address: IPv6Address, inside: IPv6Network, outside: IPv6Network) -> IPv6Address:
    """`address` of `inside` as NPTv6 shows it in `outside`: another prefix, the same checksum.

    Both prefixes have the same length. What the prefix adds to the sum, the subnet's word takes away, or of
    prefixes longer than 48 bits the first word of the interface identifier that is not all ones.
    """
    host = int(address) & int(inside.hostmask)
    words = _words(int(outside.network_address) | host)
    places = [3] if inside.prefixlen <= 48 else [place for place in range(4, WORDS) if words[place] != 0xFFFF]
    if not places:
        raise ValueError(f"{address} has no word to adjust (RFC 6296 section 3.5)")
    difference = sum(_words(int(address))) - sum(words)
    adjusted = (words[places[0]] + difference) % 0xFFFF
    words[places[0]] = adjusted
    return IPv6Address(sum(word << 16 * (WORDS - 1 - place) for place, word in enumerate(words)))


def embedded(address: IPv4Address, prefix: IPv6Network) -> IPv6Address:
    """`address` within a `prefix` of 96 bits (RFC 6052 section 2.2)."""
    return IPv6Address(int(prefix.network_address) | int(address))


def _words(number: int) -> list[int]:
    return [number >> 16 * place & 0xFFFF for place in reversed(range(WORDS))]
