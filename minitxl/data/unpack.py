"""The plain files of a data set: from its archive, or from a folder that holds them already.

Of an archive only the members are read that the set is known to have. They are written under names
of our own, so that no name in the archive can lead anywhere else, and never more than the set's
`max_text` bytes.
"""

from __future__ import annotations

import fnmatch
import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from minitxl.data.datasets import WHOLE, Dataset
from minitxl.errors import MinitxlError

_CHUNK = 1 << 20  # bytes read at once


def is_archive(path: Path) -> bool:
    """Say whether a file looks like a zip or gzip file, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith((b"PK\3\4", b"PK\5\6", b"\x1f\x8b"))


def plain_files(dataset: Dataset, path: Path, folder: Path) -> dict[str, list[Path]]:
    """Return split -> files in order: those in the folder `path`, or unpacked into `folder`.

    MinitxlError if the archive is damaged or hostile, or if a file is missing.
    """
    if path.is_dir():
        return {
            split: _in_folder(dataset, path, split, pattern)
            for split, pattern in dataset.members.items()
        }
    if is_archive(path):
        return _unpack(dataset, path, folder)
    if WHOLE in dataset.members:
        return {WHOLE: [path]}
    raise MinitxlError(
        f"{path} is no zip or tar.gz archive: give {dataset.archive_name}, or a folder that holds "
        f"{', '.join(_basename(p) for p in dataset.members.values())}"
    )


def _in_folder(dataset: Dataset, folder: Path, split: str, pattern: str) -> list[Path]:
    """Return a split's files, found by their names in the archive or by simpler ones."""
    parts = pattern.split("/")
    names = ["/".join(parts[i:]) for i in range(len(parts))]
    names += [] if split == WHOLE else [f"{dataset.name}.{split}.txt", f"{split}.txt"]
    for name in names:
        found = sorted(p for p in folder.glob(name) if p.is_file())
        if found:
            return found
    raise MinitxlError(
        f"{folder} has no file {_basename(pattern)}"
        f"{f' or {names[-2]}' if split != WHOLE else ''}: give the folder that holds the files "
        f"of {dataset.name}, or fetch the set, python -m minitxl data get {dataset.name}"
    )


def _unpack(dataset: Dataset, path: Path, folder: Path) -> dict[str, list[Path]]:
    found: dict[str, Path] = {}
    try:
        for name, member in _members(path, dataset):
            if name in found:
                raise ValueError(f"the member {name!r} comes twice")
            found[name] = folder / f"member-{len(found)}.txt"
            with found[name].open("xb") as file:
                while block := member.read(_CHUNK):
                    file.write(block)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        *(ValueError, NotImplementedError),  # ours, and zipfile's for methods it does not know
    ) as error:
        raise MinitxlError(
            f"{path} cannot be unpacked ({' '.join(str(error).split())[:200]}): fetch it again"
        ) from error
    files = {
        split: [found[name] for name in sorted(found) if fnmatch.fnmatchcase(name, pattern)]
        for split, pattern in dataset.members.items()
    }
    for split, pattern in dataset.members.items():
        if not files[split]:
            raise MinitxlError(f"{path} has no member {pattern}: give the real {path.name}")
    return files


def _members(path: Path, dataset: Dataset) -> Iterator[tuple[str, BinaryIO]]:
    """Yield (name, file to read) of the wanted members, in the archive's order."""

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in dataset.members.values())

    with path.open("rb") as file, tqdm(unit="B", unit_scale=True, disable=None) as bar:
        bar.set_description(f"unpacking {path.name}")
        budget = _Budget(dataset.max_text, bar)
        if file.read(2) == b"PK":
            with zipfile.ZipFile(file) as archive:
                for info in filter(lambda info: wanted(info.filename), archive.infolist()):
                    mode = info.external_attr >> 16
                    if info.flag_bits & 1 or stat.S_ISLNK(mode):
                        raise ValueError(f"the member {info.filename!r} is encrypted or a link")
                    with archive.open(info) as member:
                        yield info.filename, _Bounded(member, budget)
            return
        file.seek(0)
        # As a stream, read once and in order. The budget counts what is skipped as well.
        plain = _Bounded(gzip.GzipFile(fileobj=file), budget)
        with tarfile.open(fileobj=plain, mode="r|") as archive:
            for info in archive:
                name = info.name.removeprefix("./")
                if wanted(name):
                    if not info.isreg() or info.issparse():  # sparse: endless zeros out of nothing
                        raise ValueError(f"the member {name!r} is no plain file")
                    yield name, archive.extractfile(info)


class _Budget:
    """Bytes that may still be unpacked: a small archive can hold a text of any size."""

    def __init__(self, n_bytes: int, bar: tqdm):
        self._limit = self._left = n_bytes
        self._bar = bar

    def take(self, n_bytes: int) -> None:
        self._left -= n_bytes
        self._bar.update(n_bytes)
        if self._left < 0:
            raise ValueError(f"it holds more than {self._limit:,} bytes")


class _Bounded:
    """A file to read from, within a budget."""

    def __init__(self, file: BinaryIO, budget: _Budget):
        self._file, self._budget = file, budget

    def read(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        self._budget.take(len(data))
        return data


def _basename(name: str) -> str:
    return name.rsplit("/", 1)[-1]
