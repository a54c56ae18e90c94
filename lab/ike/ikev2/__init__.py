"""IKEv2 (RFC 7296) with MOBIKE (RFC 4555) and fragmentation (RFC 7383), as a state machine without I/O.

What an Ikev2Peer tells, by the name of the Event:

| event | meaning, and what its detail holds |
|---|---|
| nat-detection | what the peer's hashes say: supported, nat_local, nat_remote |
| retry | IKE_SA_INIT is made anew: reason COOKIE or INVALID_KE_PAYLOAD |
| established | an IKE SA is authenticated: spi_i, spi_r, local, remote, nat_local, nat_remote, mobike |
| child-refused | either end did not want the Child SA of IKE_AUTH; the IKE SA lives: reason |
| child-rekeyed, ike-rekeyed | by (``this end`` or ``the peer``) and the new SPIs |
| refused | the peer refused a request of ours: exchange, reason |
| rejected | we refused a request of the peer's: exchange, reason |
| failed, deleted | the IKE SA cannot go on: reason; it has ended |
| alive | a liveness check was answered |
| endpoint-changed | a float, or an implicit update: local, remote, before |
| addresses-updated, routable, nat-mapping-changed | MOBIKE |
| retransmission | the peer sent a request again and got the same answer |
| cookie-demanded, told | a COOKIE was sent; an error notify came in an INFORMATIONAL request |
| ignored, esp, keepalive, garbage | a datagram without effect: reason or source |
"""
