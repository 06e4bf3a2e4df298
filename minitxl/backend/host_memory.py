"""Keep memory that arrays gave back, for the next step's arrays: Linux with the GNU C library.

A training step makes and frees the same large arrays over and over. By default that library hands
each of them back to the system at once, which must then find and clear every page again: a tenth of
a step's time. Elsewhere nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# Of mallopt(3). Its default moves the first two up as it goes, but only to 32 and 64 MiB, and gives
# every thread a pool of its own, of at most 64 MiB.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
SETTINGS = {
    M_TRIM_THRESHOLD: 1 << 30,  # bytes that may lie idle at the end of the pool
    M_MMAP_THRESHOLD: 256 << 20,  # larger arrays still come from the system and go back to it
    M_ARENA_MAX: 1,  # one pool for all threads
}


@cache
def keep_freed_memory() -> bool:
    """Tell the C library, once for this process, to keep up to 1 GiB; return whether it obeys.

    Whoever has set it up by MALLOC_... variables of the environment is left alone.
    """
    if platform.libc_ver()[0] != "glibc" or any(n.startswith("MALLOC_") for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(name, value) == 1 for name, value in SETTINGS.items())
