"""Exercises: the encoding of distances, the four terms of a score, the gradients of u and v."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.course.exercises.shift import shifted, unshifted
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
    lines=6,
    ideas=0,
    notebook="03_relative_positions",
    head='''
def relative_positions(n_key, d_model):
    """Return R (K, D): row c is the encoding of the distance p = K-1-c, so K-1 first and 0 last.

    R_p = [sin(p f_0), sin(p f_1), ... | cos(p f_0), cos(p f_1), ...], f_n = 10000^(-2n/D) for
    n = 0 ... D/2 - 1; n_key is K, d_model is D, even. All sines, then all cosines.
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


def _terms(q, k, r, u, v, scale=None, shift=shifted, both=False, swapped=False, flip=False):
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
    lines=12,
    ideas=1,
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


# --- u and v, backwards --------------------------------------------------------------------------


def _bias_cases(rng):
    b, h, t, m, dh = sizes(rng, 5, keys=(2, 3))

    def arrays(t, m):
        ds = rng.normal(size=(b, h, t, m + t))
        ds[..., np.arange(m + t) > np.arange(t)[:, None] + m] = 0.0
        return ds, rng.normal(size=(b, h, m + t, dh)), rng.normal(size=(h, m + t, dh))

    return [
        Case(arrays(t, m), f"B = {b}, H = {h}, T = {t}, M = {m}, Dh = {dh}"),
        Case(arrays(t, 0), "M = 0", edge=True),
        Case(arrays(1, m), "T = 1", edge=True),
    ]


def _biases(ds, k, r, scale=None, back=unshifted, over=(0, 2), take=np.sum):
    scale = 1 / math.sqrt(k.shape[-1]) if scale is None else scale
    return take(ds @ k * scale, axis=over), take(back(ds) @ r * scale, axis=over)


BIASES = Exercise(
    id="bias-gradients",
    title="The gradients of u and v",
    lines=7,
    ideas=2,
    notebook="03_relative_positions",
    head='''
def bias_gradients(ds, k, r):
    """Return du and dv, both (H, Dh): dLoss/du and dLoss/dv, for ds = dLoss/ds (B, H, T, K).

    s = (q + u) k^T / sqrt(Dh) + rel_shift((q + v) r^T / sqrt(Dh)): u, v the same for every query.
    k (B, H, K, Dh); r (H, K, Dh), row c for distance K-1-c. For keys in the future (j > i + M) ds
    is 0. A helper for the shift may stand in the cell, too.
    """
''',
    imports="import math\n\nimport numpy as np\n\nfrom minitxl import ops\n",
    body="""
by_distance = ops.rel_shift_backward(ds, xp=np)
dq_u, dq_v = ds @ k, by_distance @ r  # (B, H, T, Dh): of q + u, and of q + v
return tuple(x.sum(axis=(0, 2)) / math.sqrt(k.shape[-1]) for x in (dq_u, dq_v))
""",
    shown=(attention.core_backward,),
    steps=(
        "u is added to every query: du sums what all the q + u get, over B and T",
        "q + u gets ds k / sqrt(Dh), as q does in attention's backward pass",
        "ds has a column for each key, r a row for each distance: run the shift backwards first",
        "du = sum(ds k) / sqrt(Dh), dv = sum(rel_shift_backward(ds) r) / sqrt(Dh), over B and T",
    ),
    outputs=("du", "dv"),
    cases=_bias_cases,
    mistakes=(
        Mistake(
            "you forgot to divide by sqrt(d_head): the scores were divided, so are their gradients",
            lambda *a: _biases(*a, scale=1.0),
        ),
        Mistake(
            "it is divided by d_head, must be by its square root",
            lambda ds, k, r: _biases(ds, k, r, scale=1 / k.shape[-1]),
        ),
        Mistake(
            "u and v are swapped: u goes with contents k, v with positions r",
            lambda *a: _biases(*a)[::-1],
        ),
        Mistake(
            "ds lies by key, r by distance: for dv the shift has to be run backwards first",
            lambda *a: _biases(*a, back=lambda ds: ds),
        ),
        Mistake(
            "ds is shifted once more; the shift has to be run backwards, by its adjoint",
            lambda *a: _biases(*a, back=shifted),
        ),
        Mistake(
            "the shift is run backwards for du, too: k lies by key already",
            lambda ds, k, r: (_biases(unshifted(ds), k, r)[0], _biases(ds, k, r)[1]),
        ),
        Mistake(
            "the distances run the wrong way: row c of r is for distance K-1-c, not c",
            lambda ds, k, r: _biases(ds, k, r[:, ::-1]),
        ),
        Mistake(
            "it is a mean over B and T, must be the sum: every query has the same u and v",
            lambda *a: _biases(*a, take=np.mean),
        ),
        Mistake(
            "it is not summed over the batch: all its rows have the same u and v",
            lambda *a: _biases(*a, over=2),
        ),
        Mistake(
            "it is not summed over the queries: all have the same u and v",
            lambda *a: _biases(*a, over=0),
        ),
    ),
)

EXERCISES = (POSITIONS, FOUR_TERMS, BIASES)
