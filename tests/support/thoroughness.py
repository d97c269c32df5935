"""How often a test repeats what differs by chance alone: `make test-thorough` repeats more."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
IS_THOROUGH = os.environ.get("FUNNEL_TEST_THOROUGH", "") not in ("", "0")


def usual_or_thorough(usual: T, thorough: T) -> T:
    """Return ``thorough`` if the environment variable FUNNEL_TEST_THOROUGH is 1, else ``usual``."""
    return thorough if IS_THOROUGH else usual
