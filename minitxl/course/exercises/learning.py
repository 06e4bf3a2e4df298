"""Exercise: the loop of training, with a memory that is carried from step to step."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.training import optim


def small_model(theta, x, y, mem):
    """Return the loss, its gradient (2, D) to theta, and the segment's states h (B, T, D).

    theta (2, D); x, y (B, T) numbers: y is to be told from x; mem (B, M, D), any M: earlier states.
    """
    h, n_mem = np.tanh(x[..., None] * theta[0]), mem.shape[1]
    seen = np.arange(n_mem, n_mem + x.shape[1])[:, None] + 1  # how many states each place sees
    mean = np.cumsum(np.concatenate([mem, h], axis=1), axis=1)[:, n_mem:] / seen
    off = mean @ theta[1] - y  # (B, T)
    d_off = 2 * off[..., None] / off.size
    dh = np.cumsum((d_off * theta[1] / seen)[:, ::-1], axis=1)[:, ::-1]  # mem is a constant
    grad = [(dh * (1 - h**2) * x[..., None]).sum(axis=(0, 1)), (d_off * mean).sum(axis=(0, 1))]
    return (off**2).mean(), np.stack(grad), h


def _training_cases(rng):
    b, t, d, more, n = sizes(rng, 5, low=3)
    more, n = 1 + more % (t - 1), 5 + n % 2

    def arrays(n, mem_len, clipped=True, second=1.0):
        while True:
            theta, x = rng.normal(size=(2, d)), rng.normal(size=(n, b, t))
            theta[1] *= second
            y, rate = 10 * rng.normal(size=x.shape), 0.1 * rng.uniform(0.3, 1.0, size=n)
            args = theta, x, y, np.arange(n) % 3 == 0, mem_len, rate
            grads: list = []
            _train(*args, np.inf, grads=grads)
            size = np.abs(grads)
            if size[size > 0].min() > 0.01:  # so large that epsilon does not show
                norms = np.sqrt(np.square(grads).sum(axis=(1, 2)))
                return *args, float(np.median(norms) if clipped else 10 * norms.max())

    return [
        Case(arrays(n, t + more), f"T = {t}, mem_len = {t + more}, {n} steps"),
        Case(arrays(n, t - more), f"T = {t}, mem_len = {t - more}, {n} steps"),
        Case(arrays(n, t, clipped=False), "gradients that need no clipping", edge=True),
        Case(arrays(n, 0), "mem_len = 0", edge=True),
        Case(arrays(1, t), "a single step", edge=True),
        Case(arrays(1, t, second=0.0), "theta[1] = 0, a gradient with zeros", edge=True),
    ]


def _clipped(grad, clip):
    return grad * min(1.0, clip / np.sqrt((grad**2).sum()))


def _kept(mem, h, mem_len):
    both = np.concatenate([mem, h], axis=1)
    return both[:, max(0, both.shape[1] - mem_len) :]


def _train(
    theta, x, y, fresh, mem_len, rate, clip, *, wrong="", clipped=_clipped, keep=_kept,
    betas=(0.9, 0.999), grads=None,
):  # fmt: skip
    """Train; wrong: which piece is out of order; grads: a list that gets them, unclipped."""
    first, last = betas
    m, v, losses, mem = 0.0, 0.0, [], np.zeros((x.shape[1], 0, theta.shape[1]))
    for s in range(len(x)):
        if fresh[s] and wrong != "fresh":
            mem = mem[:, :0]
        read = mem[:, :0] if wrong == "unread" else mem
        loss, grad, h = small_model(theta, x[s], y[s], read)
        if grads is not None:
            grads.append(grad)
        grad = clipped(grad, clip)
        if wrong == "anew":
            m, v = 0.0, 0.0
        m, v = first * m + (1 - first) * grad, last * v + (1 - last) * grad**2
        n = {"uncorrected": np.inf, "first": 1}.get(wrong, s + 1)
        step = m / (1 - first**n) / (np.sqrt(v / (1 - last**n)) + 1e-8)
        step = grad if wrong == "plain" else -step if wrong == "uphill" else step
        theta = theta - rate[0 if wrong == "rate" else s] * step
        if wrong == "after":
            loss = small_model(theta, x[s], y[s], read)[0]
        if wrong == "new weights":
            h = small_model(theta, x[s], y[s], read)[2]
        losses.append(loss)
        mem = keep(mem, h, mem_len)
    return np.array(losses), theta, mem


def _wrong(**settings):
    return lambda *a: _train(*a, **settings)


TRAINING = Exercise(
    id="training-loop",
    title="The loop of training",
    lines=15,
    ideas=4,
    notebook="06_training",
    given=small_model,
    head='''
def train(theta, x, y, fresh, mem_len, rate, clip):
    """Train from theta (2, D); return the losses (n,), the new theta, and the memory that is left.

    x, y (n, B, T): the n batches of a stream; where fresh[s], of (n,) bool, the text begins anew
    with batch s. Each step: `small_model` with the memory (B, M, D), which begins empty, holds the
    states of the batches before, and of these the last mem_len rows; the gradient, all of it,
    clipped to a norm of at most `clip`; an update by Adam with rate[s], beta1 = 0.9,
    beta2 = 0.999, epsilon = 1e-8. A loss is that before the update.
    """
''',
    imports="""
from minitxl.config import Config
from minitxl.model.network import update_mems
from minitxl.training.optim import Adam, clip_by_norm
""",
    body="""
flat, config = theta.flatten(), Config(n_token=1, mem_len=mem_len)
adam, losses, mem = Adam(flat, xp=np), [], np.zeros((x.shape[1], 0, theta.shape[1]))
for s in range(len(x)):
    if fresh[s]:
        mem = mem[:, :0]
    loss, grad, h = small_model(flat.reshape(theta.shape), x[s], y[s], mem)
    grad = grad.flatten()
    clip_by_norm(grad, clip, xp=np)
    adam.step(flat, grad, rate[s])
    both = np.concatenate([mem, h], axis=1)
    mem = update_mems(both, n_mem=mem.shape[1], config=config, xp=np)
    losses.append(loss)
return np.array(losses), flat.reshape(theta.shape), mem
""",
    shown=(optim.Adam, optim.adam_update, optim.clip_by_norm),
    steps=(
        "what lives as long as the loop: theta (a copy), m and v (zeros of its shape), the memory; "
        "the rest is made anew in each step",
        "a step: drop the memory if fresh[s]; loss, gradient and states; clip; m and v; theta; "
        "memory = the last mem_len rows of [memory ; h]",
        "grad = grad min(1, clip / |grad|); m = 0.9 m + 0.1 grad; v = 0.999 v + 0.001 grad^2; "
        "theta = theta - rate[s] m / (1 - 0.9^n) / (sqrt(v / (1 - 0.999^n)) + 1e-8), n = s + 1",
    ),
    outputs=("losses", "theta", "memory"),
    cases=_training_cases,
    mistakes=(
        Mistake(
            "the memory is not read: each step begins from nothing",
            _wrong(wrong="unread"),
        ),
        Mistake(
            "where the text begins anew, the memory has to be dropped",
            _wrong(wrong="fresh"),
        ),
        Mistake(
            "the memory holds the last batch's states only: with T < mem_len a part of the older "
            "ones is kept",
            _wrong(keep=lambda mem, h, n: h[:, max(0, h.shape[1] - n) :]),
        ),
        Mistake(
            "nothing is forgotten: the memory has at most mem_len rows",
            _wrong(keep=lambda mem, h, n: np.concatenate([mem, h], axis=1)),
        ),
        Mistake(
            "the oldest states are kept, must be the newest",
            _wrong(keep=lambda mem, h, n: np.concatenate([mem, h], axis=1)[:, :n]),
        ),
        Mistake(
            "the states are computed again with the new weights; what is remembered is what was "
            "computed, one update old",
            _wrong(wrong="new weights"),
        ),
        Mistake(
            "the gradient is not clipped",
            _wrong(clipped=lambda g, c: g),
        ),
        Mistake(
            "each number of the gradient is clipped by itself; clip its norm, the direction stays",
            _wrong(clipped=lambda g, c: np.clip(g, -c, c)),
        ),
        Mistake(
            "short gradients are made longer; only a norm above clip is changed",
            _wrong(clipped=lambda g, c: g * c / np.sqrt((g**2).sum())),
        ),
        Mistake(
            "each row of theta is clipped by itself; the norm is that of all of the gradient",
            _wrong(
                clipped=lambda g, c: (
                    g * np.minimum(1, c / np.sqrt((g**2).sum(axis=1, keepdims=True)))
                )
            ),
        ),
        Mistake(
            "m and v are not divided by 1 - beta^n: they begin at 0, and are too small at first",
            _wrong(wrong="uncorrected"),
        ),
        Mistake(
            "n in 1 - beta^n counts the steps; it stays 1",
            _wrong(wrong="first"),
        ),
        Mistake(
            "m and v begin anew in every step; they are running means",
            _wrong(wrong="anew"),
        ),
        Mistake(
            "beta1 and beta2 are swapped: beta1 = 0.9 is m's, of the gradient",
            _wrong(betas=(0.999, 0.9)),
        ),
        Mistake(
            "it is plain gradient descent; Adam divides m by the root of v",
            _wrong(wrong="plain"),
        ),
        Mistake(
            "it goes uphill: the update is subtracted",
            _wrong(wrong="uphill"),
        ),
        Mistake(
            "every step has the first one's rate",
            _wrong(wrong="rate"),
        ),
        Mistake(
            "these are losses after the update; a batch is measured before it is learned from",
            _wrong(wrong="after"),
        ),
    ),
)

EXERCISES = (TRAINING,)
