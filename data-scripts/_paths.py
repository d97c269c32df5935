"""Lets the programs beside this file find the ``funnel`` package of an uninstalled clone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "common"))
