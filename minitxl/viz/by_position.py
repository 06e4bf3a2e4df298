"""Bins of positions in a segment: what a character costs falls fast over its first characters."""

from __future__ import annotations

import numpy as np


def position_bins(tgt_len: int) -> np.ndarray:
    """Edges 0, 1, 2, 4, 8 ... T of bins that double: the first characters stand alone."""
    doubled = 2 ** np.arange(31)  # 2^31 is too much for an integer of 32 bits
    return np.array([0, *doubled[doubled < tgt_len], tgt_len])
