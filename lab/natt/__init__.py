"""The kernel half of NAT traversal in user space: ESP, UDP encapsulation, demultiplexing, SADB."""
