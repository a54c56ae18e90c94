"""The keys of a NAT in a topology file.

inside, outside; forwards: [{port, to, to_port, protocol}]; one_to_one: a node inside; prefix: what nat66:
prefix shows of the inside's; nat64: the prefix in which the inside, of IPv6 alone, finds IPv4; and how it
behaves, all of lab.net.behaviour.Behaviour by name:

    nat: {kind: nat, inside: lan, outside: wan, preset: symmetric, timeouts: {udp: 5}, hairpin: true}

A preset is the start, the other keys override it. mapping: EIM, ADM, APDM; filtering: EIF, ADF, APDF; ports:
preserve, random, seeded (with seed) or a range; nat66: route, masquerade, prefix; passthrough: UDP ports;
middlebox: marker_eater and others of lab.net.behaviour.Middlebox; timeouts in seconds; hairpin,
inbound_refresh, guard, drop_esp, drop_fragments: true or false.
"""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum
from ipaddress import IPv6Network
from typing import Any, TypeVar

import yaml

from lab.net.behaviour import (
    BEHAVIOUR,
    PRESETS,
    Behaviour,
    Filtering,
    Mapping,
    Middlebox,
    Nat66,
    PortRange,
    Ports,
    Timeouts,
)
from lab.net.model import Forward, Nat, listed
from lab.net.yaml_reader import YamlReader

KEYS = ("inside", "outside", "forwards", "one_to_one", "prefix", "nat64", "preset", *BEHAVIOUR)

E = TypeVar("E", bound=Enum)


class NatReader(YamlReader):
    """Reads the keys of a NAT."""

    def nat(self, fields: dict[str, yaml.Node]) -> Nat:
        """A NAT from its keys; absent links are left to the checks of the topology. Raises TopologyError."""
        behaviour = self.behaviour(fields)
        one_to_one = self.text(fields["one_to_one"], "one_to_one") if "one_to_one" in fields else None
        if one_to_one is None and "preset" in fields and fields["preset"].value == "static_one_to_one":
            self.fail(fields["preset"], "static_one_to_one has no insider: add e.g. `one_to_one: left`")
        return Nat(
            inside=self.texts(fields["inside"], "inside") if "inside" in fields else (),
            outside=self.text(fields["outside"], "outside") if "outside" in fields else "",
            forwards=tuple(self.forward(item) for item in self.items(fields["forwards"], "forwards"))
            if "forwards" in fields
            else (),
            one_to_one=one_to_one,
            prefix=self.prefix(fields, "prefix", "2001:db8:1::/64"),
            nat64=self.prefix(fields, "nat64", "2001:db8:64::/96"),
            **{key: getattr(behaviour, key) for key in BEHAVIOUR},
        )

    def prefix(self, fields: dict[str, yaml.Node], key: str, example: str) -> IPv6Network | None:
        """A prefix of IPv6, if there is one."""
        return self.value(fields[key], IPv6Network, example) if key in fields else None

    def behaviour(self, fields: dict[str, yaml.Node]) -> Behaviour:
        """The behaviour that a preset and the keys beside it describe."""
        preset = Behaviour()
        if "preset" in fields:
            name = self.text(fields["preset"], "preset")
            if name not in PRESETS:
                self.fail(fields["preset"], f"unknown preset {name!r}: use {listed(PRESETS)}")
            preset = PRESETS[name]
        given: dict[str, Any] = {}
        for key in BEHAVIOUR:
            if key not in fields:
                continue
            value = fields[key]
            if key == "ports":
                given[key] = self.ports(value)
            elif key == "timeouts":
                given[key] = self.timeouts(value, preset.timeouts)
            elif key == "seed":
                given[key] = self.value(value, int, "7")
            elif key == "passthrough":
                given[key] = tuple(self.value(item, int, "500") for item in self.items(value, key))
            elif key in ENUMS:
                given[key] = self.word(value, key, ENUMS[key])
            else:
                given[key] = self.truth(value, key)
        mapping = given.get("mapping", preset.mapping)
        if "ports" not in given and mapping is not Mapping.EIM and preset.ports is Ports.PRESERVE:
            given["ports"] = Ports.RANDOM
        return replace(preset, **given)

    def word(self, value: yaml.Node, what: str, kind: type[E]) -> E:
        """The member of `kind` whose value is written."""
        text = self.text(value, what)
        words = [str(each.value) for each in kind]
        if text not in words:
            self.fail(value, f"{what} is {text!r}: use {listed(words)}")
        return kind(text)

    def timeouts(self, value: yaml.Node, usual: Timeouts) -> Timeouts:
        """Seconds by kind of flow."""
        fields = self.mapping(value, "timeouts", None, tuple(Timeouts.SYSCTLS))
        return replace(usual, **{key: self.value(item, int, "30") for key, item in fields.items()})

    def forward(self, value: yaml.Node) -> Forward:
        """A static mapping."""
        fields = self.mapping(value, "a forward", None, ("port", "to", "to_port", "protocol"))
        for key in ("port", "to"):
            if key not in fields:
                self.fail(value, f"a forward has no `{key}`: write e.g. {{port: 500, to: right}}")
        port = self.value(fields["port"], int, "500")
        protocol = self.text(fields["protocol"], "protocol") if "protocol" in fields else "udp"
        to_port = self.value(fields["to_port"], int, "4500") if "to_port" in fields else None
        return Forward(port, self.text(fields["to"], "to"), protocol, to_port)

    def ports(self, value: yaml.Node) -> Ports | PortRange:
        """A choice by name, or a range."""
        text = self.text(value, "ports")
        if text in [each.value for each in Ports]:
            return Ports(text)
        found = re.fullmatch(r"(\d+)-(\d+)", text)
        if found is None:
            names = listed(each.value for each in Ports)
            self.fail(value, f"unknown ports {text!r}: use {names}, or a range like 30000-30100")
        return PortRange(int(found[1]), int(found[2]))


ENUMS: dict[str, type[Enum]] = {
    "mapping": Mapping,
    "filtering": Filtering,
    "nat66": Nat66,
    "middlebox": Middlebox,
}
