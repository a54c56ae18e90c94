"""Integration lab for IPsec NAT traversal: topologies, NATs, peers, captures, verdicts, reports."""
