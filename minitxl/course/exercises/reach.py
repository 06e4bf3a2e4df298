"""Exercises: how far a model reaches, and how many characters have a say."""

from __future__ import annotations

import math

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model import reach


def _shapes(rng):
    """(N, T, M) and what is special: M < T, M > T, T divides M or not, no memory, one layer.

    Where T does not divide M the rest is 1 and T - 1: rounding is right for one of them only.
    """
    n, t, by = sizes(rng, 3, low=3)
    return [
        ((n, t, by * t), "", False),
        ((n, t, by * t - 1), "", False),
        ((n, t, by * t + 1), "", False),
        ((n, t, t - 1), "", False),
        ((1, t, by * t + 1), "N = 1, one layer", True),
        ((n, t, 0), "M = 0, no memory", True),
        ((n, 1, by), "T = 1", True),
    ]


def _reach_cases(rng):
    return [Case(s, what or f"N, T, M = {s}", edge) for s, what, edge in _shapes(rng)]


REACH = Exercise(
    id="reach",
    title="How far back",
    lines=4,
    ideas=4,
    notebook="05_reach",
    head='''
def reach(n_layer, tgt_len, mem_len):
    """Return how many tokens before a segment's start can change what the model says in it.

    N layers, segments of T, a full memory of M (0: none). Layer n reads M cached states of the
    layer below. The oldest of them was computed in an earlier segment; what could *that* see?
    """
''',
    imports="from minitxl.model.reach import exact_reach\n",
    body="return exact_reach(n_layer, tgt_len, mem_len)",
    shown=(reach.exact_reach,),
    steps=(
        "layer 1 has M embeddings in its memory, which have seen nothing but their own token: M",
        "each layer above reads M states; the oldest was computed in a segment that began T "
        "ceil(M/T) tokens before this one, which is added",
        "(N - 1) T ceil(M / T) + M, and 0 without a memory",
    ),
    outputs=("reach",),
    cases=_reach_cases,
    mistakes=(
        Mistake(
            "it is N M, which holds only where T divides M: a state was computed in a whole "
            "segment, which began up to T - 1 tokens before it and had its memory before that",
            lambda n, t, m: n * m,
        ),
        Mistake(
            "it is one layer's memory only: every further layer reads states that have read a "
            "memory of their own",
            lambda n, t, m: m,
        ),
        Mistake(
            "M / T must be rounded up: a segment of which the memory holds a part counts whole",
            lambda n, t, m: (n - 1) * t * (m // t) + m,
        ),
        Mistake(
            "the last step is too long: the first layer's M cached states are embeddings, which "
            "have seen nothing but their own token",
            lambda n, t, m: n * t * math.ceil(m / t),
        ),
        Mistake(
            "the segment's own tokens are counted too: asked are those before its start",
            lambda n, t, m: (n - 1) * t * math.ceil(m / t) + m + t,
        ),
        Mistake(
            "it is one layer too many: the first layer's memory holds embeddings",
            lambda n, t, m: n * t * math.ceil(m / t) + m,
        ),
    ),
)


def _influence_cases(rng):
    cases = []
    for shape, what, edge in _shapes(rng):
        t = shape[1]  # neither end of the segment, where wrong counts may be right
        offset = int(rng.integers(1, t - 1)) if t > 2 else int(rng.integers(0, t))
        what = f"N, T, M = {shape}, offset {offset}" + (f" ({what})" if what else "")
        cases.append(Case((*shape, offset), what, edge))
    return [*cases, Case((*cases[0].args[:3], 0), "offset 0", edge=True)]


def _reach(n, t, m):
    return (n - 1) * t * math.ceil(m / t) + m


INFLUENCE = Exercise(
    id="influence",
    title="How many characters have a say",
    lines=1,
    ideas=2,
    notebook="05_reach",
    head='''
def influence(n_layer, tgt_len, mem_len, offset):
    """Return how many characters of the text can influence one prediction.

    It is made after reading the character at this offset (0 ... T - 1) of a segment late in the
    text, and that character counts. N layers, segments of T, a full memory of M (0: none).
    """
''',
    imports="from minitxl.model.reach import exact_reach\n",
    body="return exact_reach(n_layer, tgt_len, mem_len) + offset + 1",
    shown=(reach.exact_reach,),
    outputs=("count",),
    cases=_influence_cases,
    mistakes=(
        Mistake(
            "the character just read counts as well: it is one too few",
            lambda n, t, m, o: _reach(n, t, m) + o,
        ),
        Mistake(
            "these are the characters before the segment; those in it, up to the offset, count too",
            lambda n, t, m, o: _reach(n, t, m),
        ),
        Mistake(
            "all of the segment is counted, but its later characters are hidden from the query",
            lambda n, t, m, o: _reach(n, t, m) + t,
        ),
        Mistake(
            "the part before the segment is N M, which holds only where T divides M",
            lambda n, t, m, o: n * m + o + 1,
        ),
        Mistake(
            "only one layer's memory and the segment are counted: those states have read, too",
            lambda n, t, m, o: m + o + 1,
        ),
        Mistake(
            "the memory does not move with the query: every query of a segment reads all of it",
            lambda n, t, m, o: _reach(n, t, m) + 1,
        ),
    ),
)

EXERCISES = (REACH, INFLUENCE)
