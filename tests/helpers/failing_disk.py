"""A disk whose n-th change fails: opening to write, writing, forcing out, renaming, making."""

import builtins
import errno
import io
import os

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailingDisk:
    """Below `root` the n-th change (from 1) fails, as on a full disk; `count` changes were tried.

    lasting: all that needs room fails from then on; renaming needs none. A write that fails writes
    half of its bytes.

    >>> with FailingDisk(monkeypatch, tmp_path, 3) as disk:
    ...     cli.main(["train", ...])
    >>> disk.failed, disk.count  # "write", 7; "" where nothing failed
    """

    def __init__(self, patch, root, n, lasting=False):
        self.patch, self.root, self.n, self.lasting = patch, str(root), n, lasting
        self.count, self.failed = 0, ""

    def __enter__(self):
        self._open = builtins.open
        self._context = self.patch.context()
        patch = self._context.__enter__()
        patch.setattr(builtins, "open", self.open)
        patch.setattr(io, "open", self.open)
        for name in ("replace", "rename", "link", "mkdir"):
            patch.setattr(os, name, self._guarded(getattr(os, name)))
        fsync = os.fsync

        def guarded_fsync(number):
            self.change("fsync")
            fsync(number)

        patch.setattr(os, "fsync", guarded_fsync)
        return self

    def __exit__(self, *error):
        return self._context.__exit__(*error)

    def change(self, what, file=None, data=b""):
        """Count a change and fail if it is its turn."""
        self.count += 1
        after = self.lasting and self.count > self.n and what not in ("replace", "rename")
        if self.count == self.n or after:
            self.failed = self.failed or what
            if file is not None:
                file.write(data[: len(data) // 2])
                file.flush()
            raise OSError(FULL.errno, FULL.strerror)

    def is_here(self, path):
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.root)

    def open(self, file, mode="r", *args, **options):
        if not self.is_here(file) or not set(mode) & set("wxa+"):
            return self._open(file, mode, *args, **options)
        self.change("open")
        return _Guarded(self._open(file, mode, *args, **options), self)

    def _guarded(self, function):
        def guarded(*args, **options):
            is_there = function.__name__ == "mkdir" and os.path.isdir(args[0])
            if self.is_here(args[0]) and not is_there:
                self.change(function.__name__)
            return function(*args, **options)

        return guarded


class _Guarded:
    """A file whose writes count."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._disk.change("write", self._file, data)
        return self._file.write(data)
