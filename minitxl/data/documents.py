"""Documents of their own lengths in rows of one length: which place each token has in its own.

The memory of a row that goes on to another document holds the old one. Its places tell the model
where to stop looking: token p of a document sees itself and the p tokens before it. So nothing is
padded, nothing is reset, and every row may begin anew where its document does.

    two documents   abcde fgh      document_starts (0, 5)
    their places    01234 012
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minitxl.errors import MinitxlError


def checked_starts(document_starts, n_tokens: int) -> np.ndarray:
    """Return where documents begin as an int64 array that rises from 0 (which may be left out)."""
    try:
        starts = np.asarray(document_starts)
    except ValueError:
        starts = np.asarray("ragged")
    integers = starts.ndim == 1 and (starts.dtype.kind in "iu" or starts.size == 0)
    starts = starts.astype(np.int64) if integers else starts
    if not integers or (np.diff(starts) <= 0).any():
        raise MinitxlError(
            f"document_starts must be rising integers, the places where documents begin, got shape "
            f"{starts.shape} of {starts.dtype}: np.flatnonzero(tokens == eos) + 1 finds those "
            "behind a token eos"
        )
    if starts.size and not (0 <= starts[0] and starts[-1] <= n_tokens):
        raise MinitxlError(
            f"document_starts goes from {starts[0]} to {starts[-1]}, the text has {n_tokens} "
            "tokens: take it from the same text"
        )
    return np.union1d([0], starts)


def position_ids(places: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the places in their documents, int32, of tokens at these places of the text.

    starts: as `checked_starts` returns it.
    """
    before = np.searchsorted(starts, places, side="right") - 1
    return (places - starts[before]).astype(np.int32)


def right_aligned(rows: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return (tokens, position_ids), (B, T) int32 each, of rows of ids of any lengths from 1 up.

    Every row ends in the last column; what fills a shorter one at its front (0) is at place 0 and
    is seen by no token of the row. With these the model gives each row the numbers that it would
    have alone: the log-probabilities of row b are the last len(rows[b]).
    """
    try:
        rows = [np.asarray(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise MinitxlError("rows must be sequences of token ids, one for each document") from error
    wrong = [
        n for n, r in enumerate(rows) if r.ndim != 1 or r.size == 0 or r.dtype.kind not in "iu"
    ]
    if wrong or not rows:
        raise MinitxlError(
            f"row {wrong[0] if wrong else 0} is no sequence of token ids: each row needs at least "
            "one integer; a text becomes ids by vocab.encode(text)"
        )
    longest = max(map(len, rows))
    tokens, places = (np.zeros((len(rows), longest), dtype=np.int32) for _ in range(2))
    for b, row in enumerate(rows):
        tokens[b, longest - len(row) :] = row
        places[b, longest - len(row) :] = np.arange(len(row))
    return tokens, places
