"""Network namespaces, links, addresses, NAT rules and connection tracking."""
