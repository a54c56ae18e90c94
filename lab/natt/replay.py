"""Anti-replay window of any size, extended sequence numbers (RFC 4303 section 3.4.3, appendix A)."""

from __future__ import annotations

_SEQUENCE_SPACE = 1 << 32


class ReplayWindow:
    """Sequence numbers seen so far.

    `size` is in packets; 0 turns the check off. `check` before the ICV, `commit` only after it.
    """

    __slots__ = ("_bitmap", "_mask", "esn", "size", "top")

    def __init__(self, size: int, esn: bool = False) -> None:
        if size < 0:
            raise ValueError(f"replay window of {size} packets")
        if esn and size == 0:
            raise ValueError("extended sequence numbers need a replay window (RFC 4303 section 3.4.3)")
        self.size = size
        self.esn = esn
        self.top = 0
        self._bitmap = 0
        self._mask = (1 << size) - 1

    def infer(self, low: int) -> int:
        """The whole 64-bit number of a packet that carries `low`; -1 when no such number can exist.

        RFC 4303 appendix A2.2. Without ESN it is `low` itself.
        """
        if not self.esn:
            return low
        high, top_low = self.top >> 32, self.top & 0xFFFFFFFF
        bottom = (top_low - self.size + 1) % _SEQUENCE_SPACE
        if top_low >= self.size - 1:
            if low < bottom:
                high += 1
        elif low >= bottom:
            high -= 1
        return -1 if high < 0 or high >= _SEQUENCE_SPACE else high << 32 | low

    def check(self, low: int) -> int:
        """The whole sequence number if the packet may be new, else -1 (zero, too old, or seen)."""
        sequence = self.infer(low) if self.esn else low
        if self.size == 0:
            return sequence
        if sequence <= 0:
            return -1
        behind = self.top - sequence
        if behind < 0:
            return sequence
        if behind >= self.size or self._bitmap >> behind & 1:
            return -1
        return sequence

    def commit(self, sequence: int) -> bool:
        """Record an authenticated sequence number; True if it is the highest so far."""
        ahead = sequence - self.top
        if ahead > 0:
            self.top = sequence
            if self.size:
                shifted = self._bitmap << ahead if ahead < self.size else 0
                self._bitmap = (shifted | 1) & self._mask
            return True
        if self.size and -ahead < self.size:
            self._bitmap |= 1 << -ahead
        return False
