"""Threads that run pieces of a batch at the same time, each on one BLAS thread.

NumPy's elementwise work runs on one core only; cut by rows of the batch, all of it runs on all
cores. And BLAS threads of their own would spin against each other on a busy machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import ThreadpoolController

MAX_THREADS = 8  # more pieces of a batch than this are too small to be worth a thread


class Workers:
    """`map` that runs up to n_thread calls at once and returns the results in order."""

    def __init__(self, n_thread: int):
        self._pool = ThreadPoolExecutor(n_thread) if n_thread > 1 else None
        self._blas = ThreadpoolController()

    def map(self, function: Callable, jobs: Iterable) -> list:
        """Return [function(job) for job in jobs]."""
        with self._blas.limit(limits=1, user_api="blas"):
            return list((self._pool.map if self._pool else map)(function, jobs))


def threads_for(n_row: int) -> int:
    """Return the largest number of threads up to the number of cores that divides n_row."""
    if hasattr(os, "sched_getaffinity"):  # what this process may use; Linux only
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(n for n in range(1, min(cores, MAX_THREADS) + 1) if n_row % n == 0)
