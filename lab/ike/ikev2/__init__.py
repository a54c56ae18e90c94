"""IKEv2 (RFC 7296) with MOBIKE (RFC 4555) and fragmentation (RFC 7383), as a state machine without I/O."""
