"""Packet capture, dissection, expectations on packets, ladders."""
