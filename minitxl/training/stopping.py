"""Ctrl-C and SIGTERM: training finishes its step and saves, then stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# SIGTERM is what batch systems send before they kill, and what Open MPI makes of Ctrl-C; Windows
# has no such thing, but Ctrl-Break.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")


@contextmanager
def stopping(tell: bool) -> Iterator[threading.Event]:
    """Yield an event that the first signal sets, telling so; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals can only be handled in the main thread
        return

    def handle(signum, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # print could find the progress bar in the middle of a line of its own
        if tell:
            os.write(2, b"\nfinishing this step and saving; Ctrl-C again to stop at once\n")

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
