"""Puts the packages of this clone first on ``sys.path``, so that the demo runs uninstalled."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = [str(_ROOT / name) for name in ("pytorch", "common", "demo")]

sys.path[:0] = [folder for folder in _FOLDERS if folder not in sys.path]
