"""Relative attention with learned tables (Shaw et al. 2018), the paper's ablation; attn_type 1.

As in `attention.py`, but with numbers of their own for every distance d in place of W_r R_d:
  (a) q_i . k_j      (b) q_i . e_{i-j}      (c) u . k_j      (d) f_{i-j}
e (L, H, Dh) and f (L, H) are learned, for every layer. Distances beyond the table share its
longest: the model cannot tell them apart, where a sinusoid goes on.
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
    LinearCache,
    TableCache,
    last_rows_backward,
    last_rows_forward,
    linear_backward,
    linear_forward,
    rel_shift_backward,
    rel_shift_forward,
)

Array = Any


class ShawWeights(NamedTuple):
    """The parameters of one attention block; their gradients come in the same tuple."""

    w_q: Array  # (D, H*Dh)
    w_k: Array  # (D, H*Dh)
    w_v: Array  # (D, H*Dh)
    w_o: Array  # (H*Dh, D)
    r_w_bias: Array  # (H, Dh)  u
    r_emb: Array  # (L, H, Dh)  e; the last row is distance 0
    r_bias: Array  # (L, H)  f


class ShawCoreCache(NamedTuple):
    q_u: Array  # (B, H, T, Dh)  (q + u) / sqrt(Dh)
    q: Array  # (B, H, T, Dh)  q / sqrt(Dh)
    k: Array  # (B, H, K, Dh)
    r: Array  # (H, K, Dh)
    attend: AttendCache


def shaw_core_forward(q, k, v, r, f, r_w_bias, mask, *, dropatt, rng, xp):
    """o = softmax(((q + u) k^T + rel_shift(q r^T + f)) / sqrt(Dh), masked) v.

    In the ablation of sec. 4.2.
    As `core_forward`, with r (H, K, Dh) and f (H, K), column c for distance K-1-c.
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    q_u = (q + r_w_bias[:, None, :]) * scale
    q = q * scale
    ac = xp.matmul(q_u, xp.matrix_transpose(k))  # (B, H, T, Dh) @ (B, H, Dh, K) -> (B, H, T, K)
    bd = xp.matmul(q, xp.matrix_transpose(r))  # (B, H, T, Dh) @ (H, Dh, K) -> (B, H, T, K)
    bd += f[:, None, :] * scale  # + (H, 1, K): the same f for every query
    bd, _ = rel_shift_forward(bd, xp=xp)  # by distance -> by key
    ac += bd
    ac += mask
    o, attend = attend_forward(ac, v, dropatt=dropatt, rng=rng, xp=xp)
    return o, ShawCoreCache(q_u, q, k, r, attend)


def shaw_core_backward(do, cache: ShawCoreCache, *, xp):
    """Return dq, dk, dv, dr, df, du for do (B, H, T, Dh)."""
    q_u, q, k, r, attend = cache
    scale = 1.0 / math.sqrt(q.shape[-1])
    # undo: o = softmax(ac + bd + mask) v
    ds, dv = attend_backward(do, attend, xp=xp)
    # undo: ac = q_u @ k^T
    dq_u = xp.matmul(ds, k)  # (B, H, T, K) @ (B, H, K, Dh) -> (B, H, T, Dh)
    dk = xp.matmul(xp.matrix_transpose(ds), q_u)  # (B, H, K, T) @ (B, H, T, Dh) -> (B, H, K, Dh)
    # undo: bd = rel_shift(q @ r^T + f scale)
    dbd = rel_shift_backward(ds, xp=xp)  # by key -> by distance
    dq = xp.matmul(dbd, r)  # (B, H, T, K) @ (H, K, Dh) -> (B, H, T, Dh)
    dr = xp.matmul(xp.matrix_transpose(dbd), q)  # (B, H, K, T) @ (B, H, T, Dh)
    dr = xp.sum(dr, axis=0)  # one table for the batch -> (H, K, Dh)
    df = xp.sum(dbd, axis=(0, 2)) * scale  # (B, H, T, K) -> (H, K)
    # undo: q_u = (q + u) scale, q = q scale
    dq_u *= scale
    du = xp.sum(dq_u, axis=(0, 2))  # (B, H, T, Dh) -> (H, Dh)
    dq *= scale
    dq += dq_u
    return dq, dk, dv, dr, df, du


def shaw_terms(q, k, r, f, r_w_bias, *, xp):
    """The four terms one by one, each (B, H, T, K), scaled and shifted (for pictures only)."""
    scale = 1.0 / math.sqrt(q.shape[-1])
    zero = xp.zeros_like(q)
    by_distance = zero[..., :1] + f[:, None, :] * scale  # (B, H, T, 1) + (H, 1, K)
    return {
        "a": (q * scale) @ xp.matrix_transpose(k),
        "b": rel_shift_forward((q * scale) @ xp.matrix_transpose(r), xp=xp)[0],
        "c": ((zero + r_w_bias[:, None, :]) * scale) @ xp.matrix_transpose(k),
        "d": rel_shift_forward(by_distance, xp=xp)[0],
    }


class ShawCache(NamedTuple):
    heads: HeadsCache
    table: TableCache
    core: ShawCoreCache
    o: LinearCache


def shaw_position_keys(w: ShawWeights, *, n_row, clamp_len, xp):
    """r (H, K, Dh) and f (H, K) for the distances K-1 ... 0, and the cache of the table.

    clamp_len: how many distances of the table are told apart, -1: all.
    """
    rows = dict(n_row=n_row, clamp_len=clamp_len, xp=xp)
    r, table = last_rows_forward(w.r_emb, **rows)  # (L, H, Dh) -> (K, H, Dh)
    f, _ = last_rows_forward(w.r_bias, **rows)  # (L, H) -> (K, H)
    return xp.permute_dims(r, (1, 0, 2)), f.T, table  # -> (H, K, Dh), (H, K)


def shaw_forward(x, h, pos, w: ShawWeights, mask, *, clamp_len, dropatt, rng, xp, inspect=None):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [memory ; segment] -> (B, T, D).

    There is no R: pos is None. clamp_len as in `shaw_position_keys`, mask (T, K) as in
    `attention_forward`.
    """
    n_head = w.r_w_bias.shape[0]
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    r, f, table = shaw_position_keys(w, n_row=h.shape[1], clamp_len=clamp_len, xp=xp)
    bias = w.r_w_bias
    o, core = shaw_core_forward(q, k, v, r, f, bias, mask, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        inspect.look(core.attend, mask, shaw_terms(q, k, r, f, bias, xp=xp))
    y, o_cache = linear_forward(merge_heads(o, xp=xp), w.w_o, xp=xp)  # -> (B, T, D)
    return y, ShawCache(heads, table, core, o_cache)


def shaw_backward(dy, cache: ShawCache, *, memory_rows=False, xp):
    """Return dx (B, T, D), dh (B, T or K, D; see `heads_backward`) and the weights' gradients."""
    heads, table, core, o_cache = cache
    # undo: y = merge_heads(o) @ w_o
    do, dw_o, _ = linear_backward(dy, o_cache, xp=xp)
    do = split_heads(do, n_head=heads.n_head, xp=xp)  # (B, T, H*Dh) -> (B, H, T, Dh)
    # undo: o = softmax(...) v
    dq, dk, dv, dr, df, du = shaw_core_backward(do, core, xp=xp)
    # undo: r, f = the last rows of the tables
    dr_emb = last_rows_backward(xp.permute_dims(dr, (1, 0, 2)), table, xp=xp)  # -> (L, H, Dh)
    dr_bias = last_rows_backward(df.T, table, xp=xp)  # (H, K) -> (L, H)
    # undo: q = x @ w_q, k = h @ w_k, v = h @ w_v
    dx, dh, dw_q, dw_k, dw_v = heads_backward(dq, dk, dv, heads, memory_rows=memory_rows, xp=xp)
    return dx, dh, ShawWeights(dw_q, dw_k, dw_v, dw_o, du, dr_emb, dr_bias)
