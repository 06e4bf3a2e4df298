"""Processes that work through a list, some items at once; an end or Ctrl-C ends them all."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from minitxl.course.grading.descendants import end_descendants
from minitxl.errors import MinitxlError


@contextlib.contextmanager
def processes(number: int, start: Callable, *args) -> Iterator[Callable]:
    """Give a `map(function, items)` that runs in so many processes, with results in order.

    start(*args, lock) is called first in each, with a lock that all share; what it returns is
    called when the process is ended before its time. Temporary files of all lie in one folder,
    which is removed. MinitxlError where a process is killed.
    """
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pool = ProcessPoolExecutor(
            number, context, _begin, (folder, start, (*args, context.Lock()))
        )
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise MinitxlError(
                f"one of {number} processes was killed, often for lack of memory: take fewer jobs"
            ) from error
        finally:
            workers = set(multiprocessing.active_children()) - before
            for worker in workers:
                if os.name == "nt":  # terminate() is a kill there: nothing cleans up after itself
                    end_descendants(worker.pid)
                worker.terminate()
            for worker in workers:
                worker.join()
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(folder: str, start: Callable, args: tuple) -> None:
    """Make a process ready: it ends with the one that started it, which alone hears Ctrl-C."""
    tempfile.tempdir = folder
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which its children would inherit
    clean_up = start(*args)
    once = threading.Lock()

    def end(*_):
        if not once.acquire(blocking=False):
            return  # the pool asks a second time, while what the first began is not yet done
        try:
            clean_up()
        finally:
            os._exit(1)

    def end_with_parent():
        multiprocessing.parent_process().join()
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=end_with_parent, daemon=True).start()
