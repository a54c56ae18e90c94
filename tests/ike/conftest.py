"""A busy machine must not fail a property: Hypothesis' deadline for a single example is off."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
