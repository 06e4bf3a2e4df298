"""Independent pieces of work side by side, each in a process of its own with one thread.

Small models gain nothing from more threads, and a GPU waits for the host most of the time that one
of them is trained on it: many at once is what uses a machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """A process that does one call after the other. Functions and arguments must be picklable."""

    def __init__(self):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __call__(self, function: Callable, *args):
        """Return function(*args), done in the process."""
        with _one_thread():  # read when the process starts, which is at its first call
            future = self._pool.submit(function, *args)
        return future.result()

    def close(self) -> None:
        """End the process once its call is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)


_environment = threading.Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """New processes find BLAS set to one thread; NumPy reads this when it is imported."""
    with _environment:
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def results_of(jobs: dict, n_process: int) -> Iterator[tuple[str, object]]:
    """Yield (name, result) of jobs, name -> (function, *args), as they are done.

    With n_process=1 they are done here, one after the other. The first error is raised once the
    calls in progress are done; what has not begun then is left.
    """
    if n_process == 1 or len(jobs) < 2:
        for name, (function, *args) in jobs.items():
            yield name, function(*args)
        return
    workers = [Worker() for _ in range(min(n_process, len(jobs)))]
    idle = list(workers)
    lock = threading.Lock()

    def done_by_one(call):
        with lock:
            worker = idle.pop()
        try:
            return worker(*call)
        finally:
            with lock:
                idle.append(worker)

    threads, error = ThreadPoolExecutor(len(workers)), None
    try:
        futures = {threads.submit(done_by_one, call): name for name, call in jobs.items()}
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if future.exception() is None:
                yield futures[future], future.result()
            elif error is None:
                error = future.exception()
                for other in futures:
                    other.cancel()
        if error is not None:
            raise error
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
