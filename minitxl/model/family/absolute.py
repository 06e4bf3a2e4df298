"""Attention without relative positions, and the absolute positions that it needs; types 2 and 3.

The score is term (a) alone, q_i . k_j, so the states themselves must say where they stand:
  type 2  a sinusoid is added to the embeddings (Vaswani et al. 2017)
  type 3  a learned table of its own is added to the input of every layer (Al-Rfou et al. 2018)
Positions count from the end, K-1 ... 0, as in the released code.

With a memory this is the cell that the paper's ablation leaves out. Here it is built soundly: the
memory holds states *without* positions, and memory and segment get theirs when they are read. (The
released code adds them into the memory in place, so that they pile up segment by segment.) What
no code can mend is the paper's point of sec. 3.3: above the first layer the remembered states were
computed under the positions of *their* segment, which are the same ones as this segment's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minitxl.model.attention import (
    AttendCache,
    HeadsCache,
    attend_backward,
    attend_forward,
    heads_backward,
    heads_forward,
    merge_heads,
    split_heads,
)
from minitxl.model.ops import (
    DropoutCache,
    LinearCache,
    TableCache,
    dropout_backward,
    dropout_forward,
    last_rows_backward,
    last_rows_forward,
    linear_backward,
    linear_forward,
)

Array = Any


class AbsoluteWeights(NamedTuple):
    """The parameters of one attention block; their gradients come in the same tuple."""

    w_q: Array  # (D, H*Dh)
    w_k: Array  # (D, H*Dh)
    w_v: Array  # (D, H*Dh)
    w_o: Array  # (H*Dh, D)


class ContentCache(NamedTuple):
    q: Array  # (B, H, T, Dh)  q / sqrt(Dh)
    k: Array  # (B, H, K, Dh)
    attend: AttendCache


def content_forward(q, k, v, mask, *, dropatt, rng, xp):
    """o = softmax(q k^T / sqrt(Dh) + mask) v: `core_forward` with term (a) alone (sec. 3.3).

    q (B, H, T, Dh); k, v (B, H, K, Dh); mask: any that is added to (B, H, T, K).
    """
    q = q * (1.0 / math.sqrt(q.shape[-1]))
    a = xp.matmul(q, xp.matrix_transpose(k))  # (B, H, T, Dh) @ (B, H, Dh, K) -> (B, H, T, K)
    o, attend = attend_forward(a + mask, v, dropatt=dropatt, rng=rng, xp=xp)
    return o, ContentCache(q, k, attend)


def content_backward(do, cache: ContentCache, *, xp):
    """Return dq, dk, dv for do (B, H, T, Dh)."""
    q, k, attend = cache
    # undo: o = softmax(q @ k^T + mask) v
    ds, dv = attend_backward(do, attend, xp=xp)
    dk = xp.matmul(xp.matrix_transpose(ds), q)  # (B, H, K, T) @ (B, H, T, Dh) -> (B, H, K, Dh)
    dq = xp.matmul(ds, k)  # (B, H, T, K) @ (B, H, K, Dh) -> (B, H, T, Dh)
    dq *= 1.0 / math.sqrt(q.shape[-1])
    return dq, dk, dv


def content_term(cache: ContentCache, *, xp):
    """Term (a), scaled, (B, H, T, K) (for pictures only)."""
    return xp.matmul(cache.q, xp.matrix_transpose(cache.k))


class AbsoluteCache(NamedTuple):
    heads: HeadsCache
    core: ContentCache
    o: LinearCache


def absolute_forward(
    x, h, pos, w: AbsoluteWeights, mask, *, n_head, dropatt, rng, xp, inspect=None
):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [memory ; segment] -> (B, T, D).

    o = softmax(q k^T / sqrt(Dh), masked) v: A^abs of sec. 3.3 where x, h are E + U. There is no
    R: pos is None; mask (T, K) as in `attention_forward`.
    """
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    o, core = content_forward(q, k, v, mask, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        inspect.look(core.attend, mask, {"a": content_term(core, xp=xp)})
    y, o_cache = linear_forward(merge_heads(o, xp=xp), w.w_o, xp=xp)  # -> (B, T, D)
    return y, AbsoluteCache(heads, core, o_cache)


def absolute_backward(dy, cache: AbsoluteCache, *, memory_rows=False, xp):
    """Return dx (B, T, D), dh (B, T or K, D; see `heads_backward`) and the weights' gradients."""
    heads, core, o_cache = cache
    # undo: y = merge_heads(o) @ w_o
    do, dw_o, _ = linear_backward(dy, o_cache, xp=xp)
    do = split_heads(do, n_head=heads.n_head, xp=xp)  # (B, T, H*Dh) -> (B, H, T, Dh)
    # undo: o = softmax(...) v
    dq, dk, dv = content_backward(do, core, xp=xp)
    # undo: q = x @ w_q, k = h @ w_k, v = h @ w_v
    dx, dh, dw_q, dw_k, dw_v = heads_backward(dq, dk, dv, heads, memory_rows=memory_rows, xp=xp)
    return dx, dh, AbsoluteWeights(dw_q, dw_k, dw_v, dw_o)


# --- positions that are added to the states -----------------------------------------------------


def add_sinusoid_forward(h, pos, *, dropout, rng, xp):
    """y = dropout(h + pos), for the first layer: h (B, K, D) = [memory ; embeddings], pos (K, D).

    E + U of sec. 3.3.
    The dropout of the embeddings falls here, after the sum.
    """
    return dropout_forward(h + pos, rate=dropout, rng=rng, xp=xp)


def add_sinusoid_backward(dy, cache: DropoutCache, *, xp):
    """dh = dropout's gradient; the sinusoid has no parameters."""
    return dropout_backward(dy, cache, xp=xp)


def add_table_forward(h, table, *, clamp_len, xp):
    """y = h + the last K rows of the layer's table (L, D), for h (B, K, D) = [memory ; input].

    Al-Rfou's positions in the ablation of sec. 4.2.
    """
    rows, cache = last_rows_forward(table, n_row=h.shape[1], clamp_len=clamp_len, xp=xp)
    return h + rows, cache


def add_table_backward(dy, cache: TableCache, *, xp):
    """Return dh and dtable (L, D). The memory's rows count for the table, though they are fixed."""
    return dy, last_rows_backward(xp.sum(dy, axis=0), cache, xp=xp)  # (B, K, D) -> (K, D)
