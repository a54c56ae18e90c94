"""What must hold between two IPsec peers across a NAT."""
