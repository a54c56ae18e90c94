"""Unmodified key managers on our own stack: system calls a kernel without IPsec refuses are answered here."""
