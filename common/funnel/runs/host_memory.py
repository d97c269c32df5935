"""How the C library treats memory that the program has freed.

By default glibc gives large blocks back to the operating system, which clears their pages when they
are next used. A training step on a CPU uses hundreds of megabytes again in every step: 90,000 page
faults of B6-6-6H768 at 8 x 128 tokens, a third of the time on a virtual machine whose host takes
free pages back (``benchmarks/log.md``).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

# Parameters of mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1  # bytes: mallopt takes an int
_PAD = 2**26  # bytes by which the heap grows at least
# What users set themselves stays.
_ENVIRONMENT = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Let glibc keep freed memory for the next use; return whether it does.

    The peak of memory grows by a few percent. Without glibc (macOS, musl, Windows), with another
    allocator or with settings of the user's own (``MALLOC_...``) nothing is changed. To be called
    before other threads start: an arena of their own holds blocks of 64 MB at most, larger ones go
    back to the system.

    Args:
        environment: variables of this process.
    """
    if not sys.platform.startswith("linux") or _is_set_by_user(environment):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: _LARGEST, _TOP_PAD: _PAD, _ARENA_MAX: 1
    }  # fmt: skip
    accepted = [library.mallopt(name, value) for name, value in settings.items()]
    return all(accepted)


def _is_set_by_user(environment: Mapping[str, str]) -> bool:
    return any(name.startswith(_ENVIRONMENT) for name in environment)
