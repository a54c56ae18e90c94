"""Personas: the habits of implementations in the field, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..versions import NatTVersion
from .numbers import FRAGMENTATION_VENDOR_ID


@dataclass(frozen=True, slots=True)
class Persona:
    """What one implementation does otherwise than the RFC, or says beyond it. Empty fields are the RFC."""

    name: str = "plain"
    vendor_ids: tuple[bytes, ...] = ()
    """Vendor ids beside those of NAT-T, DPD and fragmentation."""
    echoes_vendor_ids: bool = False
    """As responder: answer with every NAT-T vendor id that was offered and is known, not with one."""
    answer_vendor_ids: tuple[bytes, ...] | None = None
    """As responder: answer with exactly these NAT-T vendor ids, offered or not."""
    speaks: NatTVersion | None = None
    """Use the numbers of this version whatever the vendor ids said."""
    nat_d_per_draft: bool = False
    """A pair of NAT-D for every NAT-T version in play, each under its own payload type."""
    nat_d_type: int | None = None
    """Another payload type for NAT-D."""
    nat_oa_type: int | None = None
    """Another payload type for NAT-OA."""
    nat_oa_reserved: bytes = bytes(3)
    """The three octets of NAT-OA that should be zero."""
    nat_oa_count: int | None = None
    """Another number of NAT-OA payloads; any number also makes tunnel mode carry them."""
    modes: tuple[int, ...] | None = None
    """As initiator: propose these encapsulation mode values, in order."""
    answers_first_port: bool = False
    """As responder: after the float still send to the port the first message came from."""
    refuses_nat: bool = False
    """As initiator: go no further once the responder is found behind a NAT."""
    clear_third_message: bool = False
    """Send the third message of aggressive mode in clear, as RFC 2409 permits."""
    fragment_size: int | None = None
    """Largest IKE message in octets before it is sent in Cisco fragments."""


PLAIN = Persona()

PERSONAS: Mapping[str, Persona] = MappingProxyType(
    {
        persona.name: persona
        for persona in (
            PLAIN,
            Persona(
                "cisco",
                vendor_ids=(bytes.fromhex("12f5f28c457168a9702d9fe274cc0100"),),
                echoes_vendor_ids=True,
                nat_d_per_draft=True,
                fragment_size=576,
            ),
            Persona(
                "windows",
                vendor_ids=(bytes.fromhex("1e2b516905991c7d7c96fcbfb587e46100000009"),),
                answers_first_port=True,
                refuses_nat=True,
                fragment_size=626,
            ),
            Persona("meraki", nat_oa_reserved=b"\x11\x11\x94", nat_oa_count=2),
            Persona(
                "racoon",
                vendor_ids=(FRAGMENTATION_VENDOR_ID + bytes(4),),
                nat_oa_reserved=b"\x00\x01\xf4",
                clear_third_message=True,
            ),
        )
    }
)
"""Name → persona.

cisco: a NAT-D pair for each draft (libreswan 3.9). windows: answers to the first port (strongswan#2663),
refuses a responder behind NAT (hwdsl2#26), fragments of 626 octets (libreswan PR 311). meraki: protocol and
port in the reserved octets of NAT-OA, two of them (libreswan#289). racoon: reserved octets in use (rhbz
834400).
"""
