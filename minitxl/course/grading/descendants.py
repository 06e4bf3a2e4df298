"""Ending a process with all that it has started, on every system."""

from __future__ import annotations

import contextlib


def end_descendants(pid: int, *, itself: bool = False) -> None:
    """Kill all processes that descend from one, and maybe that one; none of them is asked.

    Groups of processes, with which POSIX does the same, do not exist on Windows.
    """
    import psutil  # comes with Jupyter's kernel

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        found = process.children(recursive=True)
        for one in [process, *found] if itself else found:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(found, timeout=3)  # those that we have adopted are then gone
