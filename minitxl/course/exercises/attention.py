"""Exercises: attention over memory and segment, forwards and backwards."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.course.exercises.ops import softmax
from minitxl.model import attention


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _attention_arrays(rng, n_query, n_mem, b, h, dh):
    n_key = n_mem + n_query
    q = rng.normal(size=(b, h, n_query, dh))
    k, v = rng.normal(size=(2, b, h, n_key, dh))
    mask = np.arange(n_key) > np.arange(n_query)[:, None] + n_mem
    return q, k, v, mask


def _attention_cases(rng):
    b, h, t, m, dh = sizes(rng, 5, keys=(2, 3))
    return [
        Case(_attention_arrays(rng, t, m, b, h, dh), f"B = {b}, H = {h}, T = {t}, M = {m}"),
        Case(_attention_arrays(rng, t, 0, b, h, dh), "M = 0, no memory", edge=True),
        Case(_attention_arrays(rng, 1, m, b, h, dh), "T = 1", edge=True),
        Case(  # of which float32 has few digits behind the point
            _large_scores(*_attention_arrays(rng, t, m, b, h, dh)), "large scores", True, 1e-3
        ),
    ]


def _large_scores(q, k, v, mask):
    """Scores of thousands. Of what the first query sees all are below -1000: no finite score of
    that size hides a key from it."""
    q, k = 1000 * q, k.copy()
    seen = ~mask[0]
    q[:, :, 0] = 0.0
    q[:, :, 0, 0] = 1000 * math.sqrt(q.shape[-1])
    k[:, :, seen, 0] = -1 - np.abs(k[:, :, seen, 0])
    return q, k, v, mask


def _attend(q, k, v, mask, scale=None, axis=-1, after=False):
    scores = q @ _t(k) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if after:
        return np.where(mask, 0.0, softmax(scores)) @ v
    return softmax(np.where(mask, -np.inf, scores), axis=axis) @ v


def _attend_finite(q, k, v, mask, added=False):
    """Hidden keys get the score -100, or 100 less than they have."""
    scores = q @ _t(k) / math.sqrt(q.shape[-1])
    return softmax(np.where(mask, scores - 100 if added else -100.0, scores)) @ v


def _attend_overflowing(q, k, v, mask):
    p = np.exp(np.where(mask, -np.inf, q @ _t(k) / math.sqrt(q.shape[-1])))
    return p / p.sum(axis=-1, keepdims=True) @ v


ATTENTION = Exercise(
    id="attention-forward",
    title="Attention over memory and segment",
    lines=4,
    ideas=1,
    notebook="02_attention_by_hand",
    head='''
def attend(q, k, v, mask):
    """Return o = softmax(q k^T / sqrt(d_head), masked) v, (B, H, T, Dh).

    q (B, H, T, Dh); k, v (B, H, K, Dh), of memory and segment: K = M + T; mask (T, K) bool: True
    where key j is hidden from query i. A hidden key gets the score -inf, so that its p is 0.
    """
''',
    imports="""
import math

import numpy as np

from minitxl.model.attention import additive_mask, attend_forward
""",
    body="""
scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])  # -> (B, H, T, K)
scores = scores + additive_mask(mask, dtype=scores.dtype, xp=np)
o, _ = attend_forward(scores, v, dropatt=0.0, rng=None, xp=np)
return o
""",
    shown=(attention.additive_mask, attention.attend_forward),
    outputs=("o",),
    cases=_attention_cases,
    mistakes=(
        Mistake(
            "you forgot to divide the scores by sqrt(d_head)",
            lambda q, k, v, mask: _attend(q, k, v, mask, 1.0),
        ),
        Mistake(
            "the scores are divided by d_head, must be by its square root",
            lambda q, k, v, mask: _attend(q, k, v, mask, 1 / q.shape[-1]),
        ),
        Mistake(
            "the scores are divided by sqrt(H d_head), must be by sqrt(d_head), one head's width",
            lambda q, k, v, mask: _attend(q, k, v, mask, 1 / math.sqrt(q.shape[-1] * q.shape[1])),
        ),
        Mistake(
            "the scores are multiplied by sqrt(d_head), must be divided by it",
            lambda q, k, v, mask: _attend(q, k, v, mask, math.sqrt(q.shape[-1])),
        ),
        Mistake(
            "the mask is not used: queries see the future",
            lambda q, k, v, mask: _attend(q, k, v, mask & False),
        ),
        Mistake(
            "the mask is the wrong way round: True means hidden",
            lambda q, k, v, mask: _attend(q, k, v, ~mask),
        ),
        Mistake(
            "the mask is put on after the softmax, so the rows of p do not add up to 1: put -inf "
            "into the scores",
            lambda q, k, v, mask: _attend(q, k, v, mask, after=True),
        ),
        Mistake(
            "the softmax runs over the queries, must run over the keys, the last axis",
            lambda q, k, v, mask: _attend(q, k, v, mask, axis=-2),
        ),
        Mistake(
            "hidden keys got the score 0, for which exp(0) = 1: it must be -inf",
            lambda q, k, v, mask: (
                softmax(np.where(mask, 0.0, q @ _t(k) / math.sqrt(q.shape[-1]))) @ v
            ),
        ),
        Mistake(
            "hidden keys got a finite score, and some scores are lower still: it must be -inf",
            _attend_finite,
        ),
        Mistake(
            "something finite is taken off the hidden scores, which may be larger: put -inf there",
            lambda *a: _attend_finite(*a, added=True),
        ),
        Mistake(
            "exp of large scores overflows: take each row's maximum off first, p stays the same",
            _attend_overflowing,
        ),
    ),
)


def _backward_cases(rng):
    b, h, t, m, dh = sizes(rng, 5, keys=(2, 3))

    def arrays(t, m):
        q, k, v, mask = _attention_arrays(rng, t, m, b, h, dh)
        p = softmax(np.where(mask, -np.inf, q @ _t(k) / math.sqrt(dh)))
        return rng.normal(size=q.shape), q, k, v, p

    return [
        Case(arrays(t, m), f"B = {b}, H = {h}, T = {t}, M = {m}"),
        Case(arrays(t, 0), "M = 0, no memory", edge=True),
        Case(arrays(1, m), "T = 1", edge=True),
    ]


def _attend_backward(do, q, k, v, p, scale=None, softmax_backward=True, summed=True, axis=-1):
    dp = do @ _t(v)
    ds = dp
    if softmax_backward:
        ds = p * (dp - (dp * p).sum(axis=axis, keepdims=True)) if summed else p * dp
    ds = ds * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    return ds @ k, _t(ds) @ q, _t(p) @ do


def _one_sided(do, q, k, v, p):
    """The scale twice: once for q, once more for k."""
    return _attend_backward(do, q, k, v, p, 1 / q.shape[-1])


def _segment_only(do, q, k, v, p):
    """dk and dv of the segment's rows; 0 for the memory's."""
    dq, dk, dv = _attend_backward(do, q, k, v, p)
    n_mem = k.shape[2] - q.shape[2]
    dk[:, :, :n_mem], dv[:, :, :n_mem] = 0.0, 0.0
    return dq, dk, dv


def _dv_from_scores(do, q, k, v, p):
    scores = q @ _t(k) / math.sqrt(q.shape[-1])
    dq, dk, _ = _attend_backward(do, q, k, v, p)
    return dq, dk, _t(scores) @ do


ATTENTION_BACKWARD = Exercise(
    id="attention-backward",
    title="Attention backwards",
    lines=5,
    ideas=2,
    notebook="02_attention_by_hand",
    head='''
def attention_backward(do, q, k, v, p):
    """Return dq (B, H, T, Dh), dk and dv (B, H, K, Dh) of o = p v, p = softmax(q k^T / sqrt(Dh)).

    do, q (B, H, T, Dh); k, v (B, H, K, Dh); p (B, H, T, K), the probabilities of the forward pass.
    """
''',
    imports="""
import math

import numpy as np

from minitxl.model.attention import AttendCache, attend_backward
from minitxl.model.ops import DropoutCache, SoftmaxCache
""",
    body="""
ds, dv = attend_backward(do, AttendCache(SoftmaxCache(p), DropoutCache(None), p, v), xp=np)
ds = ds / math.sqrt(q.shape[-1])
return ds @ k, np.swapaxes(ds, -1, -2) @ q, dv
""",
    shown=(attention.attend_backward, attention.core_backward),
    steps=(
        "dv = p^T do, dp = do v^T",
        "ds is the softmax backwards of dp, with your softmax_backward",
        "dq = ds k / sqrt(Dh), dk = ds^T q / sqrt(Dh)",
    ),
    outputs=("dq", "dk", "dv"),
    cases=_backward_cases,
    mistakes=(
        Mistake(
            "you forgot to divide by sqrt(d_head): the scores were divided, so are their gradients",
            lambda *a: _attend_backward(*a, scale=1.0),
        ),
        Mistake(
            "it is divided by d_head, must be by its square root",
            _one_sided,
        ),
        Mistake(
            "the softmax is not undone: dp is used for ds",
            lambda *a: _attend_backward(*a, softmax_backward=False),
        ),
        Mistake(
            "softmax's backward lacks its sum: ds = p (dp - sum(dp p))",
            lambda *a: _attend_backward(*a, summed=False),
        ),
        Mistake(
            "softmax's sum runs over the queries, must run over the keys, the last axis",
            lambda *a: _attend_backward(*a, axis=-2),
        ),
        Mistake(
            "the memory's rows are 0; keys and values of the memory are read, so they have "
            "gradients here (the stop comes later, at the hidden states)",
            _segment_only,
        ),
        Mistake(
            "the scores are used for p: o = p v, so dv = p^T do",
            _dv_from_scores,
        ),
    ),
)

EXERCISES = (ATTENTION, ATTENTION_BACKWARD)
