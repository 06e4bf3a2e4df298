"""Exercises: what a prediction in a fixed segment is made from, and rows of text that go on."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.data import stream

# --- fragmentation -------------------------------------------------------------------------------


def _context_cases(rng):
    t, rest, many = sizes(rng, 3, low=3)
    n = many * t + 1 + rest % (t - 1)  # the last segment is shorter
    return [
        Case((n, t), f"n = {n}, T = {t}"),
        Case((t - 1, t), "a text shorter than T", edge=True),
        Case((many, 1), "T = 1", edge=True),
    ]


CONTEXT = Exercise(
    id="context-lengths",
    title="What a fixed segment knows",
    points=3,
    notebook="01_fragmentation",
    head='''
def context_lengths(n_target, tgt_len):
    """Return, for each of n_target predictions in a row, how many characters it is made from: (n,).

    No memory: segments of T = tgt_len begin at the characters 0, T, 2T, ... (the last may be
    shorter); prediction t = 0, 1, ... is made after reading character t, from what its segment has
    of the text up to there, t itself included.
    """
''',
    imports="import numpy as np\n\nfrom minitxl.data.stream import segments\n",
    body="""
pairs = segments(np.arange(n_target + 1), batch_size=1, tgt_len=tgt_len)
return np.concatenate([tokens[0] - tokens[0, 0] + 1 for tokens, targets in pairs])
""",
    shown=(stream.segments,),
    outputs=("lengths",),
    cases=_context_cases,
    mistakes=(
        Mistake(
            "every number is one too small: the character just read counts as well",
            lambda n, t: np.arange(n) % t,
        ),
        Mistake(
            "a prediction does not see its whole segment, only what of it comes before",
            lambda n, t: np.full(n, t),
        ),
        Mistake(
            "nothing is forgotten at a segment's start: without memory each begins from nothing",
            lambda n, t: np.arange(n) + 1,
        ),
        Mistake(
            "the first T predictions are right, but then it is a window that slides; fixed "
            "segments begin from nothing",
            lambda n, t: np.minimum(np.arange(n) + 1, t),
        ),
    ),
)


def _stream_cases(rng):
    b, t, n = sizes(rng, 3, low=3, high=7)  # n segments a row
    per_row = n * t
    text = rng.permutation(b * per_row + 1 + b * int(rng.integers(1, t)))  # with a rest
    return [
        Case((text, b, t, 1), f"B = {b}, T = {t}, n = 1"),
        Case((text, b, t, n - 1), f"B = {b}, T = {t}, n = {n - 1}"),
        Case((text, b, t, 0), "n = 0", edge=True),
        Case((text, 1, t, 1), "B = 1", edge=True),
        Case((text[: b * per_row + 1], b, t, n - 1), "a text without rest", edge=True),
        Case((text[: b * per_row], b, t, n - 2), "a text that lacks its last target", edge=True),
    ]


def _batch(text, b, t, n, whole=True, targets="next", lag=1):
    """A batch of the stream; whole: rows of whole segments; targets: how they are made."""
    per_row = (len(text) - 1) // (b * t) * t if whole else (len(text) - 1) // b
    at = np.arange(b)[:, None] * per_row + n * t + np.arange(t)
    tokens = text[at]
    if targets == "rolled":
        return tokens, np.roll(tokens, -1, axis=1)
    return tokens, text[at + lag]


def _in_order(text, b, t, n):
    at = n * b * t + np.arange(b * t).reshape(b, t)
    return text[at], text[at + 1]


def _across(text, b, t, n):
    """Characters one by one over the rows, as a reshape to (L, B) deals them out."""
    at = (n * t + np.arange(t)) * b + np.arange(b)[:, None]
    return text[at], text[np.minimum(at + 1, len(text) - 1)]


STREAM = Exercise(
    id="contiguous-batch",
    title="Rows that go on",
    points=5,
    notebook="04_memory",
    head='''
def contiguous_batch(text, batch_size, tgt_len, n):
    """Return batch n = 0, 1, ... of a text: tokens and targets, both (B, T).

    text (L,) ids. It is cut into B rows of S T tokens, S = (L - 1) // (B T) segments; what is left
    over at the end is not used. Batch n has segment n of every row, so that row b of batch n + 1
    goes on where row b of batch n ended. A target is the token that follows in the text.
    """
''',
    imports="from minitxl.data.stream import Stream\n",
    body="""
stream = Stream(text, batch_size=batch_size, tgt_len=tgt_len)
for _ in range(n):
    stream.next()
tokens, targets, _ = stream.next()
return tokens, targets
""",
    shown=(stream.Stream,),
    outputs=("tokens", "targets"),
    cases=_stream_cases,
    mistakes=(
        Mistake(
            "the segments are dealt out in the order of the text, so row b does not go on where it "
            "ended: its memory would be another row's past",
            _in_order,
        ),
        Mistake(
            "the tokens are dealt out over the rows one by one; a row is a piece of text",
            _across,
        ),
        Mistake(
            "the rows have L // B tokens; they must have whole segments, S T of them",
            lambda *a: _batch(*a, whole=False),
        ),
        Mistake(
            "the targets are the tokens themselves, must be one token later",
            lambda *a: _batch(*a, lag=0),
        ),
        Mistake(
            "a segment's last target is its own first token, as np.roll does it, must be the "
            "token that follows in the text",
            lambda *a: _batch(*a, targets="rolled"),
        ),
        Mistake(
            "the targets are the tokens before, must be those after",
            lambda *a: _batch(*a, lag=-1),
        ),
    ),
)

EXERCISES = (CONTEXT, STREAM)
