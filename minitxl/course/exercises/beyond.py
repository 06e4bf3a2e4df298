"""Exercise: what a longer memory costs."""

from __future__ import annotations

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.training import cost


def _affordable_cases(rng):
    n, t, h, by = sizes(rng, 4, low=3)
    d, f = 4 * h, 8 * h * by

    def budget(m, part):
        """FLOPs of a token with a memory of M, and a part of what one row more would take."""
        return n * (8 * d * d + 4 * d * f + 6 * (m + t) * d) + int(part * 6 * n * d)

    few, many = (int(rng.integers(10, 100)) * (2 * t + 1) for _ in range(2))
    return [
        Case((n, d, f, t, budget(few, 0.3)), f"N = {n}, D = {d}, F = {f}, T = {t}"),
        Case((n, d, f, t, budget(1000 + many, 0.8)), "more FLOPs"),
        Case((n, d, f, t, budget(many, 0)), "FLOPs that are used up", edge=True),
        Case((n, d, f, t, budget(-1 - t, 0)), "FLOPs that are too few", edge=True),
    ]


def _affordable(n, d, f, t, flops, *, projections=8, forward=4, reads=6, add=0, own=None, least=0):
    rest = projections * d * d + forward * d * f
    keys = (flops - n * rest) // (reads * n * d) + add
    return max(least, keys - (t if own is None else own))


AFFORDABLE = Exercise(
    id="affordable-memory",
    title="The longest memory for its price",
    lines=2,
    ideas=2,
    notebook="08_beyond",
    head='''
def affordable_memory(n_layer, d_model, d_inner, segment_len, flops):
    """Return the longest memory M with which a token costs at most `flops`; 0 if there is none.

    N layers, H d_head = D, segments of T tokens. Keys and values of the M rows are kept from the
    segments before. For each layer and token: four projections D -> D (q, k, v, output); scores
    with all K = M + T keys, twice (contents, distances), and p v; feed-forward D -> F -> D. A
    product (n, k) (k, m) takes 2 n k m FLOPs; nothing else counts.
    """
''',
    imports="""
from minitxl.config import Config
from minitxl.training.cost import forward_flops
""",
    body="""
alone = Config(
    n_token=1,
    n_layer=n_layer,
    d_model=d_model,
    n_head=1,
    d_head=d_model,
    d_inner=d_inner,
    tgt_len=segment_len,
    mem_len=0,  # so that the new tokens alone are projected
)
parts = forward_flops(alone, rows=1)  # of a segment that reads itself: K = T
left = segment_len * flops - parts["projections"] - parts["feed-forward"]
n_key = left // (parts["attention"] // segment_len)
return max(0, n_key - segment_len)
""",
    shown=(cost.forward_flops,),
    outputs=("mem_len",),
    cases=_affordable_cases,
    mistakes=(
        Mistake(
            "these are all the keys; T of them are the segment's own: M = K - T",
            lambda *a: _affordable(*a, own=0),
        ),
        Mistake(
            "the scores are two products, q k^T and q r^T: with p v it is 6 K D",
            lambda *a: _affordable(*a, reads=4),
        ),
        Mistake(
            "keys and values of the new tokens are projected too: 8 D^2 in all",
            lambda *a: _affordable(*a, projections=4),
        ),
        Mistake(
            "the feed-forward block has two products: 4 D F",
            lambda *a: _affordable(*a, forward=2),
        ),
        Mistake(
            "it is the price of one layer; there are N",
            lambda n, *a: _affordable(1, *a),
        ),
        Mistake(
            "one row too many: the price would be above `flops`, so round down",
            lambda *a: _affordable(*a, add=1),
        ),
        Mistake(
            "the price is that of one token, not of the segment",
            lambda n, d, f, t, flops: _affordable(n, d, f, t, flops // t),
        ),
        Mistake(
            "no memory is shorter than 0",
            lambda *a: _affordable(*a, least=-(10**9)),
        ),
    ),
)

EXERCISES = (AFFORDABLE,)
