"""Exercises: a whole layer, forwards and backwards."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.course.exercises.ops import softmax
from minitxl.model import layers

EPS = 1e-5


def _layer_arrays(rng, b, t, m, e, f, d, size=1.0, more=0.0):
    while True:
        h = size * rng.normal(size=(b, m + t, d))
        bias = rng.normal(size=(t, m + t)) + more
        bias[np.arange(m + t) > np.arange(t)[:, None] + m] = -np.inf
        shapes = ((d, e),) * 3 + ((e, d), (d, f), (f, d))
        w = tuple(rng.normal(size=s) / s[0] ** 0.5 for s in shapes)
        # No input of relu so near to 0 that rounding, in float32, decides on which side it is.
        if np.abs(_layer(h, bias, w, m, wrong="before relu")).min() > 2e-3:
            return h, bias, w, m


def _layer_sizes(rng):
    """B, T, M, E, F, D, all different; D even, and so large that LayerNorm leaves something."""
    b, t, m, e, f = sizes(rng, 5, high=7, keys=(1, 2))
    return b, t, m, e, f, next(int(d) for d in rng.permutation([8, 10, 12, 14]) if d != t + m)


def _layer_cases(rng, dy=False):
    b, t, m, *rest = _layer_sizes(rng)

    def arrays(t, m, **options):
        args = _layer_arrays(rng, b, t, m, *rest, **options)
        return (rng.normal(size=(b, t, rest[-1])), *args) if dy else args

    return [
        Case(arrays(t, m), f"B = {b}, T = {t}, M = {m}"),
        Case(arrays(m, t), f"B = {b}, T = {m}, M = {t}"),
        Case(arrays(t, 0), "M = 0, no memory", edge=True),
        Case(arrays(1, m), "T = 1", edge=True),
        Case(arrays(t, m, size=1e-3), "states so small that epsilon counts", edge=True),
        Case(arrays(t, m, more=1e3), "scores of a thousand", edge=True, rtol=1e-3),
    ]


# --- forwards ------------------------------------------------------------------------------------


def _norm(z, ddof=0):
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True, ddof=ddof) + EPS)


def _t(x):
    return np.swapaxes(x, -1, -2)


def _layer(h, bias, w, m, *, scale=None, wrong=""):
    """The layer; wrong: which piece of it is out of order."""
    w_q, w_k, w_v, w_o, w_1, w_2 = w
    x = h[:, m:]
    if wrong == "no memory":
        h, bias = x, bias[:, m:]
    if wrong == "norm first":
        h, x = _norm(h), _norm(x)
    scale = 1 / math.sqrt(w_q.shape[1]) if scale is None else scale
    scores = x @ w_q @ _t(h @ w_k)
    if wrong == "bias scaled":
        scores = (scores + bias) * scale
    else:
        scores = scores * scale + (0.0 if wrong == "no bias" else bias)
    o = softmax(scores) @ (h @ w_v) @ w_o
    ddof = int(wrong == "ddof")
    if wrong == "norm first":
        a = h[:, m:] * 0 + o  # the sum below has the inputs as they are
        return a, w_1, w_2
    z = o if wrong == "no x" else x + o
    a = z if wrong == "no first norm" else _norm(z, ddof)
    f = a @ w_1
    if wrong == "before relu":
        return f
    f = (f if wrong == "no relu" else np.maximum(f, 0)) @ w_2
    y = f if wrong == "no a" else x + f if wrong == "x for a" else a + f
    return y if wrong == "no last norm" else _norm(y, ddof)


def _pre_norm(h, bias, w, m):
    """LayerNorm in front of each block, none after it."""
    o, w_1, w_2 = _layer(h, bias, w, m, wrong="norm first")
    a = h[:, m:] + o
    return a + np.maximum(_norm(a) @ w_1, 0) @ w_2


_SOLUTION = """
w_q, w_k, w_v, w_o, w_1, w_2 = w
(d, e), f = w_q.shape, w_1.shape[1]
config = Config(
    n_token=1, d_model=d, n_head=1, d_head=e, d_inner=f, dropout=0.0, pre_lnorm=False
)
nothing, ones, none = np.zeros((1, e)), np.ones(d), np.zeros(d)
attn = AttentionWeights(w_q, w_k, w_v, 0 * w_k, w_o, nothing, nothing)  # positions: see bias
weights = LayerWeights(attn, ones, none, w_1, np.zeros(f), w_2, none, ones, none)
positions = np.zeros((h.shape[1], d))
y, cache = layers.layer_forward(
    h, positions, weights, bias, config, n_mem=n_mem, rng=None, xp=np
)
"""
_IMPORTS = """
import numpy as np

from minitxl.config import Config
from minitxl.model import layers
from minitxl.model.attention import AttentionWeights
from minitxl.model.layers import LayerWeights
"""

LAYER_FORWARD = Exercise(
    id="layer-forward",
    title="A whole layer",
    lines=9,
    ideas=1,
    notebook="04_memory",
    head='''
def layer_forward(h, bias, w, n_mem):
    """Return y (B, T, D), the outputs of a layer with one head (paper, sec. 3.3).

    h (B, K, D) = [memory ; segment], its first M = n_mem rows are the memory, the rest is x.
    w = (w_q, w_k, w_v, w_o, w_1, w_2): three (D, E), (E, D), (D, F), (F, D). bias (T, K): what
    positions add to the scores, after their division by sqrt(E); -inf where a key is hidden.
    Only x asks, all of h answers. p: softmax of the scores; o = p v w_o;
    LN(z) = (z - mean) / sqrt(var + 1e-5); a = LN(x + o), y = LN(a + relu(a w_1) w_2)
    """
''',
    imports=_IMPORTS,
    body=_SOLUTION + "return y\n",
    shown=(layers.layer_forward, layers._post_norm_forward),
    outputs=("y",),
    cases=_layer_cases,
    mistakes=(
        Mistake(
            "you forgot to divide the scores by sqrt(E)",
            lambda *a: _layer(*a, scale=1.0),
        ),
        Mistake(
            "the bias is divided by sqrt(E), too; it is added after that",
            lambda *a: _layer(*a, wrong="bias scaled"),
        ),
        Mistake(
            "the bias is not added: queries see the future",
            lambda *a: _layer(*a, wrong="no bias"),
        ),
        Mistake(
            "the memory is not read: keys and values are of all K rows of h",
            lambda *a: _layer(*a, wrong="no memory"),
        ),
        Mistake(
            "x is not added to what attention gives: a = LN(x + o)",
            lambda *a: _layer(*a, wrong="no x"),
        ),
        Mistake(
            "the first LayerNorm is missing: a = LN(x + o)",
            lambda *a: _layer(*a, wrong="no first norm"),
        ),
        Mistake(
            "a is not added to what the feed-forward block gives: y = LN(a + ...)",
            lambda *a: _layer(*a, wrong="no a"),
        ),
        Mistake(
            "x is added to the feed-forward block, must be a, what went in",
            lambda *a: _layer(*a, wrong="x for a"),
        ),
        Mistake(
            "the last LayerNorm is missing",
            lambda *a: _layer(*a, wrong="no last norm"),
        ),
        Mistake(
            "relu is missing: two linear maps in a row are one",
            lambda *a: _layer(*a, wrong="no relu"),
        ),
        Mistake(
            "the variance divides by D - 1; LayerNorm divides by D",
            lambda *a: _layer(*a, wrong="ddof"),
        ),
        Mistake(
            "LayerNorm stands in front of the blocks; in the paper it comes after the sums",
            _pre_norm,
        ),
    ),
)


# --- backwards -----------------------------------------------------------------------------------


def _norm_backward(dy, z, constants=False):
    rstd, z_hat = 1 / np.sqrt(z.var(-1, keepdims=True) + EPS), _norm(z)
    if constants:
        return dy * rstd
    mean, along = dy.mean(-1, keepdims=True), (dy * z_hat).mean(-1, keepdims=True)
    return (dy - mean - z_hat * along) * rstd


def _rows(x, y):
    """x^T y, summed over B and rows."""
    return np.tensordot(x, y, ((0, 1), (0, 1)))


def _layer_backward(dy, h, bias, w, m, *, scale=None, wrong=""):
    """dx and the six weights' gradients; wrong: which piece is out of order."""
    w_q, w_k, w_v, w_o, w_1, w_2 = w
    x = h[:, m:]
    root = 1 / math.sqrt(w_q.shape[1])
    q, k, v = x @ w_q, h @ w_k, h @ w_v
    p = softmax(q @ _t(k) * root + bias)
    o = p @ v
    z = x + o @ w_o
    a = _norm(z)
    f = a @ w_1
    constants = wrong == "constants"
    dz = _norm_backward(dy, a + np.maximum(f, 0) @ w_2, constants)
    df = dz @ w_2.T
    df = df if wrong == "no relu" else df * (f > 0)
    da = df @ w_1.T if wrong == "no sum at a" else dz if wrong == "no block at a" else None
    dz_1 = _norm_backward(dz + df @ w_1.T if da is None else da, z, constants)
    do = dz_1 @ w_o.T
    dp = do @ _t(v)
    ds = dp * p if wrong == "no sum in softmax" else p * (dp - (dp * p).sum(-1, keepdims=True))
    ds = ds * (root if scale is None else scale)
    dq, dk, dv = ds @ k, _t(ds) @ q, _t(p) @ do
    rows = slice(m if wrong == "no memory in dw" else 0, None)
    parts = {"sum": dz_1, "q": dq @ w_q.T, "k": (dk @ w_k.T)[:, m:], "v": (dv @ w_v.T)[:, m:]}
    dx = sum(part for name, part in parts.items() if wrong != f"no {name} in dx")
    if wrong == "no stop":
        dx = dk @ w_k.T + dv @ w_v.T
        dx[:, m:] += parts["sum"] + parts["q"]
    dw = (_rows(x, dq), _rows(h[:, rows], dk[:, rows]), _rows(h[:, rows], dv[:, rows]))
    return dx, *dw, _rows(o, dz_1), _rows(a, df), _rows(np.maximum(f, 0), dz)


def _wrong(**settings):
    return lambda *a: _layer_backward(*a, **settings)


LAYER_BACKWARD = Exercise(
    id="layer-backward",
    title="A whole layer backwards",
    lines=25,
    ideas=3,
    notebook="04_memory",
    head='''
def layer_backward(dy, h, bias, w, n_mem):
    """Return dx (B, T, D), then dw_q, dw_k, dw_v, dw_o, dw_1, dw_2, shaped as the weights.

    dy (B, T, D) = dLoss/dy of y = layer_forward(h, bias, w, n_mem), which has the shapes. Run it
    again for what you need of it. The memory is a constant; x is read by queries, by keys and
    values, and goes round attention in the sum x + o.
    """
''',
    imports=_IMPORTS,
    body=_SOLUTION
    + """
dx, _, dw = layers.layer_backward(dy, cache, xp=np)
return dx, *dw.attn[:3], dw.attn.w_o, dw.w_1, dw.w_2
""",
    shown=(layers.layer_backward, layers._post_norm_backward, layers.feed_forward_backward),
    steps=(
        "write down the forward pass line by line, each result under a name; then undo it line by "
        "line from the end, as in notebook 2: each y = x w gives dw = x^T dy, dx = dy w^T",
        "where a sum a + f(a) was, the gradient goes both ways, and what comes back by f is added",
        "from y: dz of LN; df = dz w_2^T where a w_1 > 0; da = dz + df w_1^T; dz_1 of LN; do = "
        "dz_1 w_o^T; then dq, dk, dv as in attention_backward",
        "dx = dz_1 + dq w_q^T + the segment's rows of (dk w_k^T + dv w_v^T); dw_k = h^T dk and "
        "dw_v = h^T dv over all K rows",
    ),
    outputs=("dx", "dw_q", "dw_k", "dw_v", "dw_o", "dw_1", "dw_2"),
    cases=lambda rng: _layer_cases(rng, dy=True),
    mistakes=(
        Mistake(
            "mean and variance of LayerNorm are treated as constants, but they depend on its input",
            _wrong(wrong="constants"),
        ),
        Mistake(
            "relu is not undone: where a w_1 was below 0 nothing comes back",
            _wrong(wrong="no relu"),
        ),
        Mistake(
            "a goes round the feed-forward block as well: da = dz + what comes back through it",
            _wrong(wrong="no sum at a"),
        ),
        Mistake(
            "what comes back through the feed-forward block is missing in da",
            _wrong(wrong="no block at a"),
        ),
        Mistake(
            "you forgot to divide by sqrt(E): the scores were divided, so are their gradients",
            _wrong(scale=1.0),
        ),
        Mistake(
            "softmax's backward lacks its sum: ds = p (dp - sum(dp p))",
            _wrong(wrong="no sum in softmax"),
        ),
        Mistake(
            "the memory's rows are missing: it is held fixed, but dw sums over all K rows of h",
            _wrong(wrong="no memory in dw"),
        ),
        Mistake(
            "nothing is stopped: dx has the memory's rows too, must have the segment's alone",
            _wrong(wrong="no stop"),
        ),
        Mistake(
            "x goes round attention as well: dx lacks what comes by the sum x + o",
            _wrong(wrong="no sum in dx"),
        ),
        Mistake(
            "what comes by the queries is missing, dq w_q^T",
            _wrong(wrong="no q in dx"),
        ),
        Mistake(
            "what comes by the keys is missing, the segment's rows of dk w_k^T",
            _wrong(wrong="no k in dx"),
        ),
        Mistake(
            "what comes by the values is missing, the segment's rows of dv w_v^T",
            _wrong(wrong="no v in dx"),
        ),
    ),
)

EXERCISES = (LAYER_FORWARD, LAYER_BACKWARD)
