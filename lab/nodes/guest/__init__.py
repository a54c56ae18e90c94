"""Guests: another Linux kernel beside this one, with this host's files, for what this one lacks."""
