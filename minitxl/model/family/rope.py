"""Rotary positions with recurrence (RoPE, Su et al. 2021); attn_type 4.

Each head's queries and keys are cut into Dh/2 pairs of numbers, and pair n is turned like the hand
of a clock: by the angle p w_n at place p, w_n = 10000^(-2n/Dh), the frequencies of R. A turn does
not change a product if both sides take part in it, so the score
  q_i R(i)^T R(j) k_j = q_i R(j-i) k_j
depends on the distance i - j alone: terms (a) and (b) in one, without a parameter. There is no (c)
and no (d). Hence the paper's memory works unchanged. It holds states that know no place; their keys
are turned when they are read, and any place may be called 0. Here it is the segment's end: what
lies d before it is turned by -d w_n.

Numbers n and n + Dh/2 make a pair, as in GPT-NeoX and LLaMA; in the publication 2n and 2n + 1 do,
which is the same model with the columns of w_q and w_k in another order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.model.attention import (
    HeadsCache,
    heads_backward,
    heads_forward,
    merge_heads,
    split_heads,
)
from minitxl.model.family.absolute import (
    AbsoluteWeights,
    ContentCache,
    content_backward,
    content_forward,
    content_term,
)
from minitxl.model.ops import (
    LinearCache,
    inverse_frequencies,
    linear_backward,
    linear_forward,
    sinusoid,
)

Array = Any


def rotary_table(distances, *, d_head, dtype, xp):
    """R of sec. 3.3, as wide as a head: [sin(d w) | cos(d w)] for distances (K,) -> (K, Dh)."""
    where = dict(dtype=dtype, device=distances.device, xp=xp)
    return sinusoid(distances, inverse_frequencies(d_model=d_head, **where), xp=xp)


class RotateCache(NamedTuple):
    sin: Array  # (L, Dh/2)
    cos: Array  # (L, Dh/2)


def rotate_forward(x, table, *, xp):
    """Turn every pair (a, b) of x (B, H, L, Dh) by -d w: (a cos + b sin, b cos - a sin).

    table (L, Dh): `rotary_table` of the distances d of the L rows.
    """
    half = x.shape[-1] // 2
    a, b, sin, cos = x[..., :half], x[..., half:], table[:, :half], table[:, half:]
    y = xp.concat([a * cos + b * sin, b * cos - a * sin], axis=-1)  # 2 x Dh/2 -> Dh
    return y, RotateCache(sin, cos)


def rotate_backward(dy, cache: RotateCache, *, xp):
    """dx = dy turned back: the transpose of a rotation is its inverse."""
    sin, cos = cache
    half = dy.shape[-1] // 2
    da, db = dy[..., :half], dy[..., half:]
    return xp.concat([da * cos - db * sin, db * cos + da * sin], axis=-1)


class RopeCache(NamedTuple):
    heads: HeadsCache
    q: RotateCache
    k: RotateCache
    core: ContentCache  # of queries and keys as turned
    o: LinearCache


def rope_forward(x, h, pos, w: AbsoluteWeights, mask, *, n_head, dropatt, rng, xp, inspect=None):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [memory ; segment] -> (B, T, D).

    pos (K, Dh): `rotary_table` of the distances K-1 ... 0; mask as in `attention_forward`.
    """
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    q, q_cache = rotate_forward(q, pos[heads.n_mem :, :], xp=xp)  # the segment's T places
    k, k_cache = rotate_forward(k, pos, xp=xp)
    o, core = content_forward(q, k, v, mask, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        inspect.look(core.attend, mask, {"a": content_term(core, xp=xp)})  # (a) and (b) in one
    y, o_cache = linear_forward(merge_heads(o, xp=xp), w.w_o, xp=xp)  # -> (B, T, D)
    return y, RopeCache(heads, q_cache, k_cache, core, o_cache)


def rope_backward(dy, cache: RopeCache, *, memory_rows=False, xp):
    """Return dx (B, T, D), dh (B, T or K, D; see `heads_backward`) and the weights' gradients."""
    heads, q_cache, k_cache, core, o_cache = cache
    # undo: y = merge_heads(o) @ w_o
    do, dw_o, _ = linear_backward(dy, o_cache, xp=xp)
    do = split_heads(do, n_head=heads.n_head, xp=xp)  # (B, T, H*Dh) -> (B, H, T, Dh)
    # undo: o = softmax(...) v
    dq, dk, dv = content_backward(do, core, xp=xp)
    # undo: the turns of queries and keys
    dq, dk = rotate_backward(dq, q_cache, xp=xp), rotate_backward(dk, k_cache, xp=xp)
    # undo: q = x @ w_q, k = h @ w_k, v = h @ w_v
    dx, dh, dw_q, dw_k, dw_v = heads_backward(dq, dk, dv, heads, memory_rows=memory_rows, xp=xp)
    return dx, dh, AbsoluteWeights(dw_q, dw_k, dw_v, dw_o)
