"""Files that are always whole, and reading that ends in one line whatever is wrong.

Every file is written under a temporary name in the same folder and then renamed. Renaming is
atomic: whoever is killed at whatever moment leaves the old file or the new one, never a half. What
a kill leaves under a temporary name is nobody's: `leftovers` finds it, the next writer removes it.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minitxl.errors import MinitxlError

_REPLACE_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds between attempts to rename
_OURS = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)  # what `_temporary` names
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


def write_atomically(
    path: str | os.PathLike, data: bytes, older: str | os.PathLike | None = None
) -> None:
    """Write a temporary file beside path, force it to the disk, and rename it to path.

    older: the name under which the file that was there before is kept, in the same folder.
    """
    temporary = None
    try:
        target = Path(os.path.realpath(path))  # a link keeps pointing where it points
        if target.exists() and not target.is_file():  # a folder or device is not to be replaced
            raise ValueError("it is not a regular file")
        # Two programs saving to one path remove each other's temporary file too: then one of them
        # gets an error, but the file itself stays whole.
        clean(target.parent, target.name)
        temporary = _temporary(target)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        if older is not None and target.exists():
            _keep(target, target.with_name(Path(older).name))
        replace(temporary, target)
    except (OSError, ValueError) as error:
        raise MinitxlError(
            f"cannot save {one_line(path)}: {why(error)}; what was there before is unharmed"
        ) from error
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def append(path: str | os.PathLike, text: str) -> None:
    """Add text to the end of a file; where that fails, the file ends where it ended before."""
    size = None
    try:
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            data = text.encode("utf-8")
            if file.write(data) != len(data):  # a full disk may take a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        with suppress(OSError):
            if size is not None:
                os.truncate(path, size)
        raise MinitxlError(f"cannot write to {one_line(path)}: {why(error)}") from error


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary folder; it becomes `path`, new or empty, when all in it is written."""
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clean(target.parent, target.name)
        temporary.mkdir()
        yield temporary
        clean(target)
        with suppress(FileNotFoundError):
            target.rmdir()  # Windows renames to no folder that exists; a full one is not removed
        replace(temporary, target)
    except OSError as error:
        raise MinitxlError(f"cannot write {one_line(path)}: {why(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(old: str | os.PathLike, new: str | os.PathLike) -> None:
    """Rename a file or folder to a name that may be taken, so that a power cut does not undo it."""
    for wait in (*_REPLACE_WAITS, None):  # Windows refuses while another program has it open
        try:
            os.replace(old, new)
            break
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)
    sync_folder(Path(new).parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can do that."""
    if os.name == "nt":  # it opens no folders, and writes their changes to a journal of its own
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:  # some network disks have it not; a full or broken disk is told
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Return the temporary files and folders (of one name) that killed processes left there."""
    found = []
    for path in folder.glob(f".{glob.escape(name) if name else '*'}.*.tmp"):
        ours = _OURS.fullmatch(path.name)
        if ours and name in (None, ours["name"]):
            found.append(path)
    return found


def clean(folder: Path, name: str | None = None) -> None:
    """Remove the leftovers; what cannot be removed is in nobody's way."""
    for path in leftovers(folder, name):
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _keep(target: Path, older: Path) -> None:
    """Give the file a second name, never taking the first away: a kill would leave it without."""
    link = _temporary(older)
    clean(older.parent, older.name)
    try:
        try:
            os.link(target, link)
        except OSError:  # a disk without links
            shutil.copyfile(target, link)
        replace(link, older)
    finally:
        with suppress(OSError):
            link.unlink()


def why(error: Exception) -> str:
    reason = one_line(getattr(error, "strerror", None) or error)
    hint = _HINTS.get(getattr(error, "errno", None), "check the path and the disk")
    return f"{reason}; {hint}"


def one_line(thing: object) -> str:
    """Return the text of a path, name or error, safe to print: bounded, one line, no escapes."""
    text = str(thing)
    text = text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"
    return "".join(char if char.isprintable() else "?" for char in text)


def quoted(path: str | os.PathLike) -> str:
    """Return a path as it can stand in a command that we suggest, in the shell in use.

    Double quotes are the ones that both cmd and PowerShell know; there the names of files have
    none. A name that begins like an option gets a folder in front.
    """
    name = os.fspath(path)
    if name.startswith("-"):
        name = os.path.join(os.curdir, name)
    if os.name != "nt":
        return shlex.quote(name)
    plain = re.fullmatch(r"[\w.:/\\~+-]+", name)
    # A backslash before the last quote would be taken for one that belongs to the quote.
    return name if plain else '"' + re.sub(r"(\\+)$", r"\1\1", name) + '"'
