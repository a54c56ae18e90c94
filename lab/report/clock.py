"""Moments as reports write them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(seconds: float) -> str:
    """`seconds` since the epoch in ISO 8601, UTC, with milliseconds: ``2026-01-31T08:15:00.250Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
