"""Exercises: the encoding of distances, rel-shift and its adjoint, the four terms of a score."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model import attention, ops

# --- R ------------------------------------------------------------------------------------------


def _position_cases(rng):
    k, half = sizes(rng, 2, low=3)
    return [
        Case((k, 2 * half), f"K = {k}, D = {2 * half}"),
        Case((1, 2 * half), "K = 1", edge=True),
        Case((k, 2), "D = 2", edge=True),
    ]


def _positions(n_key, d_model, distances=None, step=2, sign=-1, interleaved=False, cos_first=False):
    distances = np.arange(n_key)[::-1] if distances is None else distances
    k = np.arange(d_model // 2)
    angles = distances[:, None] * 10000.0 ** (sign * step * k / d_model)
    parts = [np.cos(angles), np.sin(angles)] if cos_first else [np.sin(angles), np.cos(angles)]
    if interleaved:
        return np.stack(parts, axis=-1).reshape(n_key, d_model)
    return np.concatenate(parts, axis=-1)


POSITIONS = Exercise(
    id="relative-positions",
    title="Sinusoids of distances",
    points=3,
    notebook="03_relative_positions",
    head='''
def relative_positions(n_key, d_model):
    """Return R (K, D): row c is the encoding of the distance p = K-1-c, so K-1 first and 0 last.

    R_p = [sin(p w_0), sin(p w_1), ... | cos(p w_0), cos(p w_1), ...], w_k = 10000^(-2k/D) for
    k = 0 ... D/2 - 1; n_key is K, d_model is D, even. Sines and cosines side by side.
    """
''',
    imports="import numpy as np\n\nfrom minitxl.model.ops import inverse_frequencies, sinusoid\n",
    body="""
w = inverse_frequencies(d_model=d_model, dtype=np.float64, device="cpu", xp=np)  # (D/2,)
return sinusoid(np.arange(n_key - 1, -1, -1), w, xp=np)
""",
    shown=(ops.inverse_frequencies, ops.sinusoid),
    outputs=("R",),
    cases=_position_cases,
    mistakes=(
        Mistake(
            "the distances rise: the first row belongs to the farthest key, K-1, the last one to 0",
            lambda k, d: _positions(k, d, np.arange(k)),
        ),
        Mistake(
            "the distances are off by one: they end at 0, a token's distance to itself, not at 1",
            lambda k, d: _positions(k, d, np.arange(k, 0, -1)),
        ),
        Mistake(
            "sines and cosines are interleaved: here all sines come first, then all cosines",
            lambda k, d: _positions(k, d, interleaved=True),
        ),
        Mistake(
            "cosines come before sines: sines come first",
            lambda k, d: _positions(k, d, cos_first=True),
        ),
        Mistake(
            "the exponent is -k/D, must be -2k/D",
            lambda k, d: _positions(k, d, step=1),
        ),
        Mistake(
            "the frequencies rise: the exponent is minus 2k/D",
            lambda k, d: _positions(k, d, sign=1),
        ),
    ),
)


# --- rel-shift and its adjoint -------------------------------------------------------------------


def _shift_cases(rng):
    h, t, m = sizes(rng, 3, low=3, keys=(1, 2))

    def scores(t, k):
        return (rng.normal(size=(h, t, k)),)

    return [
        Case(scores(t, t + m), f"T = {t}, M = {m}"),
        Case(scores(t, 2 * t + 1), f"T = {t}, M = {t + 1}"),
        Case(scores(t, t), f"T = {t}, M = 0", edge=True),
        Case(scores(1, m), "T = 1", edge=True),
    ]


def _shifted(x, *, drop=None, left=True):
    """rel-shift by way of a line of numbers, with one column of zeros; drop: how many to skip."""
    *lead, t, k = x.shape
    column = np.zeros((*lead, t, 1))
    line = np.concatenate([column, x] if left else [x, column], axis=-1).reshape(*lead, -1)
    drop = t if drop is None else drop(t)
    return line[..., drop : drop + t * k].reshape(x.shape)


def _corner(x):
    """(T, K) True in the upper right corner, where a key lies in the query's future."""
    t, k = x.shape[-2:]
    return np.arange(k) > np.arange(t)[:, None] + k - t


def _rolled(x, by):
    """Roll row i left by by(i, T): what leaves on one side comes in on the other."""
    t = x.shape[-2]
    rows = [np.roll(x[..., i, :], -by(i, t), axis=-1) for i in range(t)]
    return np.stack(rows, axis=-2)


def _rows_shifted(x, by):
    """Shift row i left by by(i, T), with zeros behind it: what a loop over the rows does."""
    out = np.zeros_like(x)
    t, k = x.shape[-2:]
    for i in range(t):
        n = min(by(i, t), k)
        out[..., i, : k - n] = x[..., i, n:]
    return out


def _unshifted(dy, first=1):
    """The adjoint of rel-shift; first: column at which the K columns that are kept begin."""
    *lead, t, k = dy.shape
    line = np.concatenate([np.zeros((*lead, t)), dy.reshape(*lead, t * k)], axis=-1)
    return line.reshape(*lead, t, k + 1)[..., first : first + k]


REL_SHIFT = Exercise(
    id="rel-shift",
    title="rel-shift, by hand",
    points=6,
    notebook="03_relative_positions",
    head='''
def rel_shift(x):
    """Return x (..., T, K) with row i shifted left by T-1-i.

    x[..., i, c] is query i's score for the distance K-1-c; in the result column j is key j, at
    distance i + M - j (M = K - T). Paper, app. B, without a loop: pad one column of zeros on the
    left, view the rows as K+1 rows of T numbers, drop the first of them, view as T rows of K.
    Whatever comes into the upper right corner by that is part of the answer.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="return ops.rel_shift_forward(x, xp=np)[0]",
    shown=(ops.rel_shift_forward,),
    outputs=("shifted",),
    cases=_shift_cases,
    mistakes=(
        Mistake(
            "the corner is zeros; rel-shift leaves one 0 and then the next row's scores there, and "
            "the mask has to hide them",
            lambda x: np.where(_corner(x), 0.0, _shifted(x)),
        ),
        Mistake(
            "the corner holds the row's own numbers, come round as np.roll does; rel-shift leaves "
            "one 0 and then the next row's scores",
            lambda x: _rolled(x, lambda i, t: t - 1 - i),
        ),
        Mistake("nothing is shifted", lambda x: x),
        Mistake(
            "row i is shifted by i, must be by T-1-i: the last query's row is in place already",
            lambda x: _rolled(x, lambda i, t: i),
        ),
        Mistake(
            "row i is shifted by i, must be by T-1-i; and the corner is not zeros in rel-shift",
            lambda x: _rows_shifted(x, lambda i, t: i),
        ),
        Mistake(
            "row i is shifted by T-i, must be by T-1-i; and the corner is not zeros in rel-shift",
            lambda x: _rows_shifted(x, lambda i, t: t - i),
        ),
        Mistake(
            "the rows are shifted to the right, must be to the left",
            lambda x: _rolled(x, lambda i, t: i + 1 - t),
        ),
        Mistake(
            "the rows are one too far to the left: the column of zeros goes to the left of x, not "
            "to the right",
            lambda x: _shifted(x, left=False),
        ),
        Mistake(
            "the last of the K+1 rows is dropped, must be the first",
            lambda x: _shifted(x, drop=lambda t: 0),
        ),
        Mistake(
            "it is rel-shift's adjoint, which shifts back",
            _unshifted,
        ),
    ),
)

REL_SHIFT_BACKWARD = Exercise(
    id="rel-shift-backward",
    title="The adjoint of rel-shift",
    points=5,
    notebook="03_relative_positions",
    head='''
def rel_shift_backward(dy):
    """Return dx (..., T, K) = dLoss/dx for y = rel_shift(x), dy = dLoss/dy (..., T, K).

    rel_shift only moves numbers, so its adjoint moves each gradient back to the place from which
    its number came; a number that went nowhere gets 0. <rel_shift(x), dy> = <x, dx> for all x, dy.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="return ops.rel_shift_backward(dy, xp=np)",
    shown=(ops.rel_shift_backward,),
    steps=(
        "undo the steps of rel_shift in the opposite order; each is a view, or its adjoint a pad",
        "what was dropped comes back as zeros, the column that was padded is dropped",
        "view dy as one line, put T zeros before it, view it as T rows of K + 1, drop column 0",
    ),
    outputs=("dx",),
    cases=_shift_cases,
    mistakes=(
        Mistake(
            "it is rel_shift once more, which shifts further; the adjoint shifts back",
            _shifted,
        ),
        Mistake("nothing is shifted back", lambda dy: dy),
        Mistake(
            "the corner's gradients are lost: its numbers came from the next row's scores, and go "
            "back there (that they are 0 in a model is the mask's doing)",
            lambda dy: _unshifted(np.where(_corner(dy), 0.0, dy)),
        ),
        Mistake(
            "what leaves a row at one end comes in at its other, as np.roll does; it belongs to "
            "the row after, and the first T-1 numbers of x went nowhere",
            lambda dy: _rolled(dy, lambda i, t: i + 1 - t),
        ),
        Mistake(
            "the wrong column is dropped: the zeros were on the left",
            lambda dy: _unshifted(dy, first=0),
        ),
    ),
)


# --- the four terms ------------------------------------------------------------------------------


def _term_cases(rng):
    b, h, t, m, dh = sizes(rng, 5, keys=(2, 3))

    def arrays(t, m):
        q = rng.normal(size=(b, h, t, dh))
        k = rng.normal(size=(b, h, m + t, dh))
        r = rng.normal(size=(h, m + t, dh))
        u, v = rng.normal(size=(2, h, dh))
        return q, k, r, u, v

    return [
        Case(arrays(t, m), f"B = {b}, H = {h}, T = {t}, M = {m}, Dh = {dh}"),
        Case(arrays(t, 0), "M = 0", edge=True),
        Case(arrays(1, m), "T = 1", edge=True),
    ]


def _terms(q, k, r, u, v, scale=None, shift=_shifted, both=False, swapped=False, flip=False):
    """The four terms; both: q also in c and d; swapped: u and v; flip: r by rising distance."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    u, v = (v, u) if swapped else (u, v)
    r = r[:, ::-1] if flip else r
    k_t, r_t = np.swapaxes(k, -1, -2), np.swapaxes(r, -1, -2)
    q, still = q * scale, 0 if not both else q * scale
    u, v = (np.zeros_like(q) + still + x[:, None, :] * scale for x in (u, v))
    return q @ k_t, shift(q @ r_t), u @ k_t, shift(v @ r_t)


def _crossed(q, k, r, u, v):
    """c with positions, d with contents."""
    a, b, _, d = _terms(q, k, r, v, u)
    return a, b, d, _terms(q, k, r, v, u)[2]


def _summed(q, k, r, u, v):
    """ac and bd where a and b were asked for."""
    a, b, c, d = _terms(q, k, r, u, v)
    return a + c, b + d, c, d


def _future(q, k, r, u, v):
    t, n_key = q.shape[2], k.shape[2]
    return np.arange(n_key) > np.arange(t)[:, None] + n_key - t


FOUR_TERMS = Exercise(
    id="four-terms",
    title="The four terms of a score",
    points=6,
    notebook="03_relative_positions",
    head='''
def four_terms(q, k, r, u, v):
    """Return the terms a, b, c, d of the scores, each (B, H, T, K), divided by sqrt(d_head).

    a: q_i . k_j    b: q_i . r_(i-j)    c: u . k_j    d: v . r_(i-j)        (paper, sec. 3.3)
    q (B, H, T, Dh); k (B, H, K, Dh); r (H, K, Dh), row c for distance K-1-c; u, v (H, Dh).
    Query i stands at column i + M of the keys, M = K - T. For b and d take your rel_shift, or an
    index; what they have for keys in the future (j > i + M) is not looked at.
    """
''',
    imports="import numpy as np\n\nfrom minitxl.model.attention import attention_terms\n",
    body="""
terms = attention_terms(q, k, r, u, v, xp=np)
return tuple(terms[name] for name in "abcd")
""",
    shown=(attention.attention_terms,),
    outputs=("a", "b", "c", "d"),
    cases=_term_cases,
    unseen=_future,
    mistakes=(
        Mistake(
            "you forgot to divide by sqrt(d_head)",
            lambda *x: _terms(*x, scale=1.0),
        ),
        Mistake(
            "rel-shift is missing: columns are distances still, must be keys",
            lambda *x: _terms(*x, shift=lambda y: y),
        ),
        Mistake(
            "u and v are swapped: u goes with contents (c), v with positions (d)",
            lambda *x: _terms(*x, swapped=True),
        ),
        Mistake(
            "q is in it too: c and d are the same for every query's content",
            lambda *x: _terms(*x, both=True),
        ),
        Mistake(
            "u (or v) is in it too: this is a + c (or b + d), give each term alone",
            _summed,
        ),
        Mistake(
            "contents and positions are swapped: c is u with the keys k, d is v with the "
            "positions r",
            _crossed,
        ),
        Mistake(
            "the distances run the wrong way: row c of r is for distance K-1-c, not c",
            lambda *x: _terms(*x, flip=True),
        ),
    ),
)

EXERCISES = (POSITIONS, REL_SHIFT, REL_SHIFT_BACKWARD, FOUR_TERMS)
