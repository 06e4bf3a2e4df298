"""Relative multi-head attention over [memory ; segment], forward and backward (paper sec. 3.3).

The score of query i on key j is the sum of four terms, divided by sqrt(Dh):
  (a) q_i . k_j        content to content          (c) u . k_j        global content bias
  (b) q_i . r_{i-j}    content to position         (d) v . r_{i-j}    global position bias
with r_d = W_r R_d for the distance d = i - j of two positions in the text. (In arrays query i is at
column i + M of the keys, so there the distance is i + M - j.) In code a + c = (q + u) . k is
`ac`, b + d = (q + v) . r is `bd`; u and v are called r_w_bias and r_r_bias as in the released code,
because `v` is the value here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minitxl.backend.twins import has_twin
from minitxl.model.ops import (
    DropoutCache,
    LinearCache,
    SoftmaxCache,
    dropout_backward,
    dropout_forward,
    linear_backward,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
    rel_shift_backward,
    rel_shift_forward,
    softmax_backward,
    softmax_forward,
)

Array = Any


class AttentionWeights(NamedTuple):
    """The parameters of one attention block; their gradients come in the same tuple."""

    w_q: Array  # (D, H*Dh)
    w_k: Array  # (D, H*Dh)  W_{k,E} of the paper (sec. 3.3): keys made of content
    w_v: Array  # (D, H*Dh)
    w_r: Array  # (D, H*Dh)  W_{k,R} of the paper: keys made of positions
    w_o: Array  # (H*Dh, D)
    r_w_bias: Array  # (H, Dh)   u
    r_r_bias: Array  # (H, Dh)   v of the paper


@dataclass
class Inspection:
    """Pictures of a forward pass, filled layer by layer where one is passed in."""

    hidden: list = field(default_factory=list)  # N + 1 of (B, T, D): h_0 = embedding ... h_N
    probs: list = field(default_factory=list)  # N of (B, H, T, K) attention probabilities
    terms: list = field(default_factory=list)  # N of {"a", "b", "c", "d"}: scaled scores, unmasked
    mask: list = field(default_factory=list)  # N of (T, K) or (B, 1, T, K) bool: True is hidden

    def look(self, attend: AttendCache, mask, terms: dict) -> None:
        """Keep one layer's picture; mask (T, K) is additive."""
        self.probs.append(attend.softmax.p)
        self.terms.append(terms)
        self.mask.append(mask < 0)


# --- which keys a query sees --------------------------------------------------------------------


@has_twin
def attention_mask(*, n_query, n_mem, max_keys, device, xp):
    """Return (T, K) bool, True where key j is hidden from query i (paper sec. 3.3).

    Query i stands at column i + M. Hidden is the future, j > i + M. With max_keys, the option
    `same_length`, also what lies that far behind, j <= i + M - max_keys: no query sees more keys,
    itself included. (max_keys is mem_len in the released PyTorch code, one more in the TF code.)
    An array (B, 1, T, 1) of max_keys, a number for each query, makes the mask (B, 1, T, K).
    """
    i = xp.arange(n_query, device=device)[:, None]  # (T, 1)
    j = xp.arange(n_mem + n_query, device=device)[None, :]  # (1, K)
    mask = j > i + n_mem
    if max_keys is not None:
        mask = mask | (j <= i + n_mem - max_keys)
    return mask


def additive_mask(mask, *, dtype, xp):
    """Return (T, K): 0 where a key is seen, -inf where it is hidden, for exp(-inf) is exactly 0."""
    zero = xp.zeros((), dtype=dtype, device=mask.device)
    return xp.where(mask, zero - math.inf, zero)


# --- heads --------------------------------------------------------------------------------------


def split_heads(x, *, n_head, xp):
    """(B, L, H*Dh) -> (B, H, L, Dh)."""
    b, length, width = x.shape
    x = xp.reshape(x, (b, length, n_head, width // n_head))
    return xp.permute_dims(x, (0, 2, 1, 3))  # (B, L, H, Dh) -> (B, H, L, Dh)


def merge_heads(x, *, xp):
    """(B, H, L, Dh) -> (B, L, H*Dh), the inverse of `split_heads`."""
    b, h, length, dh = x.shape
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (b, length, h * dh))


# --- what all encodings of position share: values by weight -------------------------------------


class AttendCache(NamedTuple):
    softmax: SoftmaxCache  # p (B, H, T, K)
    dropatt: DropoutCache
    p: Array  # (B, H, T, K) after dropatt
    v: Array  # (B, H, K, Dh)


def attend_forward(scores, v, *, dropatt, rng, xp):
    """o = dropout(softmax(scores)) v (sec. 3.3); (B, H, T, K), (B, H, K, Dh) -> (B, H, T, Dh)."""
    p, softmax_cache = softmax_forward(scores, xp=xp)
    p, dropatt_cache = dropout_forward(p, rate=dropatt, rng=rng, xp=xp)
    o = xp.matmul(p, v)  # (B, H, T, K) @ (B, H, K, Dh) -> (B, H, T, Dh)
    return o, AttendCache(softmax_cache, dropatt_cache, p, v)


def attend_backward(do, cache: AttendCache, *, xp):
    """Return dscores (B, H, T, K) and dv; masked keys have p = 0, so their dscore is exactly 0."""
    softmax_cache, dropatt_cache, p, v = cache
    # undo: o = p @ v
    dp = xp.matmul(do, xp.matrix_transpose(v))  # (B, H, T, Dh) @ (B, H, Dh, K) -> (B, H, T, K)
    dv = xp.matmul(xp.matrix_transpose(p), do)  # (B, H, K, T) @ (B, H, T, Dh) -> (B, H, K, Dh)
    # undo: dropatt, softmax
    dp = dropout_backward(dp, dropatt_cache, xp=xp)
    return softmax_backward(dp, softmax_cache, xp=xp), dv


# --- the core of relative attention: scores, mask, softmax, values ------------------------------


class CoreCache(NamedTuple):
    q_u: Array  # (B, H, T, Dh)  (q + u) / sqrt(Dh)
    q_v: Array  # (B, H, T, Dh)  (q + v) / sqrt(Dh)
    k: Array  # (B, H, K, Dh)
    r: Array  # (H, K, Dh)
    attend: AttendCache


@has_twin
def core_forward(q, k, v, r, r_w_bias, r_r_bias, mask, *, dropatt, rng, xp):
    """o = softmax(((q + u) k^T + rel_shift((q + v) r^T)) / sqrt(Dh), masked) v.

    Paper sec. 3.3: the terms (a) + (c), then (b) + (d).
    q (B, H, T, Dh); k, v (B, H, K, Dh); r (H, K, Dh), row c for distance K-1-c; u, v (H, Dh);
    mask (T, K) or (B, 1, T, K): 0, or -inf where a key is hidden -> o (B, H, T, Dh).
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    q_u = (q + r_w_bias[:, None, :]) * scale  # + (H, 1, Dh): the same u for every position
    q_v = (q + r_r_bias[:, None, :]) * scale
    ac = q_u @ xp.matrix_transpose(k)  # (B, H, T, Dh) @ (B, H, Dh, K) -> (B, H, T, K)
    bd = q_v @ xp.matrix_transpose(r)  # (B, H, T, Dh) @ (H, Dh, K) -> (B, H, T, K) by distance
    bd, _ = rel_shift_forward(bd, xp=xp)  # by distance -> by key
    ac += bd
    ac += mask  # + (T, K)
    o, attend = attend_forward(ac, v, dropatt=dropatt, rng=rng, xp=xp)
    return o, CoreCache(q_u, q_v, k, r, attend)


@has_twin
def core_backward(do, cache: CoreCache, *, xp):
    """Return dq, dk, dv, dr, du, dv_bias for do (B, H, T, Dh)."""
    q_u, q_v, k, r, attend = cache
    scale = 1.0 / math.sqrt(q_u.shape[-1])
    # undo: o = softmax(ac + bd + mask) v
    ds, dv = attend_backward(do, attend, xp=xp)
    # undo: ac = q_u @ k^T
    dq_u = ds @ k  # (B, H, T, K) @ (B, H, K, Dh) -> (B, H, T, Dh)
    dk = xp.matrix_transpose(ds) @ q_u  # (B, H, K, T) @ (B, H, T, Dh) -> (B, H, K, Dh)
    # undo: bd = rel_shift(q_v @ r^T)
    dbd = rel_shift_backward(ds, xp=xp)  # by key -> by distance
    dq_v = dbd @ r  # (B, H, T, K) @ (H, K, Dh) -> (B, H, T, Dh)
    dr = xp.sum(xp.matrix_transpose(dbd) @ q_v, axis=0)  # r serves the whole batch -> (H, K, Dh)
    # undo: q_u = (q + u) scale, q_v = (q + v) scale
    dq_u *= scale
    dq_v *= scale
    du = xp.sum(dq_u, axis=(0, 2))  # (B, H, T, Dh) -> (H, Dh)
    dv_bias = xp.sum(dq_v, axis=(0, 2))
    dq_u += dq_v
    return dq_u, dk, dv, dr, du, dv_bias


def attention_terms(q, k, r, r_w_bias, r_r_bias, *, xp):
    """The four terms of sec. 3.3, each (B, H, T, K), scaled and shifted (for pictures only)."""
    scale = 1.0 / math.sqrt(q.shape[-1])
    k_t, r_t = xp.matrix_transpose(k), xp.matrix_transpose(r)
    u = xp.zeros_like(q) + r_w_bias[:, None, :]
    v_bias = xp.zeros_like(q) + r_r_bias[:, None, :]
    return {
        "a": (q * scale) @ k_t,
        "b": rel_shift_forward((q * scale) @ r_t, xp=xp)[0],
        "c": (u * scale) @ k_t,
        "d": rel_shift_forward((v_bias * scale) @ r_t, xp=xp)[0],
    }


# --- what all encodings of position share: queries, keys, values --------------------------------


class HeadsCache(NamedTuple):
    q: LinearCache
    k: LinearCache
    v: LinearCache
    n_mem: int
    n_head: int


@has_twin
def heads_forward(x, h, w_q, w_k, w_v, *, n_head, xp):
    """Return q (B, H, T, Dh) of the segment x (B, T, D), and k, v (B, H, K, Dh) of h (B, K, D).

    h = [memory ; segment]: only the segment asks, memory and segment answer (sec. 3.2, 3.3).
    """
    q, q_cache = linear_forward(x, w_q, xp=xp)  # -> (B, T, H*Dh)
    k, k_cache = linear_forward(h, w_k, xp=xp)  # -> (B, K, H*Dh)
    v, v_cache = linear_forward(h, w_v, xp=xp)
    q, k, v = (split_heads(y, n_head=n_head, xp=xp) for y in (q, k, v))
    n_mem = h.shape[1] - x.shape[1]
    return q, k, v, HeadsCache(q_cache, k_cache, v_cache, n_mem, n_head)


@has_twin
def heads_backward(dq, dk, dv, cache: HeadsCache, *, memory_rows, xp):
    """Return dx (B, T, D), dh, and dw_q, dw_k, dw_v.

    Here is the stopped gradient (sec. 3.2): h = [SG(memory) ; segment]. With memory_rows=False
    dh is (B, T, D), the segment's rows alone: nothing flows *into* the memory. The gradients of
    w_k and w_v still sum over all K rows, the memory's too: it is the memory that is held fixed,
    not how it is read. With memory_rows=True dh is (B, K, D), the gradient that is otherwise cut
    (a layer with LayerNorm in front asks for it, for gamma and beta, and cuts after that).
    """
    # undo: q = x @ w_q
    dx, dw_q, _ = linear_backward(merge_heads(dq, xp=xp), cache.q, xp=xp)
    # undo: k = h @ w_k, v = h @ w_v
    dk = merge_heads(dk, xp=xp)  # (B, H, K, Dh) -> (B, K, H*Dh)
    dv = merge_heads(dv, xp=xp)
    b, n_key, width = dk.shape
    # (D, B*K) @ (B*K, H*Dh): the memory's rows too
    dw_k = linear_backward_weight(cache.k.x, xp.reshape(dk, (b * n_key, width)), xp=xp)
    dw_v = linear_backward_weight(cache.v.x, xp.reshape(dv, (b * n_key, width)), xp=xp)
    first = 0 if memory_rows else cache.n_mem  # the stop: leave the memory's rows out
    dk = xp.reshape(dk[:, first:, :], (-1, width))  # (B, K, H*Dh) -> (B*T, H*Dh)
    dv = xp.reshape(dv[:, first:, :], (-1, width))
    dh = linear_backward_input(dk, cache.k.w, xp=xp)  # -> (B*T, D)
    dh += linear_backward_input(dv, cache.v.w, xp=xp)
    return dx, xp.reshape(dh, (b, n_key - first, -1)), dw_q, dw_k, dw_v


# --- the keys of the positions ------------------------------------------------------------------


def position_keys(pos, w_r, *, n_head, xp):
    """r = R W_{k,R} (sec. 3.3), for R (K, D) -> (H, K, Dh): one table for the whole batch.

    All that keeps keys of positions, to read on or to show them, has them from here.
    """
    r, _ = linear_forward(pos, w_r, xp=xp)  # (K, D) -> (K, H*Dh)
    return split_heads(r[None, :, :], n_head=n_head, xp=xp)[0, ...]  # -> (H, K, Dh)


def position_keys_backward(dr, pos, *, xp):
    """dw_r = R^T dr for dr (H, K, Dh) -> (D, H*Dh); R is no parameter and needs no gradient."""
    dr = xp.reshape(xp.permute_dims(dr, (1, 0, 2)), (pos.shape[0], -1))  # -> (K, H*Dh)
    return linear_backward_weight(pos, dr, xp=xp)  # (D, K) @ (K, H*Dh) -> (D, H*Dh)


# --- the whole block: projections around the core -----------------------------------------------


class AttentionCache(NamedTuple):
    heads: HeadsCache
    pos: Array  # (K, D) R
    core: CoreCache
    o: LinearCache


def attention_forward(x, h, pos, w: AttentionWeights, mask, *, dropatt, rng, xp, inspect=None):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [memory ; segment] -> (B, T, D).

    pos (K, D) = R (sec. 3.3) for the distances K-1 ... 0; mask (T, K), or (B, 1, T, K): 0, or
    -inf where a key is hidden.
    """
    n_head = w.r_w_bias.shape[0]
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    r = position_keys(pos, w.w_r, n_head=n_head, xp=xp)  # (K, D) -> (H, K, Dh)
    biases = (w.r_w_bias, w.r_r_bias)
    # A faster twin need not keep what a picture shows.
    forward = core_forward if inspect is None else core_forward.plain
    o, core = forward(q, k, v, r, *biases, mask, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        inspect.look(core.attend, mask, attention_terms(q, k, r, *biases, xp=xp))
    o = merge_heads(o, xp=xp)  # (B, H, T, Dh) -> (B, T, H*Dh)
    y, o_cache = linear_forward(o, w.w_o, xp=xp)  # -> (B, T, D)
    return y, AttentionCache(heads, pos, core, o_cache)


def attention_backward(dy, cache: AttentionCache, *, memory_rows=False, xp):
    """Return dx (B, T, D), dh (B, T or K, D; see `heads_backward`) and the weights' gradients."""
    heads, pos, core, o_cache = cache
    # undo: y = merge_heads(o) @ w_o
    do, dw_o, _ = linear_backward(dy, o_cache, xp=xp)
    do = split_heads(do, n_head=heads.n_head, xp=xp)  # (B, T, H*Dh) -> (B, H, T, Dh)
    # undo: o = softmax(...) v
    dq, dk, dv, dr, du, dv_bias = core_backward(do, core, xp=xp)
    # undo: r = R @ w_r
    dw_r = position_keys_backward(dr, pos, xp=xp)
    # undo: q = x @ w_q, k = h @ w_k, v = h @ w_v
    dx, dh, dw_q, dw_k, dw_v = heads_backward(dq, dk, dv, heads, memory_rows=memory_rows, xp=xp)
    return dx, dh, AttentionWeights(dw_q, dw_k, dw_v, dw_r, dw_o, du, dv_bias)
