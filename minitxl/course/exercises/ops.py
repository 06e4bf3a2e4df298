"""Exercises: softmax and LayerNorm backwards."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model import ops


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x) / sum exp(x), for the wrong versions."""
    p = np.exp(x - x.max(axis=axis, keepdims=True))
    return p / p.sum(axis=axis, keepdims=True)


# --- softmax ------------------------------------------------------------------------------------


def _softmax_cases(rng):
    b, t, k = sizes(rng, 3)
    masked = rng.normal(size=(b, t, k))
    masked[..., -1] = -np.inf
    return [
        Case(
            (rng.normal(size=(b, t, k)), softmax(rng.normal(size=(b, t, k)))), f"{t} x {k} scores"
        ),
        Case((rng.normal(size=(b, t, k)), softmax(masked)), "masked keys, p = 0", edge=True),
        Case((rng.normal(size=(b, t, 1)), np.ones((b, t, 1))), "a single key", edge=True),
    ]


SOFTMAX = Exercise(
    id="softmax-backward",
    title="Softmax backwards",
    lines=1,
    ideas=2,
    notebook="02_attention_by_hand",
    head='''
def softmax_backward(dp, p):
    """Return ds = dLoss/ds of p = softmax(s), over the last axis.

    dp, p (B, T, K): dLoss/dp, and the probabilities that the forward pass returned.
    ∂p_k / ∂s_j = p_k (1 if k == j else 0) - p_k p_j
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="return ops.softmax_backward(dp, ops.SoftmaxCache(p), xp=np)",
    shown=(ops.softmax_backward,),
    steps=(
        "put the derivative into the sum over k that ds_j is, and multiply out",
        "of the first part one k is left, k = j; in the second p_j stands before a sum",
        "ds = p (dp - sum(dp p)), the sum over the last axis",
    ),
    outputs=("ds",),
    cases=_softmax_cases,
    mistakes=(
        Mistake(
            "the sum is missing: p_k falls where s_j rises, so ds_j collects from all k",
            lambda dp, p: p * dp,
        ),
        Mistake(
            "only the diagonal p_k (1 - p_k) is there, which is the sigmoid's derivative; a score "
            "moves all probabilities of its row",
            lambda dp, p: p * (1 - p) * dp,
        ),
        Mistake(
            "the sum of dp must be weighted by p",
            lambda dp, p: p * (dp - dp.sum(axis=-1, keepdims=True)),
        ),
        Mistake(
            "a mean was taken for the sum over k",
            lambda dp, p: p * (dp - (dp * p).mean(axis=-1, keepdims=True)),
        ),
        Mistake(
            "the sum runs over the wrong axis: the softmax was over the last one",
            lambda dp, p: p * (dp - (dp * p).sum(axis=-2, keepdims=True)),
        ),
        Mistake(
            "the sum runs over the batch: the softmax was over the last axis",
            lambda dp, p: p * (dp - (dp * p).sum(axis=0, keepdims=True)),
        ),
        Mistake(
            "the factor p in front is missing",
            lambda dp, p: dp - (dp * p).sum(axis=-1, keepdims=True),
        ),
        Mistake(
            "the sum runs over all rows; each row has a softmax of its own",
            lambda dp, p: p * (dp - (dp * p).sum()),
        ),
    ),
)


# --- layer normalisation ------------------------------------------------------------------------


def _norm_cases(rng):
    b, t, d = sizes(rng, 3)

    def arrays(b, t, d):
        dy, x = rng.normal(size=(2, b, t, d))
        eps = rng.uniform(0.05, 0.2)  # large, so that it shows where it is put
        return dy, 2 * x + 1, rng.normal(size=d) + 1, eps

    return [
        Case(arrays(b, t, d), f"B = {b}, T = {t}, D = {d}"),
        Case(arrays(b, 1, d), "T = 1", edge=True),
    ]


def _norm_wrong(change):
    """A wrong LayerNorm backward: `change` puts one piece of the right one out of order."""

    def wrong(dy, x, gamma, eps):
        axis = -2 if change == "axis" else -1
        mean = x.mean(axis=axis, keepdims=True)
        var = x.var(axis=axis, keepdims=True)
        if change == "ddof":
            var = x.var(axis=axis, keepdims=True, ddof=1)
        rstd = 1 / np.sqrt(var + eps)
        if change == "eps":
            rstd = 1 / (np.sqrt(var) + eps)
        if change == "no eps":
            rstd = 1 / np.sqrt(var)
        x_hat = (x - mean) * rstd
        g = dy if change == "gamma" else dy * gamma
        dx = g.copy()
        mean_of = np.sum if change == "sums" else np.mean
        if change not in ("constants", "mean"):
            dx -= mean_of(g, axis=axis, keepdims=True)
        if change not in ("constants", "variance"):
            along = mean_of(g * x_hat, axis=axis, keepdims=True)
            if change == "projection":
                along /= np.mean(x_hat * x_hat, axis=axis, keepdims=True)
            dx -= x_hat * along
        if change != "rstd":
            dx = dx * rstd
        seen = x if change == "x" else x - mean if change == "centred" else x_hat
        dy = g if change == "twice" else dy
        dgamma, dbeta = (dy * seen).sum(axis=(0, 1)), dy.sum(axis=(0, 1))
        if change == "averaged":
            dgamma, dbeta = dgamma / (x.size / x.shape[-1]), dbeta / (x.size / x.shape[-1])
        if change == "first":
            dgamma, dbeta = (dy * x_hat).sum(axis=0), dy.sum(axis=0)
        return dx, dgamma, dbeta

    return wrong


LAYER_NORM = Exercise(
    id="layer-norm-backward",
    title="LayerNorm backwards",
    lines=5,
    ideas=3,
    notebook="02_attention_by_hand",
    head='''
def layer_norm_backward(dy, x, gamma, eps):
    """Return dx (B, T, D), dgamma (D,) and dbeta (D,) of y = gamma x^ + beta.

    x^ = (x - mean) / sqrt(var + eps), mean and var over the last axis; dy, x (B, T, D), gamma (D,).
    mean and var depend on x too.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="""
_, cache = ops.layer_norm_forward(x, gamma, np.zeros_like(gamma), eps=eps, xp=np)
return ops.layer_norm_backward(dy, cache, xp=np)
""",
    shown=(ops.layer_norm_forward, ops.layer_norm_backward),
    steps=(
        "with g = dy gamma and rstd = 1 / sqrt(var + eps), rstd g would be dx, were mean and "
        "variance constants",
        "dgamma = sum dy x^ and dbeta = sum dy, over B and T",
        "what LayerNorm cannot see is taken off g: its part along the ones, mean(g), and its part "
        "along x^, x^ mean(g x^)",
        "dx = rstd (g - mean(g) - x^ mean(g x^))",
    ),
    outputs=("dx", "dgamma", "dbeta"),
    cases=_norm_cases,
    mistakes=(
        Mistake(
            "mean and variance are treated as constants, but they depend on x",
            _norm_wrong("constants"),
        ),
        Mistake(
            "it lacks - mean(g), by which x moves the mean",
            _norm_wrong("mean"),
        ),
        Mistake(
            "it lacks - x^ mean(g x^), by which x moves the variance",
            _norm_wrong("variance"),
        ),
        Mistake(
            "the part along x^ was divided by x^ . x^, which is less than D as eps > 0; it is a "
            "mean, divided by D",
            _norm_wrong("projection"),
        ),
        Mistake("gamma is missing: g = dy gamma", _norm_wrong("gamma")),
        Mistake("sums over D were taken for the means", _norm_wrong("sums")),
        Mistake("gamma is in it: dgamma sums dy x^, dbeta sums dy", _norm_wrong("twice")),
        Mistake("it is not divided by the standard deviation", _norm_wrong("rstd")),
        Mistake("you normalised over the wrong axis: it is the last one, D", _norm_wrong("axis")),
        Mistake("the variance divides by D - 1; LayerNorm divides by D", _norm_wrong("ddof")),
        Mistake("eps belongs under the root: sqrt(var + eps)", _norm_wrong("eps")),
        Mistake("eps is missing: sqrt(var + eps)", _norm_wrong("no eps")),
        Mistake("y is gamma times x^, so dgamma sums dy x^, not dy x", _norm_wrong("x")),
        Mistake("x is centred, but not divided by sqrt(var + eps)", _norm_wrong("centred")),
        Mistake(
            "it is a mean, must be the sum: gamma and beta serve all B T rows",
            _norm_wrong("averaged"),
        ),
        Mistake("it is summed over B only: sum over T as well", _norm_wrong("first")),
    ),
)


EXERCISES = (SOFTMAX, LAYER_NORM)
