"""What a NAT drops when it is told to, as text for `nft -f` or iptables-restore. Pure."""

from __future__ import annotations

from collections.abc import Collection

from lab.net.behaviour import Block

BLOCK_TABLE = "lab_block"
EARLY = -450
"""Before fragments are put together (NF_IP_PRI_CONNTRACK_DEFRAG is -400) and connections are tracked."""

BLOCKS: dict[Block, tuple[str, ...]] = {
    "esp": ("meta l4proto esp",),
    "udp500": ("udp dport 500", "udp sport 500"),
    "udp4500": ("udp dport 4500", "udp sport 4500"),
    "fragments": ("ip frag-off & 0x3fff != 0", "meta nfproto ipv6 exthdr frag exists"),
    "icmp_toobig": (
        "icmp type destination-unreachable icmp code frag-needed",
        "icmpv6 type packet-too-big",
    ),
}
RAW_BLOCKS: dict[Block, tuple[str, ...]] = {
    "esp": ("-p esp",),
    "udp500": ("-p udp --dport 500", "-p udp --sport 500"),
    "udp4500": ("-p udp --dport 4500", "-p udp --sport 4500"),
    "icmp_toobig": ("-p icmp --icmp-type fragmentation-needed",),
}
"""The same of IPv4 for the table `raw` of iptables, which sees packets after fragments are put together."""


def block_rules(blocked: Collection[Block], everything: bool = False) -> str:
    """The table `lab_block` of nft, which drops what is `blocked`; replaces an older one."""
    matches = [match for verb in BLOCKS if verb in blocked for match in BLOCKS[verb]]
    drops = "".join(f"    {rule}\n" for rule in (["drop"] if everything else [f"{m} drop" for m in matches]))
    head = f"table inet {BLOCK_TABLE} {{\n}}\ndelete table inet {BLOCK_TABLE}\n"
    if not drops:
        return head
    chains = "".join(
        f"  chain {name} {{\n    type filter hook {hook} priority {EARLY};\n{drops}  }}\n"
        for name, hook in (("arriving", "prerouting"), ("own", "output"))
    )
    return f"{head}table inet {BLOCK_TABLE} {{\n{chains}}}\n"


def raw_block_rules(blocked: Collection[Block], everything: bool = False) -> str:
    """The table `raw` of iptables, which drops what is `blocked`. KeyError for what iptables cannot tell."""
    matches = [""] if everything else [match for verb in sorted(blocked) for match in RAW_BLOCKS[verb]]
    rules = [f"-A {chain} {match} -j DROP\n" for chain in ("PREROUTING", "OUTPUT") for match in matches]
    return f"*raw\n{''.join(rules)}COMMIT\n"
