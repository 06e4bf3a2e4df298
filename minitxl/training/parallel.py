"""Several processes train one model: each runs its share of the batch, the gradients are added up.

    mpiexec -n 4 python -m minitxl train ...

`Group` is what the trainer sees of it, and stands for the one process of an ordinary run;
`MpiGroup` talks to the others through mpi4py. Nothing here imports mpi4py, and nothing changes,
unless an MPI launcher has started this process: the environment tells (see `launched`).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minitxl.errors import MinitxlError

# What launchers tell the processes that they start, of how many there are and which this one is.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # MPICH, Intel, Microsoft, Slurm's PMI; Open MPI
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
INSTALL = 'pip install -e ".[mpi]" in the checkout'
PATIENCE = 1.0  # seconds in which the others may fail as well before one failure is an accident
FORWARDING = 1.0  # seconds for the launcher to pass on what was printed: an abort may drop it


class Group:
    """The processes of a run, as one of them sees it; this class: a process alone.

    rank     0 <= rank < size; rank 0 alone writes files, prints and evaluates
    size     number of processes
    n_local  how many of them are on this machine

    But for `share`, every method must be called by all of them, in the same order.
    """

    rank, size, n_local = 0, 1, 1

    def share(self, n: int) -> range:
        """Return this process's part of range(n): contiguous, as long as every other's."""
        part = n // self.size
        return range(self.rank * part, (self.rank + 1) * part)

    def sum_in_place(self, array) -> None:
        """Replace a NumPy array by its sum over all processes; the order of the sum is MPI's."""

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value."""
        return value

    def gather(self, value: Any) -> list:
        """Return the values of all processes, in order of rank; [] but on rank 0."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Return whether any process has the flag."""
        return bool(flag)

    def wait(self) -> None:
        """Return when all have called this; sleeps meanwhile, where MPI's own calls would spin."""

    def on_first(self, function: Callable, *args) -> Any:
        """Call a function on rank 0 alone; all return what it returned, or raise what it raised."""
        result = error = None
        if self.rank == 0:
            try:
                result = function(*args)
            except Exception as raised:
                error = raised
        self.wait()  # it may be an evaluation of minutes
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return result

    def check_same(self, what: str, value: Any) -> None:
        """Raise MinitxlError in all processes where one of them has another value than rank 0."""
        if self.any(self.broadcast(value) != value):
            raise MinitxlError(
                f"the processes differ in their {what}: start all of them with the same command, "
                "versions and text"
            )


class MpiGroup(Group):
    """The processes that mpiexec started; made once all of them do it."""

    def __init__(self):
        mpi = _mpi()
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        _check_size(self.size)
        self.n_local = self._world.Split_type(mpi.COMM_TYPE_SHARED).Get_size()
        self._failures = self._world.Dup()  # its messages cannot meet those of the run

    def sum_in_place(self, array) -> None:
        self._world.Allreduce(self._mpi.IN_PLACE, array)

    def broadcast(self, value: Any) -> Any:
        return self._world.bcast(value)

    def gather(self, value: Any) -> list:
        return self._world.gather(value) or []

    def any(self, flag: bool) -> bool:
        return self._world.allreduce(int(flag)) > 0

    def wait(self) -> None:
        request = self._world.Ibarrier()
        while not request.Test():
            time.sleep(0.001)

    def all_failed(self) -> bool:
        """Return whether all processes call this within `PATIENCE`: what failed failed in all."""
        request, until = self._failures.Ibarrier(), time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def abort(self, error: BaseException) -> None:
        """End all processes at once, with a line that says why."""
        if os.environ.get("MINITXL_DEBUG") == "1":
            traceback.print_exception(error)
        kind = "" if isinstance(error, MinitxlError) else f"{type(error).__name__}: "
        message = " ".join(f"{kind}{error}".split())
        print(
            f"minitxl: error: process {self.rank} of {self.size} failed, which ends the run (its "
            f"last checkpoint is whole: train --resume): {message}",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(FORWARDING)
        self._world.Abort(2)


@contextmanager
def joined() -> Iterator[Group]:
    """Yield the group of this process: all that an MPI launcher started, or this one alone.

    An exception in one process ends all of them by MPI's Abort: the others would wait for it
    forever. An exception in all of them (a mistake of use, Ctrl-C) goes its normal way in rank 0,
    which has told it then; the others leave silently, with SystemExit.
    """
    if not launched():
        yield Group()
        return
    group = MpiGroup()
    try:
        yield group
    except BaseException as error:
        if not group.all_failed():
            group.abort(error)
        if group.rank > 0:
            raise SystemExit(0) from error
        raise
    group.wait()  # or those who are done would spin until rank 0 has reported


def launched() -> bool:
    """Return whether an MPI launcher started this process together with others.

    It did where PMI_SIZE or OMPI_COMM_WORLD_SIZE is above 1. MINITXL_MPI=1 says so where the
    launcher sets neither; MINITXL_MPI=0 lets each process train on its own.
    """
    asked = os.environ.get("MINITXL_MPI")
    return asked == "1" or (asked != "0" and _told(SIZES) > 1)


def _told(names: tuple) -> int:
    """Return the number in the first of these environment variables that has one, else 0."""
    texts = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in texts if text.isdecimal()), 0)


def _mpi():
    """Import mpi4py, which starts MPI."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        why = "mpi4py is not installed" if error.name == "mpi4py" else f"mpi4py: {error}"
    except RuntimeError as error:  # it finds no MPI library
        why = f"mpi4py: {error}"
    else:
        return MPI
    raise _mistake(
        f"started by an MPI launcher as one of {_told(SIZES) or 'several'} processes, but "
        f"{' '.join(why.split())}; {INSTALL} (MINITXL_MPI=0 would let each train on its own)"
    )


def _check_size(size: int) -> None:
    told = _told(SIZES)
    if told > 1 and size != told:
        raise _mistake(
            f"the launcher started {told} processes, mpi4py sees {size}: they belong to different "
            "MPI libraries; use the mpiexec that lies beside this python"
        )


def _mistake(message: str) -> BaseException:
    """What to raise while the processes cannot talk: rank 0 tells, the others leave silently."""
    return SystemExit(0) if _told(RANKS) > 0 else MinitxlError(message)
