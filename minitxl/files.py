"""Files that are always whole, and reading that ends in one line whatever is wrong.

Every file is written under a temporary name in the same folder and then renamed. Renaming is
atomic: whoever is killed at whatever moment leaves the old file or the new one, never a half.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minitxl.errors import MinitxlError

_REPLACE_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds between attempts to rename
_HINTS = {
    errno.ENOSPC: "free some disk space",
    errno.ENOENT: "check that the folder exists",
    errno.EACCES: "check the permissions; on Windows close programs that have the file open",
}


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to read and understand it; whatever goes wrong ends as a MinitxlError."""
    name = one_line(path)
    if not os.path.isfile(path):  # a folder; a pipe or device, which may never end
        raise MinitxlError(f"{name} does not exist or is not a file; check the path")
    try:
        with open(path, "rb") as file:
            yield file
    except MinitxlError:
        raise
    except OSError as error:
        raise MinitxlError(f"cannot read {name}: {why(error)}") from error
    except MemoryError as error:
        raise MinitxlError(f"{name} does not fit into memory; close other programs") from error
    except (ValueError, RecursionError) as error:
        raise MinitxlError(
            f"{name} is damaged: {one_line(error)}; restore it from a copy, "
            "or use another checkpoint or run"
        ) from error


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write a temporary file beside path, force it to the disk, and rename it to path."""
    temporary = None
    try:
        target = Path(os.path.realpath(path))  # a link keeps pointing where it points
        if target.exists() and not target.is_file():  # a folder or device is not to be replaced
            raise ValueError("it is not a regular file")
        # What killed runs left behind. Two programs saving to one path remove each other's
        # temporary file too: then one of them gets an error, but the file itself stays whole.
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 8}.tmp"):
            with suppress(OSError):
                leftover.unlink()
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        for wait in _REPLACE_WAITS:  # Windows refuses while another program has the target open
            try:
                os.replace(temporary, target)
                return
            except PermissionError:
                time.sleep(wait)
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        raise MinitxlError(
            f"cannot save {one_line(path)}: {why(error)}; what was there before is unharmed"
        ) from error
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def why(error: Exception) -> str:
    reason = one_line(getattr(error, "strerror", None) or error)
    hint = _HINTS.get(getattr(error, "errno", None), "check the path and the disk")
    return f"{reason}; {hint}"


def one_line(thing: object) -> str:
    """Return the text of a path, name or error, safe to print: bounded, one line, no escapes."""
    text = str(thing)
    text = text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"
    return "".join(char if char.isprintable() else "?" for char in text)
