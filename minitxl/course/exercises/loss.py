"""Exercises: the gradient of the loss, and a softmax over two clusters of words."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.course.exercises.ops import softmax
from minitxl.model import ops
from minitxl.model.family import adaptive

# --- cross entropy ------------------------------------------------------------------------------


def _loss_cases(rng):
    n, v = sizes(rng, 2, low=3)

    def arrays(n, scale=1.0):
        return scale * rng.normal(size=(n, v)), rng.integers(0, v, n)

    return [
        Case(arrays(n), f"{n} tokens, {v} symbols"),
        Case(arrays(1), "one token", edge=True),
        Case(arrays(n, 2000.0), "logits of a thousand", edge=True),
    ]


def _one_hot(targets, v):
    return (targets[:, None] == np.arange(v)).astype(float)


def _overflowing(logits, targets):
    p = np.exp(logits)
    return (p / p.sum(axis=-1, keepdims=True) - _one_hot(targets, logits.shape[1])) / len(logits)


CROSS_ENTROPY = Exercise(
    id="cross-entropy-gradient",
    title="The gradient of the loss",
    lines=4,
    ideas=1,
    notebook="06_training",
    head='''
def cross_entropy_gradient(logits, targets):
    """Return dLoss/dlogits (N, V); Loss = the *mean* over N tokens of -log softmax(logits)[target].

    logits (N, V), of any size; targets (N,) integers.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import ops\n",
    body="""
nll, cache = ops.cross_entropy_forward(logits, targets, xp=np)
return ops.cross_entropy_backward(np.full(nll.shape, 1 / nll.size), cache, xp=np)
""",
    shown=(ops.cross_entropy_forward, ops.cross_entropy_backward),
    outputs=("dlogits",),
    cases=_loss_cases,
    mistakes=(
        Mistake(
            "the loss is the mean over the tokens: divide by N",
            lambda x, y: softmax(x) - _one_hot(y, x.shape[1]),
        ),
        Mistake(
            "it is divided by N V: the mean is over the N tokens only",
            lambda x, y: (softmax(x) - _one_hot(y, x.shape[1])) / x.size,
        ),
        Mistake(
            "1 must be taken off at each token's target",
            lambda x, y: softmax(x) / len(x),
        ),
        Mistake(
            "the sign is wrong: the loss is *minus* the log-probability, so it is p - one_hot",
            lambda x, y: (_one_hot(y, x.shape[1]) - softmax(x)) / len(x),
        ),
        Mistake(
            "the softmax runs over the tokens, must run over the V symbols of each",
            lambda x, y: (softmax(x, axis=0) - _one_hot(y, x.shape[1])) / len(x),
        ),
        Mistake(
            "logits were taken for probabilities: a softmax is missing",
            lambda x, y: (x - _one_hot(y, x.shape[1])) / len(x),
        ),
        Mistake(
            "exp of large logits overflows: take each row's maximum off first, p stays the same",
            _overflowing,
        ),
    ),
)


# --- two clusters of words -----------------------------------------------------------------------


def _cluster_cases(rng):
    n, head, tail, d, e = sizes(rng, 5, low=3)

    def arrays(targets, scale=1.0):
        w_head, w_tail = rng.normal(size=(head + 1, d)), rng.normal(size=(tail, e))
        h = scale * rng.normal(size=(len(targets), d))
        return h, targets, w_head, w_tail, rng.normal(size=(d, e))

    mixed = rng.permutation(np.append(rng.integers(0, head + tail, n), [0, head, head + tail - 1]))
    return [
        Case(arrays(mixed), f"{n + 3} tokens, {head} words in the head, {tail} in the tail"),
        Case(arrays(rng.integers(0, head, n)), "words of the head alone", edge=True),
        Case(arrays(head + rng.integers(0, tail, n)), "words of the tail alone", edge=True),
        Case(arrays(mixed, 1000.0), "logits of a thousand", edge=True),
    ]


def _log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _clusters(h, targets, w_head, w_tail, proj, *, parts=(1, 1), log_p=_log_softmax, off=0):
    """parts: how often log p_head(tail) and log p_tail(word) are in it."""
    n_head = len(w_head) - 1
    head, tail = log_p(h @ w_head.T), log_p(h @ proj @ w_tail.T)
    inside = np.clip(targets - n_head + off, 0, len(w_tail) - 1)
    rows = np.arange(len(h))
    rare = parts[0] * head[:, -1] + parts[1] * tail[rows, inside]
    return -np.where(targets < n_head, head[rows, np.minimum(targets, n_head)], rare)


def _one_softmax(h, targets, w_head, w_tail, proj, *, column):
    """One softmax over all words; column: with the tail's column among them."""
    n_head = len(w_head) - 1
    head = h @ (w_head if column else w_head[:-1]).T
    log_p = _log_softmax(np.concatenate([head, h @ proj @ w_tail.T], axis=1))
    at = targets + (targets >= n_head) if column else targets
    return -log_p[np.arange(len(h)), at]


def _head_without_tail(h, targets, w_head, w_tail, proj):
    """The head's softmax over its words alone; the tail's share is taken from a whole one."""
    whole = _clusters(h, targets, w_head, w_tail, proj)
    n_head = len(w_head) - 1
    log_p = _log_softmax(h @ w_head[:-1].T)
    words = -log_p[np.arange(len(h)), np.minimum(targets, n_head - 1)]
    return np.where(targets < n_head, words, whole)


def _plain_log(x):
    p = np.exp(x)
    return np.log(p / p.sum(axis=-1, keepdims=True))


ADAPTIVE = Exercise(
    id="adaptive-softmax",
    title="A softmax in two clusters",
    lines=10,
    ideas=2,
    notebook="06_training",
    head='''
def adaptive_nll(h, targets, w_head, w_tail, proj):
    """Return -log p(targets[n] | h[n]) for every token, (N,), in nats (paper, sec. 4.1).

    h (N, D), of any size; targets (N,) ids: the V_h frequent words come first, they are the head,
    the V_t rare ones follow, they are the tail. w_head (V_h + 1, D): a row for each word of the
    head; its last row is for the tail as a whole. proj (D, E), then w_tail (V_t, E): the words of
    the tail, in a narrower space. Logits are products with these rows, without a bias.
    A word of the head has p = p_head(word), one of the tail p_head(tail) p_tail(word).
    """
''',
    imports="""
import numpy as np

from minitxl.model.family.adaptive import Cluster, adaptive_softmax_forward
""",
    body="""
n_head, n = len(w_head) - 1, len(w_head) - 1 + len(w_tail)
head = Cluster(0, n_head, w_head, np.zeros(n_head + 1), None)
tail = Cluster(n_head, n, w_tail, np.zeros(len(w_tail)), proj)
nll, _ = adaptive_softmax_forward(h, targets, head, [tail], order="natural", xp=np)
return nll
""",
    shown=(adaptive.adaptive_softmax_forward,),
    steps=(
        "every token asks the head: a word of the head for its own row, one of the tail for the "
        "last",
        "a log-softmax over all V_h + 1 rows of the head, and one over the V_t words of the tail; "
        "in logarithms a product is a sum",
        "nll = -log p_head[min(target, V_h)], for a target >= V_h also - log p_tail[target - V_h]",
    ),
    outputs=("nll",),
    cases=_cluster_cases,
    mistakes=(
        Mistake(
            "a word of the tail lacks the tail's own probability, log p_head(tail)",
            lambda *a: _clusters(*a, parts=(0, 1)),
        ),
        Mistake(
            "all words of the tail have the probability of the whole tail: log p_tail(word) lacks",
            lambda *a: _clusters(*a, parts=(1, 0)),
        ),
        Mistake(
            "the two logarithms of a word of the tail are subtracted: of a product they add up",
            lambda *a: _clusters(*a, parts=(-1, 1)),
        ),
        Mistake(
            "it is one softmax over all the words; each cluster has one of its own",
            lambda *a: _one_softmax(*a, column=False),
        ),
        Mistake(
            "it is one softmax over all the words and the tail's row; each cluster has one of its "
            "own",
            lambda *a: _one_softmax(*a, column=True),
        ),
        Mistake(
            "for words of the head its softmax lacks the tail: all V_h + 1 rows compete",
            _head_without_tail,
        ),
        Mistake(
            "the tail's words are one off: word V_h is the tail's row 0",
            lambda *a: _clusters(*a, off=1),
        ),
        Mistake(
            "the first row is taken for the tail's; it is the last",
            lambda h, y, w_head, *a: _clusters(h, y, np.roll(w_head, -1, axis=0), *a),
        ),
        Mistake(
            "these are log-probabilities; the loss is minus that",
            lambda *a: -_clusters(*a),
        ),
        Mistake(
            "it is the mean; asked is the loss of every token",
            lambda *a: _clusters(*a).mean(),
        ),
        Mistake(
            "exp of large logits overflows: take each row's maximum off first, p stays the same",
            lambda *a: _clusters(*a, log_p=_plain_log),
        ),
    ),
)

EXERCISES = (CROSS_ENTROPY, ADAPTIVE)
