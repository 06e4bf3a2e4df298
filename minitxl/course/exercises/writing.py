"""Exercises: what teaches a memory what to write: the delta rule backwards, memory tokens."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model.family.memories import matrix, tokens

# --- the delta rule ------------------------------------------------------------------------------


def _delta_cases(rng):
    t, d, e, more = sizes(rng, 4, high=7)

    def arrays(t, d):
        do, v, k, q = (rng.normal(size=(t, n)) for n in (e, e, d, d))
        k = k / np.linalg.norm(k, axis=1, keepdims=True)
        dnew, s = rng.normal(size=(2, d, e))
        return [do, dnew, q, k, v, rng.uniform(0.1, 0.9, t), s]

    def repeated():
        args = arrays(t + 1, d)
        args[3] = args[3][:1].repeat(t + 1, axis=0)
        return tuple(args)

    def strengths(b):
        args = arrays(t + 1, d)
        args[5] = np.where(np.arange(t + 1) % 2, args[5], b)
        return tuple(args)

    return [
        Case(tuple(arrays(t + 1, d)), f"T = {t + 1}, d = {d}, e = {e}"),
        Case(tuple(arrays(d + more, d)), f"T = {d + more}, more tokens than d = {d}"),
        Case(tuple(arrays(1, d)), "T = 1", edge=True),
        Case(repeated(), "one key for all tokens", edge=True),
        Case(strengths(0.0), "tokens that write nothing, b = 0", edge=True),
        Case(strengths(1.0), "tokens that write all, b = 1", edge=True),
    ]


def _delta(do, dnew, q, k, v, b, s, *, wrong=""):
    """dq, dk, dv, db, ds token by token; wrong: which step is out of order."""
    if wrong == "no s":
        s = 0 * s
    states = [s]
    for k_t, v_t, b_t in zip(k, v, b, strict=True):
        states.append(states[-1] + b_t * np.outer(k_t, v_t - states[-1].T @ k_t))
    dq, dk, dv, db = (np.zeros_like(x) for x in (q, k, v, b))
    ds = 0 * dnew if wrong == "no dnew" else dnew
    for t in reversed(range(len(q))):
        before, after = states[t], states[t + 1]
        if wrong == "one state":
            before = after = states[-1]
        dq[t] = (before if wrong == "early" else after) @ do[t]
        if wrong != "early":
            ds = ds + np.outer(q[t], do[t])
        if wrong == "own only":
            ds = np.outer(q[t], do[t]) + (dnew if t == len(q) - 1 else 0)
        new = v[t] - before.T @ k[t]
        du = ds.T @ k[t]  # of u = b new, that is written under k
        dv[t] = du if wrong == "no b" else b[t] * du
        db[t] = du @ (v[t] if wrong == "b of v" else new)
        dk[t] = ds @ (b[t] * new)
        if wrong != "k once":
            dk[t] -= before @ (b[t] * du)
        if wrong != "kept":
            ds = ds - np.outer(k[t], b[t] * du)
        if wrong == "early":
            ds = ds + np.outer(q[t], do[t])
    return dq, dk, dv, db, ds


def _of_delta(wrong):
    return lambda *a: _delta(*a, wrong=wrong)


DELTA = Exercise(
    id="delta-backward",
    title="The delta rule backwards",
    lines=16,
    ideas=3,
    notebook="08_beyond",
    head='''
def delta_backward(do, dnew, q, k, v, b, s):
    """Return dq, dk (T, d), dv (T, e), db (T,), ds (d, e) of a memory that reads and writes.

    Token by token, from S_0 = s (d, e):
    S_t = S_{t-1} + b_t k_t (v_t - S_{t-1}^T k_t)^T, then o_t = S_t^T q_t
    q, k (T, d); v (T, e); b (T,). Each k_t comes with length 1: how it got it is not part of this.
    do (T, e) = dLoss/do; dnew (d, e) = dLoss/dS_T, what later segments send back.
    """
''',
    imports="""
import numpy as np

from minitxl.config import Memory
from minitxl.model.family.memories import matrix
""",
    body="""
settings = Memory(kind="matrix", rule="delta", feature="unit")
q, k, v, s, do, dnew = (x[None, None] for x in (q, k, v, s, do, dnew))  # B = H = 1
_, _, cache = matrix.memory_forward(q, k, v, b[None, None, :, None], s, settings, xp=np)
scores = np.tril(q @ np.swapaxes(k, -1, -2))  # the lengths stay as they are
cache = cache._replace(q=q, k=k, scores=scores, features=((None, None),) * 2)
dq, dk, dv, db, ds = matrix.memory_backward(do, dnew, cache, xp=np)
return dq[0, 0], dk[0, 0], dv[0, 0], db[0, 0, :, 0], ds[0, 0]
""",
    shown=(matrix.memory_forward, matrix.memory_backward),
    steps=(
        "run it forwards and keep all S_t; then go back from the last token with one matrix G, the "
        "gradient of S_t, which is dnew at first",
        "at token t: o_t was read from S_t, so dq_t = S_t do_t, and G gets q_t do_t^T; then the "
        "write is undone, whose u_t = b_t (v_t - S_{t-1}^T k_t) gets du_t = G^T k_t",
        "S_{t-1} is in S_t itself and in u_t, k_t stands twice: dv_t = b_t du_t, db_t = du_t . "
        "(v_t - S_{t-1}^T k_t), dk_t = G u_t - S_{t-1} dv_t, and G becomes G - k_t dv_t^T",
    ),
    outputs=("dq", "dk", "dv", "db", "ds"),
    cases=_delta_cases,
    mistakes=(
        Mistake(
            "k_t stands twice: it also asks S_{t-1} what is there already",
            _of_delta("k once"),
        ),
        Mistake(
            "S_{t-1} is read by the write, too: on the way back its gradient loses something",
            _of_delta("kept"),
        ),
        Mistake(
            "o_t is read from S_t, after the token has written; this reads S_{t-1}",
            _of_delta("early"),
        ),
        Mistake(
            "each token has its own S_t; this takes S_T for all",
            _of_delta("one state"),
        ),
        Mistake(
            "dnew is not used: later segments read what is left",
            _of_delta("no dnew"),
        ),
        Mistake(
            "a write is read by later tokens, too: the gradient of S goes on from token to token",
            _of_delta("own only"),
        ),
        Mistake(
            "b_t is missing: it stands before v_t",
            _of_delta("no b"),
        ),
        Mistake(
            "b_t weighs what is new, v_t - S_{t-1}^T k_t, not v_t alone",
            _of_delta("b of v"),
        ),
        Mistake(
            "the matrix s that was found is not used: the segment begins with it",
            _of_delta("no s"),
        ),
    ),
)


# --- memory tokens -------------------------------------------------------------------------------


def _tokens_cases(rng):
    m, one, two, d = sizes(rng, 4, low=2, high=6)

    def arrays(m, one, two):
        m0, x1, x2, dy2 = (rng.normal(size=(n, 2 * d)) for n in (m, one, two, two))
        p1, p2 = (rng.normal(size=(n + 2 * m,) * 2) / (n + 2 * m) ** 0.5 for n in (one, two))
        return dy2, m0, x1, x2, p1, p2, rng.normal(size=(2 * d, 2 * d)) / (2 * d) ** 0.5

    return [
        Case(arrays(m, one, two), f"m = {m}, T_1 = {one}, T_2 = {two}, D = {2 * d}"),
        Case(arrays(one, two, m), f"m = {one}, T_1 = {two}, T_2 = {m}, D = {2 * d}"),
        Case(arrays(1, one, two), "m = 1", edge=True),
        Case(arrays(m, 1, two), "T_1 = 1", edge=True),
        Case(arrays(m, one, 1), "T_2 = 1", edge=True),
    ]


def _two_segments(dy2, m0, x1, x2, p1, p2, w, *, ends="both", ends0="both", wrong=""):
    """dw, dx1, dm0; ends, ends0: at which m1 and m0 count as read; wrong: what is out of order."""
    m, one, two = len(m0), len(x1), len(x2)
    r1 = np.concatenate([m0, x1, m0])
    y1 = p1 @ r1 @ w
    written = slice(0, m) if wrong == "first rows" else slice(m + one, None)
    m1 = y1[written]
    r2 = np.concatenate([m1, x2, m1])
    full = np.zeros_like(r2)
    at = 0 if wrong == "places" else m
    full[at : at + two] = dy2

    def back(p, dy):
        return (p if wrong == "P" else p.T) @ dy @ (w if wrong == "W" else w.T)

    def read(dr, ends):
        first, last = dr[:m], dr[len(dr) - m :]
        both = (first + last) / 2 if ends == "mean" else first + last
        return {"first": first, "last": last}.get(ends, both)

    dy1 = np.zeros_like(r1)
    if wrong != "stop":
        dy1[written] = read(back(p2, full), ends)
    dr1 = back(p1, dy1)
    dw = (p1 @ r1).T @ dy1
    if wrong != "dw of one":
        dw = dw + (p2 @ r2).T @ full
    return dw, dr1[m : m + one], read(dr1, ends0)


def _of_tokens(**options):
    return lambda *a: _two_segments(*a, **options)


TOKENS = Exercise(
    id="memory-tokens-gradient",
    title="Through two segments",
    lines=13,
    ideas=1,
    notebook="08_beyond",
    head='''
def memory_tokens_gradient(dy2, m0, x1, x2, p1, p2, w):
    """Return dw (D, D), dx1 (T_1, D), dm0 (m, D): nothing is stopped between the two segments.

    A layer that mixes by fixed matrices p1, p2 instead of attention. Memory stands at both ends:
    r1 = [m0 ; x1 ; m0], y1 = p1 r1 w, and m1 is the last m rows of y1, what was written;
    r2 = [m1 ; x2 ; m1], y2 = p2 r2 w. Loss = sum(dy2 * y2[m : m + T_2]): of x2's places alone.
    m0 (m, D); x1 (T_1, D); x2, dy2 (T_2, D); p1 (2m + T_1, 2m + T_1), p2 alike; w (D, D).
    """
''',
    imports="""
import numpy as np

from minitxl.config import Config, Memory
from minitxl.model.family.memories.tokens import Tokens
""",
    body="""
settings = Memory(kind="tokens", n_slot=len(m0))
memory = Tokens(Config(n_token=1, n_layer=1, d_model=len(w), mem_len=0, memory=settings))
r1, cache1 = memory.enter(x1[None], [m0[None]], {}, xp=np)
y1, m1 = memory.leave(p1 @ r1 @ w, [m0[None]])
r2, cache2 = memory.enter(x2[None], m1, {}, xp=np)

dy2, _ = memory.leave_backward(dy2[None], [None], xp=np)
dr2 = p2.T @ dy2 @ w.T
_, dm1 = memory.enter_backward(dr2, m1, cache2, {}, xp=np)
dy1, _ = memory.leave_backward(np.zeros_like(y1), dm1, xp=np)
dr1 = p1.T @ dy1 @ w.T
dx1, dm0 = memory.enter_backward(dr1, m1, cache1, {}, xp=np)
dw = (p1 @ r1)[0].T @ dy1[0] + (p2 @ r2)[0].T @ dy2[0]
return dw, dx1[0], dm0[0][0]
""",
    shown=(tokens.Tokens.leave_backward, tokens.Tokens.enter_backward),
    steps=(
        "run both segments forwards; the gradient of y2 is dy2 in x2's places and 0 in the others",
        "y = p r w gives dr = p^T dy w^T, and dw = (p r)^T dy for each of the two segments",
        "m1 stands in r2 twice, so dm1 is the sum of the first and the last m rows of dr2; it is "
        "the gradient of the last m rows of y1, whose others get 0; m0 is read twice, too",
    ),
    outputs=("dw", "dx1", "dm0"),
    cases=_tokens_cases,
    mistakes=(
        Mistake(
            "the gradient stops between the segments; here it goes on through m1",
            _of_tokens(wrong="stop"),
        ),
        Mistake(
            "m1 is read at both ends of r2; the last m rows are missing",
            _of_tokens(ends="first"),
        ),
        Mistake(
            "m1 is read at both ends of r2; the first m rows are missing",
            _of_tokens(ends="last"),
        ),
        Mistake(
            "what comes from the two ends adds up, this is their mean",
            _of_tokens(ends="mean", ends0="mean"),
        ),
        Mistake(
            "m0 is read at both ends of r1; the last m rows are missing",
            _of_tokens(ends0="first"),
        ),
        Mistake(
            "m0 is read at both ends of r1; the first m rows are missing",
            _of_tokens(ends0="last"),
        ),
        Mistake(
            "w works in both segments: what the second gives is missing",
            _of_tokens(wrong="dw of one"),
        ),
        Mistake(
            "the mixing is not undone by its transpose, p^T",
            _of_tokens(wrong="P"),
        ),
        Mistake(
            "w is not undone by its transpose, w^T",
            _of_tokens(wrong="W"),
        ),
        Mistake(
            "dy2 belongs to x2's places, which come after the first m",
            _of_tokens(wrong="places"),
        ),
        Mistake(
            "m1 is what stands in the last m rows of y1, not in the first",
            _of_tokens(wrong="first rows"),
        ),
    ),
)

EXERCISES = (DELTA, TOKENS)
