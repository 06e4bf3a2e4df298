"""Zip archives that cannot fill the memory, and the arrays of a .npz in one."""

from __future__ import annotations

import errno
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from minitxl.interop.storages import fill
from minitxl.storage.checkpoint import DTYPES

# What an archive may unpack to: 64 MiB, or 10 times its size. Packing takes a tenth off weights; a
# bomb of zeros grows a thousandfold.
_MAX_UNPACKED, _MAX_RATIO = 64 * 2**20, 10
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextmanager
def opening_zip(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive of bounded size, stored or deflated; ValueError if it is damaged."""
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # zipfile does not count: one flipped bit can make a member's comment of the next ones.
            file.seek(-22, os.SEEK_END)
            end = file.read(22)
            listed = int.from_bytes(end[10:12], "little")
            if not end.startswith(b"PK\5\6") or listed not in (len(members), 0xFFFF):
                raise ValueError(f"it lists {len(members)} members, but ends with another number")
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(_MAX_UNPACKED, _MAX_RATIO * size):
                raise ValueError(f"its {size} bytes claim to unpack to {unpacked}")
            if any(member.compress_type not in _METHODS for member in members):
                raise ValueError("its compression is neither 'stored' nor 'deflated'")
            if any(member.flag_bits & 1 for member in members):
                raise ValueError("it is encrypted")
            if len(archive.namelist()) > len(set(archive.namelist())):
                raise ValueError("two members of the archive have the same name")
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"its zip archive is not whole ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is the answer to a seek to before the start
            raise
        raise ValueError("its zip archive is not whole (it points outside of the file)") from error


def read_npz(file: BinaryIO) -> dict[str, np.ndarray] | None:
    """Read what numpy.savez wrote: name -> array of bool, integers or floats, in native order.

    numpy.load would allocate whatever shape a header claims. None for an archive of other things;
    ValueError if anything is damaged.
    """
    with opening_zip(file) as archive:
        if not all(name.endswith(".npy") for name in archive.namelist()):
            return None
        return {
            member.filename.removesuffix(".npy"): _read_npy(archive, member)
            for member in archive.infolist()
        }


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:  # which checks the CRC at the end
        version = np.lib.format.read_magic(stream)
        if version not in _NPY_HEADERS:
            raise ValueError(f"{member.filename!r} has the version {version}, 1.0 or 2.0 is known")
        try:
            shape, fortran_order, dtype = _NPY_HEADERS[version](stream)
        except (tokenize.TokenError, TypeError, MemoryError) as error:  # of ast, for any nonsense
            raise ValueError(f"{member.filename!r} has no readable header") from error
        if dtype.newbyteorder("<").str not in DTYPES.values():
            raise ValueError(f"{member.filename!r} has the type {dtype}, not bool, int or float")
        numel = math.prod(shape)
        if min(shape, default=0) < 0 or numel * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename!r} is shorter than its shape {shape} needs")
        array = np.empty(numel, dtype)
        fill(array, stream)
        if stream.read(1):
            raise ValueError(f"{member.filename!r} is longer than its shape {shape} needs")
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
