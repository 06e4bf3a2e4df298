"""Threads that run pieces of a batch at the same time, each on one BLAS thread.

NumPy's elementwise work runs on one core only; cut by rows of the batch, all of it runs on all
cores. BLAS's own threads, on top of these, would fight over the cores; for a single piece, too,
they cost more than they bring wherever anything else runs (15 times the time was measured).

Where threads cannot be started, as in a browser's Python, the caller does all pieces itself, one
after the other: the results are the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

MAX_THREADS = 8  # more pieces of a batch than this are too small to be worth a thread


class Workers:
    """`map` that runs up to n_thread calls at once and returns the results in order."""

    def __init__(self, n_thread: int):
        self._pool = ThreadPoolExecutor(n_thread) if n_thread > 1 and threads_start() else None

    def map(self, function: Callable, jobs: Iterable) -> list:
        """Return [function(job) for job in jobs]."""
        with one_blas_thread():
            return list((self._pool.map if self._pool else map)(function, jobs))


@cache
def threads_start() -> bool:
    """Return whether this Python can start a thread; a browser's cannot."""
    try:
        thread = threading.Thread(target=int)
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return True


@cache
def _controller():
    """Return what sets BLAS's threads, or None; finding the libraries takes milliseconds: once."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


_lock = threading.Lock()
_inside = 0  # how many `one_blas_thread` blocks are open, in all threads
_limit = None


@contextmanager
def one_blas_thread():
    """Let BLAS use one thread inside the block; the setting belongs to the whole process.

    Blocks of several threads may overlap: the first sets the limit, the last puts it back. Without
    threadpoolctl nothing is set.
    """
    global _inside, _limit
    with _lock:
        _inside += 1
        if _inside == 1:
            controller = _controller()
            _limit = controller and controller.limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _limit is not None:
                _limit.restore_original_limits()


def threads_for(n_row: int, n_process: int = 1) -> int:
    """Return the largest number of threads up to the number of cores that divides n_row.

    n_process: how many processes share the cores of this machine.
    """
    most = max(1, min(core_count() // n_process, MAX_THREADS))
    return max(n for n in range(1, most + 1) if n_row % n == 0)


def core_count() -> int:
    """Cores that this process may use, fewer than the machine's in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
