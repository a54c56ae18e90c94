"""What the subcommands share: the type they are declared with, the folder they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SCENARIOS = Path(__file__).resolve().parent.parent.parent / "scenarios"
