"""Exercises: the compressive memory, its update and the loss that trains it."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.course.exercises.ops import softmax
from minitxl.model.family.memories import compressive, losses

# --- the compressive memory ----------------------------------------------------------------------


def _update_cases(rng):
    b, d, c, t, few = sizes(rng, 5, low=3, high=8)

    def arrays(coarse, fine, h, n_fine, n_coarse, rate=c):
        rows = (rng.normal(size=(b, n, 2 * d)) for n in (coarse, fine, h))
        return *rows, n_fine, n_coarse, rate

    n_fine, n_coarse = few + c, few + 3
    return [
        Case(arrays(n_coarse, n_fine + c - 1, 2 * c + 2, n_fine, n_coarse), "states that wait"),
        Case(arrays(n_coarse - 1, t, 2 * c, t, n_coarse), "T = 2 rate: none waits"),
        Case(arrays(1, few, 1, few, n_coarse), "T = 1, no whole group", edge=True),
        Case(arrays(0, 0, t, t + 2, n_coarse), "a stream's start", edge=True),
        Case(arrays(0, 0, t, t + 2, n_coarse, 1), "a stream's start, rate = 1", edge=True),
        Case(arrays(0, c - 1, c + 1, 0, n_coarse), "n_fine = 0", edge=True),
        Case(arrays(0, few, 3 * c, few, 0), "n_coarse = 0", edge=True),
        Case(arrays(2, few, 3 * c, few, 2), "more new rows than n_coarse", edge=True),
    ]


def _compress(coarse, fine, h, n_fine, n_coarse, rate, *, how=lambda g: g.mean(2), wrong=""):
    """The update; how: (B, n, c, D) -> (B, n, D); wrong: which step is out of order."""
    both = np.concatenate([h, fine] if wrong == "order" else [fine, h], axis=1)
    out = max(0, both.shape[1] - n_fine)
    whole = -(-out // rate) * rate if wrong == "early" else out // rate * rate
    whole = min(whole, both.shape[1] // rate * rate)
    left, rest = both[:, :whole], both[:, out if wrong == "lost" else whole :]
    if wrong == "newest":
        rest, left = both[:, : both.shape[1] - whole], both[:, both.shape[1] - whole :]
    b, _, d = both.shape
    if wrong == "strided":  # states that stand far apart
        made = how(left.reshape(b, rate, whole // rate, d).swapaxes(1, 2))
    else:
        made = how(left.reshape(b, whole // rate, rate, d))
    coarse = np.concatenate([made, coarse] if wrong == "front" else [coarse, made], axis=1)
    if wrong == "grows":
        return coarse, rest
    if wrong == "minus zero":
        return coarse[:, -n_coarse:], rest
    if wrong == "first":
        return coarse[:, :n_coarse], rest
    return coarse[:, max(0, coarse.shape[1] - n_coarse) :], rest


def _compressed(**options):
    return lambda *a: _compress(*a, **options)


UPDATE = Exercise(
    id="compressive-update",
    title="What falls out is compressed",
    lines=6,
    ideas=1,
    notebook="08_beyond",
    head='''
def compressive_update(coarse, fine, h, n_fine, n_coarse, rate):
    """Return the next segment's coarse and fine memory of a layer, groups compressed by their mean.

    coarse (B, at most n_coarse, D); fine (B, at most n_fine + rate - 1, D); h (B, T, D):
    inputs of the layer for this segment; the oldest first. Of the states in fine and h the last
    n_fine stay; the others leave, but only in whole groups of `rate`, the oldest first: those that
    make no whole group wait in fine. A group becomes one row behind those of coarse, which then
    keeps its newest n_coarse.
    """
''',
    imports="""
import numpy as np

from minitxl.config import Config, Memory
from minitxl.model.family.memories.compressive import Compressed, Compressive
""",
    body="""
settings = Memory(kind="compressive", n_coarse=n_coarse, rate=rate)
config = Config(n_token=1, d_model=h.shape[2], mem_len=n_fine, memory=settings)
born = np.zeros(coarse.shape[1] + 1, dtype=np.int32)  # of no use here
state = Compressed(coarse, fine, born)
left, _ = Compressive(config).update(state, h, None, None, {}, 0, xp=np)
return left.coarse, left.fine
""",
    shown=(compressive.Compressive.update,),
    steps=(
        "put fine and h side by side; how many states are there beyond n_fine?",
        "round that down to whole groups: these leave, and all that comes after them is fine",
        "reshape what leaves to (B, groups, rate, D); its mean over axis 2 goes behind coarse, of "
        "which the last n_coarse rows stay: coarse[:, max(0, n - n_coarse):] of n rows",
    ),
    outputs=("coarse", "fine"),
    cases=_update_cases,
    mistakes=(
        Mistake(
            "states that wait for the rest of their group are lost; they stay in fine",
            _compressed(wrong="lost"),
        ),
        Mistake(
            "a group is compressed before it is needed: only whole groups beyond n_fine leave",
            _compressed(wrong="early"),
        ),
        Mistake(
            "the newest states leave, must be the oldest",
            _compressed(wrong="newest"),
        ),
        Mistake(
            "h comes before fine, must come after: the past first",
            _compressed(wrong="order"),
        ),
        Mistake(
            "a group holds states that stand far apart; it is `rate` of them in a row: reshape to "
            "(B, groups, rate, D)",
            _compressed(wrong="strided"),
        ),
        Mistake(
            "a row is the sum of its group, must be the mean",
            _compressed(how=lambda g: g.sum(2)),
        ),
        Mistake(
            "a row is the largest of its group, must be the mean",
            _compressed(how=lambda g: g.max(2)),
        ),
        Mistake(
            "a row is one state of its group, which evicts the others; must be the mean",
            _compressed(how=lambda g: g[:, :, -1]),
        ),
        Mistake(
            "new rows come before the old ones in coarse, must come after",
            _compressed(wrong="front"),
        ),
        Mistake(
            "nothing is forgotten: coarse grows beyond n_coarse",
            _compressed(wrong="grows"),
        ),
        Mistake(
            "the first rows of coarse are kept, must be the last, the newest",
            _compressed(wrong="first"),
        ),
        Mistake(
            "x[:, -0:] is everything: with n_coarse = 0 nothing is kept in coarse",
            _compressed(wrong="minus zero"),
        ),
    ),
)


# --- its loss ------------------------------------------------------------------------------------


def _loss_cases(rng):
    t, m, n, d, more = sizes(rng, 5, low=3, high=8)
    width = 2 * (d + more)

    def arrays(t, m, n, largest=None):
        q, old, new = (rng.normal(size=(rows, w)) for rows, w in ((t, d), (m, width), (n, width)))
        w_k, w_v = rng.normal(size=(2, width, d)) / width**0.5
        if largest is not None:  # the first query's score with the first row
            key = new[0] @ w_k
            q[0] = key * largest * d**0.5 / (key @ key)
        return q, old, new, w_k, w_v

    return [
        Case(arrays(t, m + n, n), f"T = {t}, m = {m + n}, n = {n}, D = {width}, d = {d}"),
        Case(arrays(n, t + m, m), f"T = {n}, m = {t + m}, n = {m}"),
        Case(arrays(1, m + n, n), "T = 1", edge=True),
        Case(arrays(t, m, 1), "n = 1: one row gets all the attention", edge=True),
        Case(arrays(t, m + n, n, 2000.0), "a score of 2000", edge=True, rtol=1e-3),
    ]


def _loss_gradient(q, old, new, w_k, w_v, *, by=("k", "v"), wrong=""):
    """dnew; by: the ways to it; wrong: which step is out of order."""
    t, d = q.shape
    root = 1 / math.sqrt(d)
    p_old, p = (softmax(q @ (rows @ w_k).T * root) for rows in (old, new))
    gap = p @ new @ w_v - (0.0 if wrong == "no old" else p_old @ old @ w_v)
    do = gap * {"no square": 1 / t, "sum": 2, "mean": 2 / (t * d)}.get(wrong, 2 / t)
    dp = do @ (new @ w_v).T
    ds = p * dp if wrong == "no sum" else p * (dp - (p * dp).sum(-1, keepdims=True))
    dk = ds.T @ q * (1 if wrong == "no root" else root)
    dv = p.T @ do
    if wrong == "projected":
        return dk + dv
    return sum(x @ w.T for x, w, n in ((dk, w_k, "k"), (dv, w_v, "v")) if n in by)


def _of_loss(**options):
    return lambda *a: _loss_gradient(*a, **options)


LOSS = Exercise(
    id="compression-gradient",
    title="What teaches the compression",
    lines=10,
    ideas=2,
    notebook="08_beyond",
    head='''
def compression_gradient(q, old, new, w_k, w_v):
    """Return dL/dnew (n, D), the loss of Rae et al. (2019), which trains the compression alone.

    q (T, d): a segment's queries; old (m, D): states that leave; new (n, D): their coarse rows;
    w_k, w_v (D, d). A reading is attn(q, rows) = softmax(q (rows w_k)^T / sqrt(d)) (rows w_v), and
    L = 1/T sum_t | attn(q, new)_t - attn(q, old)_t |^2. All but new is a constant here.
    """
''',
    imports="""
import numpy as np

from minitxl.config import Config
from minitxl.model.attention import AttentionWeights
from minitxl.model.family.memories import losses
from minitxl.model.layers import LayerWeights
""",
    body="""
width, d = w_k.shape
h = np.pad(q, ((0, 0), (0, width - d)))[None]  # what gives q by a w_q of ones
weights = AttentionWeights(np.eye(width, d), w_k, w_v, *[None] * 4)
layer = LayerWeights(weights, *[None] * (len(LayerWeights._fields) - 1))
config = Config(n_token=1, d_model=width, n_head=1, d_head=d)
blocks = old[None, :, None]  # (B = 1, m, c = 1, D)
loss = losses.attention_loss_forward(h, blocks, new[None], layer, {}, 0, config, xp=np)
return losses.attention_loss_backward(loss, {}, 0, config, xp=np)[0]
""",
    shown=(losses.attention_loss_backward, losses.read_backward),
    steps=(
        "attn(q, old) is a constant, a target; with o = attn(q, new): what is dL/do?",
        "do = 2/T (o - target); from here it is attention's backward (notebook 2), for keys and "
        "values alone: dv = p^T do, ds = p (dp - sum(p dp)) with dp = do (new w_v)^T",
        "dk = ds^T q / sqrt(d), and new is read twice: dnew = dk w_k^T + dv w_v^T",
    ),
    outputs=("dnew",),
    cases=_loss_cases,
    mistakes=(
        Mistake(
            "what comes by the keys is missing: new decides where is looked, too",
            _of_loss(by=("v",)),
        ),
        Mistake(
            "what comes by the values is missing",
            _of_loss(by=("k",)),
        ),
        Mistake(
            "the square is not undone: a factor 2",
            _of_loss(wrong="no square"),
        ),
        Mistake(
            "it is the gradient of a sum over queries; L is the mean: 1/T",
            _of_loss(wrong="sum"),
        ),
        Mistake(
            "it is the gradient of a mean over all T d numbers; L is the mean over T alone",
            _of_loss(wrong="mean"),
        ),
        Mistake(
            "the old states have no say: what counts is attn(q, new) - attn(q, old)",
            _of_loss(wrong="no old"),
        ),
        Mistake(
            "softmax's backward lacks its sum: ds = p (dp - sum(p dp))",
            _of_loss(wrong="no sum"),
        ),
        Mistake(
            "you forgot to divide by sqrt(d): the scores were divided, so are their gradients",
            _of_loss(wrong="no root"),
        ),
        Mistake(
            "this is the gradient of keys and values, (n, d); new stands before w_k and w_v",
            _of_loss(wrong="projected"),
        ),
    ),
)

EXERCISES = (UPDATE, LOSS)
