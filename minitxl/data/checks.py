"""Checks and words that the modules of this folder share for their error messages."""

import numpy as np

from minitxl.errors import MinitxlError


def checked_ids(ids, n_token: int) -> np.ndarray:
    """Return `ids` as a one-dimensional integer array whose values lie in [0, n_token)."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise MinitxlError(
            f"token ids must be a one-dimensional sequence of integers, got shape {array.shape} "
            f"of {array.dtype}: decode one row at a time"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_token:
        raise MinitxlError(
            f"token id {low if low < 0 else high} is outside the vocabulary of {n_token} "
            f"(ids 0 to {n_token - 1}): it comes from another vocabulary"
        )
    return array


def kind(value) -> str:
    """Return the name of the value's type."""
    return type(value).__name__


def short(value) -> str:
    """Return a one-line repr of at most 60 characters: error messages must stay readable."""
    text = repr(value[:60] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def why(error: Exception) -> str:
    """Return the system's own words, without the path that it repeats at full length."""
    return getattr(error, "strerror", None) or str(error)
