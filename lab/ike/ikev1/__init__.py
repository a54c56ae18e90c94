"""IKEv1 with pre-shared keys in every NAT-T version (RFC 2407, 2408, 2409, 3706, 3947 and its drafts)."""
