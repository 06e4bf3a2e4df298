"""Exercises: the memory, what of it a query sees, and the gradient that stops there."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.model import attention, network

# --- the memory ----------------------------------------------------------------------------------


def _update_cases(rng):
    b, t, more, d, short = sizes(rng, 5)

    def states(n_mem, n_new, mem_len):
        mem, h = rng.normal(size=(b, n_mem, d)), rng.normal(size=(b, n_new, d))
        return mem, h, mem_len

    return [
        Case(states(t + more, t, t + more), f"M = mem_len = {t + more}, T = {t}"),
        Case(states(t, t + more, t), f"M = mem_len = {t}, T = {t + more}"),
        Case(states(t, t, t), f"M = mem_len = T = {t}"),
        Case(states(0, t, t + more), "M = 0, the start of a stream", edge=True),
        Case(states(short, t, short + t + 1), "a memory not yet full", edge=True),
        Case(states(0, t, 0), "mem_len = 0", edge=True),
        Case(states(t + 1, 1, t + 1), "T = 1", edge=True),
    ]


def _update(mem, h, mem_len):
    both = np.concatenate([mem, h], axis=1)
    return both[:, max(0, both.shape[1] - mem_len) :]


def _padded(mem, h, mem_len):
    kept = _update(mem, h, mem_len)
    return np.pad(kept, [(0, 0), (mem_len - kept.shape[1], 0), (0, 0)])


def _zero_means_all(mem, h, mem_len):
    return np.concatenate([mem, h], axis=1)[:, -mem_len:]


MEMORY = Exercise(
    id="memory-update",
    title="What is remembered",
    lines=2,
    ideas=1,
    notebook="04_memory",
    head='''
def update_memory(mem, h, mem_len):
    """Return the next segment's memory of this layer: the last mem_len rows of [mem ; h].

    mem (B, M, D): the memory so far, M <= mem_len, M = 0 at a stream's start; h (B, T, D): the
    layer's inputs for this segment. While there are fewer than mem_len rows, all are kept.
    """
''',
    imports="""
import numpy as np

from minitxl.config import Config
from minitxl.model.network import update_mems
""",
    body="""
both = np.concatenate([mem, h], axis=1)  # (B, M + T, D)
config = Config(n_token=1, mem_len=mem_len)
return update_mems(both, n_mem=mem.shape[1], config=config, xp=np)
""",
    shown=(network.kept_rows, network.update_mems),
    outputs=("memory",),
    cases=_update_cases,
    mistakes=(
        Mistake(
            "the old memory is gone: with T < mem_len a part of it is kept",
            lambda mem, h, n: h[:, max(0, h.shape[1] - n) :],
        ),
        Mistake(
            "all of the segment is kept and nothing else; it is the last mem_len rows of both",
            lambda mem, h, n: h,
        ),
        Mistake(
            "nothing is forgotten: the memory grows beyond mem_len",
            lambda mem, h, n: np.concatenate([mem, h], axis=1),
        ),
        Mistake(
            "one row too many is kept",
            lambda mem, h, n: _update(mem, h, n + 1),
        ),
        Mistake(
            "one row too few is kept",
            lambda mem, h, n: _update(mem, h, max(0, n - 1)),
        ),
        Mistake(
            "the first rows are kept, must be the last, the newest",
            lambda mem, h, n: np.concatenate([mem, h], axis=1)[:, :n],
        ),
        Mistake(
            "the segment comes before the memory, must come after: the past first",
            lambda mem, h, n: _update(h, mem, n),
        ),
        Mistake(
            "the memory is filled up with zeros; these would be attended to: keep it short",
            _padded,
        ),
        Mistake(
            "x[:, -0:] is everything: with mem_len = 0 nothing is kept",
            _zero_means_all,
        ),
    ),
)


# --- the mask ------------------------------------------------------------------------------------


def _mask_cases(rng):
    t, m, keys = sizes(rng, 3, low=3)
    return [
        Case((t, m, None), f"T = {t}, M = {m}"),
        Case((t, m, min(keys, m)), f"T = {t}, M = {m}, max_keys = {min(keys, m)}"),
        Case((t, 0, None), "M = 0", edge=True),
        Case((t, 0, t - 1), "M = 0 with max_keys", edge=True),
        Case((1, m, m), "T = 1", edge=True),
    ]


def _mask(t, m, keys, *, late=0, early=0, use_mem=True, use_keys=True):
    i, j = np.arange(t)[:, None], np.arange(m + t)
    at = i + m if use_mem else i
    mask = j > at + late
    if keys is not None and use_keys:
        mask = mask | (j <= at - keys + early)
    return mask


MASK = Exercise(
    id="same-length-mask",
    title="Which keys a query sees",
    lines=6,
    ideas=1,
    notebook="04_memory",
    head='''
def attention_mask(n_query, n_mem, max_keys):
    """Return (T, K) bool, True where key j is *hidden* from query i; T = n_query, K = n_mem + T.

    Query i stands at column i + M of the keys. Hidden is the future. If max_keys is not None (the
    option same_length), each query sees at most max_keys keys, the nearest ones, itself included.
    """
''',
    imports="import numpy as np\n\nfrom minitxl import attention\n",
    body="""
return attention.attention_mask(
    n_query=n_query, n_mem=n_mem, max_keys=max_keys, device="cpu", xp=np
)
""",
    shown=(attention.attention_mask,),
    outputs=("mask",),
    cases=_mask_cases,
    mistakes=(
        Mistake(
            "a query is hidden from itself: only j > i + M is the future",
            lambda *a: _mask(*a, late=-1),
        ),
        Mistake(
            "each query sees one key of the future: it is off by one",
            lambda *a: _mask(*a, late=1),
        ),
        Mistake(
            "the memory is not reckoned with: query i stands at column i + M, not i",
            lambda *a: _mask(*a, use_mem=False),
        ),
        Mistake(
            "max_keys is not used",
            lambda *a: _mask(*a, use_keys=False),
        ),
        Mistake(
            "with max_keys each query sees one key too many: it counts itself too",
            lambda *a: _mask(*a, early=-1),
        ),
        Mistake(
            "with max_keys each query sees one key too few",
            lambda *a: _mask(*a, early=1),
        ),
        Mistake(
            "True and False are swapped: True means hidden",
            lambda *a: ~_mask(*a),
        ),
        Mistake(
            "it shows what is seen, ignoring max_keys; True means hidden",
            lambda *a: ~_mask(*a, use_keys=False),
        ),
        Mistake(
            "these are 0 and -inf, to be added to scores; asked for is True and False",
            lambda *a: np.where(_mask(*a), -np.inf, 0.0),
        ),
    ),
)


# --- the stop ------------------------------------------------------------------------------------


def _stop_cases(rng):
    b, t, m, d, e = sizes(rng, 5, keys=(1, 2))

    def arrays(t, m):
        dk, dv = rng.normal(size=(2, b, m + t, e))
        w_k, w_v = rng.normal(size=(2, d, e))
        return dk, dv, rng.normal(size=(b, m + t, d)), w_k, w_v, m

    return [
        Case(arrays(t, m), f"B = {b}, T = {t}, M = {m}"),
        Case(arrays(m, t), f"B = {b}, T = {m}, M = {t}"),
        Case(arrays(t, 0), "M = 0", edge=True),
        Case(arrays(1, m), "T = 1", edge=True),
    ]


def _stop(dk, dv, h, w_k, w_v, m, *, weights_from=0, states_from=None, by=("k", "v"), b_mean=False):
    dh = sum(x @ w.T for x, w, n in ((dk, w_k, "k"), (dv, w_v, "v")) if n in by)
    dh = dh[:, m if states_from is None else states_from :]
    rows, axes = slice(weights_from, None), ((0, 1), (0, 1))
    dw_k, dw_v = (np.tensordot(h[:, rows], x[:, rows], axes) for x in (dk, dv))
    if b_mean:
        dw_k, dw_v = dw_k / len(h), dw_v / len(h)
    return dh, dw_k, dw_v


def _without_memory(*a):
    return _stop(*a, weights_from=a[-1])


def _memory_only(*a):
    dk, dv, _, w_k, w_v, m = a
    _, all_k, all_v = _stop(*a)
    _, new_k, new_v = _without_memory(*a)
    dh = (dk @ w_k.T + dv @ w_v.T)[:, :m]
    return dh, all_k - new_k, all_v - new_v


def _zeroed(*a):
    dh, dw_k, dw_v = _stop(*a)
    return np.concatenate([np.zeros_like(a[2][:, : a[-1]]), dh], axis=1), dw_k, dw_v


STOP = Exercise(
    id="the-stop",
    title="The gradient stops at the memory",
    lines=2,
    ideas=2,
    notebook="04_memory",
    head='''
def key_value_backward(dk, dv, h, w_k, w_v, n_mem):
    """Return dh (B, T, D), dw_k, dw_v (D, E) of k = h w_k, v = h w_v, h = [SG(memory) ; segment].

    dk, dv (B, K, E): dLoss/dk, dLoss/dv; h (B, K, D), the first M = n_mem rows are the memory;
    w_k, w_v (D, E). SG is the stopped gradient (paper, sec. 3.2): the memory is a constant, so that
    dh is of the segment's T = K - M rows alone. The weights are no constants.
    """
''',
    imports="""
import numpy as np

from minitxl.model.attention import heads_backward, heads_forward
""",
    body="""
x = h[:, n_mem:]  # (B, T, D): its queries have no part in this
q, _, _, cache = heads_forward(x, h, w_k, w_k, w_v, n_head=1, xp=np)
dk, dv = dk[:, None], dv[:, None]  # (B, K, E) -> (B, H = 1, K, E)
_, dh, _, dw_k, dw_v = heads_backward(
    np.zeros_like(q), dk, dv, cache, memory_rows=False, xp=np
)
return dh, dw_k, dw_v
""",
    shown=(attention.heads_backward,),
    steps=(
        "dw_k = h^T dk and dw_v = h^T dv, summed over B and all K rows",
        "the gradient of h has two parts, by k and by v: dk w_k^T and dv w_v^T",
        "dh is the sum of both without the first n_mem rows",
    ),
    outputs=("dh", "dw_k", "dw_v"),
    cases=_stop_cases,
    mistakes=(
        Mistake(
            "your gradient lacks the memory rows: the memory is held fixed, not how it is read, so "
            "all K rows of h count",
            _without_memory,
        ),
        Mistake(
            "nothing is stopped: it has the memory's rows too, must have the segment's alone",
            lambda *a: _stop(*a, states_from=0),
        ),
        Mistake(
            "the memory's rows are zeros; leave them out, so that dh is (B, T, D)",
            _zeroed,
        ),
        Mistake(
            "only the memory's rows are there",
            _memory_only,
        ),
        Mistake(
            "what comes by the values is missing: dh = dk w_k^T + dv w_v^T",
            lambda *a: _stop(*a, by=("k",)),
        ),
        Mistake(
            "what comes by the keys is missing: dh = dk w_k^T + dv w_v^T",
            lambda *a: _stop(*a, by=("v",)),
        ),
        Mistake(
            "dw_k and dw_v are swapped",
            lambda *a: tuple(_stop(*a)[n] for n in (0, 2, 1)),
        ),
        Mistake(
            "it is a mean over the batch, must be the sum",
            lambda *a: _stop(*a, b_mean=True),
        ),
    ),
)

EXERCISES = (MEMORY, MASK, STOP)
