"""Token ids in a NumPy file: what a tokenizer of the user's own has made of a text."""

from __future__ import annotations

import os

import numpy as np

from minitxl.data.checks import short
from minitxl.errors import MinitxlError

MOST = 2**20  # different ids that are believed where no vocabulary vouches for them

_CHUNK = 1 << 24  # ids looked at at once


def is_ids(path) -> bool:
    """Say whether the name of a file is that of an array of ids."""
    return isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(".npy")


def load_ids(path: str | os.PathLike, n_token: int | None = None) -> np.ndarray:
    """Return the ids (n,) of a .npy file in the smallest type that holds them, and read-only.

    n_token: size of the vocabulary; None: that of the largest id. A file that has this type is
    mapped into memory. MinitxlError unless it holds one row of whole numbers, each an id.
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise MinitxlError(f"{name} does not exist or is no plain file: write the ids to a file")
    try:
        # Nothing pickled is read: that could run anything.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what NumPy raises for a hostile header is no closed list
        raise MinitxlError(
            f"{name} is no array of numbers that can be read ({short(str(error))}): write it by "
            "np.save(path, ids) with ids of whole numbers"
        ) from error
    if not isinstance(found, np.ndarray):  # np.savez writes archives
        raise MinitxlError(f"{name} is an archive of arrays: write one by np.save(path, ids)")
    if found.ndim != 1:
        raise MinitxlError(
            f"{name} has the shape {found.shape}, one row (n,) of ids is wanted: save "
            "ids.reshape(-1), if its rows follow each other"
        )
    if found.dtype.kind not in "iu":
        raise MinitxlError(
            f"{name} holds {found.dtype}, token ids are whole numbers: save ids.astype(np.int32)"
        )
    low, high = _range(found)
    known = f"the vocabulary has {n_token:,} symbols, 0 to {n_token - 1:,}" if n_token else ""
    if low < 0 or high >= (n_token or MOST):
        limit = known or f"ids are 0 to {MOST - 1:,} at most where no vocabulary is given"
        raise MinitxlError(
            f"{name} holds ids from {low:,} to {high:,}, {limit}: give the vocabulary that they "
            "were made with, or number the tokens from 0"
        )
    dtype = np.min_scalar_type((n_token or high + 1) - 1)
    ids = np.asarray(found) if found.dtype == dtype else found.astype(dtype)
    ids.setflags(write=False)
    return ids


def _range(ids: np.ndarray) -> tuple[int, int]:
    """Return the least and the largest number, (0, 0) of none, without a copy of all."""
    low, high = 0, 0
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        low, high = min(low, int(part.min())), max(high, int(part.max()))
    return low, high
