"""Exercises: how a loss is told, what a longer context is worth, and what reading costs."""

from __future__ import annotations

import math

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.experiments import recl
from minitxl.inference import units
from minitxl.training import cost

# --- bits per character --------------------------------------------------------------------------


def _bits_cases(rng):
    b, t, rest, n = sizes(rng, 4)
    lengths = [t] * n + [rest]

    def losses(lengths):
        # They rise, so that a mean of means is another number.
        return ([rng.uniform(0, 1 + i, size=(b, x)) for i, x in enumerate(lengths)],)

    return [
        Case(losses(lengths), f"segments of {', '.join(map(str, lengths))}"),
        Case(losses([t]), "one segment", edge=True),
    ]


BITS = Exercise(
    id="bits-per-character",
    title="Bits per character",
    lines=1,
    ideas=1,
    notebook="07_evaluation",
    head='''
def bits_per_character(nll):
    """Return the mean loss of all characters in bits, a number.

    nll: a list of arrays (B, T_s), one for each segment: losses in nats, -ln p. The last segments
    may be shorter; every character counts the same.
    """
''',
    imports="import numpy as np\n\nfrom minitxl.inference.units import bits\n",
    body="return bits(np.concatenate(nll, axis=1).mean())",
    shown=(units.bits,),
    outputs=("bpc",),
    cases=_bits_cases,
    mistakes=(
        Mistake(
            "it is in nats still: divide by ln 2",
            lambda nll: np.concatenate(nll, axis=1).mean(),
        ),
        Mistake(
            "it is multiplied by ln 2: a bit is less than a nat, so there are more of them; divide",
            lambda nll: np.concatenate(nll, axis=1).mean() * math.log(2),
        ),
        Mistake(
            "it is divided by log10(2), which is for losses to base 10; these are natural: ln 2",
            lambda nll: np.concatenate(nll, axis=1).mean() / math.log10(2),
        ),
        Mistake(
            "it is a mean of the segments' means: the shorter segment counts too much",
            lambda nll: np.mean([x.mean() for x in nll]) / math.log(2),
        ),
        Mistake(
            "it is the sum, must be the mean",
            lambda nll: np.concatenate(nll, axis=1).sum() / math.log(2),
        ),
        Mistake(
            "it is the perplexity, exp of the mean loss; asked are bits",
            lambda nll: np.exp(np.concatenate(nll, axis=1).mean()),
        ),
    ),
)


# --- RECL ----------------------------------------------------------------------------------------


def _gain_cases(rng):
    models, _ = sizes(rng, 2, low=3, high=5)
    n = 10 * int(rng.integers(4, 8))
    up, down = ((int(rng.integers(12, 30)) + part) / n for part in (0.7, 0.3))

    def losses(models, ratio, far_better=False):
        near = rng.exponential(2.0, size=(models, n))
        far = near + rng.normal(-0.1, 0.8, size=near.shape)
        return near, 0.5 * near.min(axis=0) + 0.1 * far if far_better else np.abs(far), ratio

    return [
        Case(losses(models, 0.1), f"{models} models, {n} positions, r = 0.1"),
        Case(losses(models, up), f"r N = {up * n:.1f}, to be rounded up"),
        Case(losses(models, down), f"r N = {down * n:.1f}, to be rounded down"),
        Case(losses(models, 1.0), "r = 1", edge=True),
        Case(losses(models, 0.3 / n, True), "r N = 0.3, less than one token", edge=True),
        Case(losses(1, 0.5), "a single model", edge=True),
    ]


def _gains(near, far, ratio, *, hard="best", floor="best", clipped=True, relative=True):
    best = near.min(axis=0)
    after = []
    for own_near, own_far in zip(near, far, strict=True):
        key = {"best": -best, "easy": best, "own": -own_near, "mean": -near.mean(axis=0)}.get(hard)
        n = max(1, round(ratio * near.shape[1]))
        at = slice(None) if key is None else np.argsort(key, kind="stable")[:n]
        base = best[at] if floor == "best" else own_near[at]
        later = np.minimum(base, own_far[at]) if clipped else own_far[at]
        f, f_later = base.mean(), later.mean()
        after.append(1 - math.exp(f_later - f) if relative else f - f_later)
    return np.array(after)


RECL_GAIN = Exercise(
    id="recl-gain",
    title="One step of RECL",
    lines=4,
    ideas=1,
    notebook="07_evaluation",
    head='''
def recl_gain(near, far, ratio):
    """Return g_i (I,): what each of I models gains by a longer context (paper, app. C).

    near, far (I, N): losses in nats of I models for N tokens, with contexts c and c' > c.
    b = the least of the I near losses, for each token; T = the max(1, round(r N)) tokens at which b
    is largest (r = ratio); f = mean over T of b; f_i' = mean over T of min(b, far_i);
    g_i = (exp f - exp f_i') / exp f
    """
''',
    imports="from minitxl.experiments.recl import gains\n",
    body="return gains(near, far, ratio)",
    shown=(recl.hardest, recl.gains),
    outputs=("gain",),
    cases=_gain_cases,
    mistakes=(
        Mistake(
            "each model is compared with itself, must be with b, the best of the group",
            lambda *a: _gains(*a, floor="own"),
        ),
        Mistake(
            "the minimum is missing: f_i' is the mean of min(b, far_i)",
            lambda *a: _gains(*a, clipped=False),
        ),
        Mistake(
            "the easiest tokens are chosen, must be the hardest: those with the largest b",
            lambda *a: _gains(*a, hard="easy"),
        ),
        Mistake(
            "all tokens are used, must be the share r of the hardest",
            lambda *a: _gains(*a, hard="all"),
        ),
        Mistake(
            "the tokens are those hardest for each model itself; T is chosen by b, one for all",
            lambda *a: _gains(*a, hard="own"),
        ),
        Mistake(
            "T is chosen by the group's mean loss, must be by the least, b",
            lambda *a: _gains(*a, hard="mean"),
        ),
        Mistake(
            "it is the difference in nats, f - f_i'; the gain is relative, of exp f",
            lambda *a: _gains(*a, relative=False),
        ),
    ),
)


# --- speed ---------------------------------------------------------------------------------------


def _speed_cases(rng):
    s, by, n, h = sizes(rng, 4, low=3)
    d, f = 16 * h, 16 * n
    return [
        Case((s * by, s, d, f), f"A = {s * by}, S = {s}, D = {d}, F = {f}"),
        Case((100 * by, 10 * s, d, f), f"A = {100 * by}, S = {10 * s}, D = {d}, F = {f}"),
        Case((s * by, 1, d, f), "S = 1", edge=True),
        Case((s, s, d, f), "A = S, no memory", edge=True),
    ]


def _speed_up(a, s, d, f, *, window=None, keys=None, cached=False, positions=True, each=True):
    keys = a if keys is None else keys
    window = a * (8 * d * d + 4 * a * d + 4 * d * f) if window is None else window
    segment = s * (4 * d * d + 6 * keys * d + 4 * d * f)
    segment += 4 * (s if cached else keys) * d * d
    segment += 2 * keys * d * d if positions else 0
    return window / (segment / s if each else segment)


SPEED_UP = Exercise(
    id="speed-up",
    title="Why it is so much faster",
    lines=4,
    ideas=2,
    notebook="07_evaluation",
    head='''
def speed_up(attention_len, segment_len, d_model, d_inner):
    """Return by how many times fewer FLOPs per predicted token a memory takes than a window.

    One layer, H d_head = D. A product (n, k) (k, m) takes 2 n k m FLOPs; nothing else counts.
    - window: A tokens, read anew for each single token. Absolute positions; so four projections
      (q, k, v, output) of A tokens, A x A scores, p v, and feed-forward D -> F -> D.
    - memory: segments of S tokens predict S tokens; K = A keys, M = A - S of them cached as hidden
      states. Queries, output and feed-forward of S tokens; keys and values of all K rows; W_R R for
      K distances; S x K scores twice (contents, distances); p v.
    """
''',
    imports="""
from minitxl.config import RELATIVE, SINUSOID, Config
from minitxl.training.cost import forward_flops
""",
    body="""
layer = dict(n_token=1, n_layer=1, d_model=d_model, n_head=1, d_head=d_model, d_inner=d_inner)
window = Config(**layer, tgt_len=attention_len, mem_len=0, attn_type=SINUSOID)
memory = attention_len - segment_len
segment = Config(**layer, tgt_len=segment_len, mem_len=memory, attn_type=RELATIVE)


def flops(config):
    parts = forward_flops(config, rows=1)
    return sum(n for name, n in parts.items() if name != "embedding and softmax")


return flops(window) / (flops(segment) / segment_len)
""",
    shown=(cost.forward_flops,),
    outputs=("ratio",),
    cases=_speed_cases,
    mistakes=(
        Mistake(
            "a segment predicts S tokens: divide its FLOPs by S",
            lambda *a: _speed_up(*a, each=False),
        ),
        Mistake(
            "the window is read anew for each token, so all its A tokens are to be paid each time",
            lambda a, s, d, f: _speed_up(a, s, d, f, window=8 * d * d + 4 * a * d + 4 * d * f),
        ),
        Mistake(
            "keys and values are projected for the S new tokens only; here the memory holds hidden "
            "states, so they are projected for all K rows (keeping them is the next step)",
            lambda *a: _speed_up(*a, cached=True),
        ),
        Mistake(
            "W_R R is missing: 2 K D^2, once for each segment",
            lambda *a: _speed_up(*a, positions=False),
        ),
        Mistake(
            "the memory is not read: each of the S queries has K = A keys",
            lambda a, s, d, f: _speed_up(a, s, d, f, keys=s),
        ),
        Mistake(
            "it is upside down: the window's FLOPs over the memory's",
            lambda *a: 1 / _speed_up(*a),
        ),
    ),
)

EXERCISES = (BITS, RECL_GAIN, SPEED_UP)
