"""One writer at a time: a lock on a folder that ends with the process that holds it.

The lock is the system's own on an open file (flock; on Windows a locked byte). However a process
ends, kill and crash included, the system lets go of it: no lock is ever stale, and no number of a
process has to be guessed at. The file's text says who holds it, for the one who has to wait.
"""

from __future__ import annotations

import datetime
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minitxl.errors import MinitxlError
from minitxl.files import one_line, why

NAME = ".lock"
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what flock and Windows answer
_AT = 1 << 30  # the byte that Windows locks: beyond the text, which stays readable to others


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold the folder's lock for a `with`; MinitxlError, which says who has it, if it is taken.

    The folder must exist. On a disk that knows no locks nothing is held.
    """
    path = Path(folder) / NAME
    number = _take(path)
    try:
        yield
    finally:
        _drop(number, path)


def _take(path: Path) -> int:
    while True:
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise MinitxlError(f"cannot lock {one_line(path.parent)}: {why(error)}") from error
        try:
            _lock(number)
            if _is_still_there(number, path):
                _sign(number)
                return number
        except OSError as error:
            if error.errno in _HELD:
                holder = _holder(number)
                os.close(number)
                raise MinitxlError(
                    f"{one_line(path.parent)} is in use by {holder}; wait until it ends or stop "
                    "it, or choose another folder"
                ) from error
            return number  # a network disk without locks
        except BaseException:
            os.close(number)
            raise
        os.close(number)  # its last holder removed it between our opening and locking: once more


def _drop(number: int, path: Path) -> None:
    # Removed while it is held, or the next holder's would go. Windows removes no open file, and
    # after closing only one that nobody else has opened meanwhile.
    if os.name != "nt":
        with suppress(OSError):
            if _is_still_there(number, path):
                path.unlink()
    os.close(number)
    if os.name == "nt":
        with suppress(OSError):
            path.unlink()


def _is_still_there(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(number: int) -> None:
    """Write who holds the lock; a full disk is no reason to be without one."""
    since = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    text = f"process {os.getpid()} on {socket.gethostname()} since {since}"
    with suppress(OSError):
        os.ftruncate(number, 0)
        os.write(number, text.encode("utf-8", errors="replace"))


def _holder(number: int) -> str:
    with suppress(OSError):
        text = os.read(number, 200).decode("utf-8", errors="replace")
        if text:
            return one_line(text)
    return "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(number: int) -> None:
        os.lseek(number, _AT, os.SEEK_SET)
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(number, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(number: int) -> None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
