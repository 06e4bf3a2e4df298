"""A matrix for a memory: what was read is added up, whatever its length (linear attention).

Beside the softmax attention a of its segment, every head has a matrix S (Dh, Dh) that maps keys to
values. With q, k, v of the attention, phi a feature of queries and keys, and a strength of writing
b = sigmoid(x W_b) for each token:

    sum     S_t = S_{t-1} + b phi(k) v^T                            (Katharopoulos et al. 2020)
    delta   S_t = S_{t-1} + b phi(k) (v - S_{t-1}^T phi(k))^T       (Schlag et al. 2021)
    m_t = S_t^T phi(q),   o_t = g m_t + (1 - g) a_t,   g = sigmoid(beta), for each head

The gate g is that of Infini-attention (Munkhdalai et al. 2024), whose reads="past" takes S of the
segment's start for all its tokens. phi = elu + 1 with the sum has a denominator, the sum z of the
same weights: m = S^T phi(q) / (z . phi(q)). Here z is one more column of S, that of a value 1. For
the delta rule phi has length 1: what is read back under k is then what was stored there.

A segment is computed at once: with the rows of K = phi(k), Q = phi(q), B = diag(b), tril: j <= i,
    U = B V  or, delta,  (I + tril(B K K^T, -1)) U = B (V - K S)
    M = Q S + tril(Q K^T) U,   S' = S + K^T U
Rows of memory before the segment (mem_len) are the softmax's alone: they were written when they
were read. The work for a token does not grow with the text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.config import Memory as MemorySettings
from minitxl.model.attention import (
    CoreCache,
    HeadsCache,
    attention_terms,
    core_backward,
    core_forward,
    heads_backward,
    heads_forward,
    merge_heads,
    position_keys,
    position_keys_backward,
    split_heads,
)
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.layers import LayerWeights
from minitxl.model.ops import LinearCache, linear_backward, linear_forward
from minitxl.model.params import layer_weights

Array = Any
TINY = 1e-6  # added to lengths and denominators


class MatrixState(NamedTuple):
    """A layer's state."""

    rows: Array  # (B, M, D), M <= mem_len: the softmax's memory, as the paper's
    s: Array  # (B, H, Dh, Dh), or (B, H, Dh, Dh + 1) with z for a last column


class MatrixWeights(NamedTuple):
    """`AttentionWeights`, then the memory's, then the state; the gradients come alike."""

    w_q: Array
    w_k: Array
    w_v: Array
    w_r: Array
    w_o: Array
    r_w_bias: Array
    r_r_bias: Array
    w_b: Array  # (D, H)  how strongly a token is written
    gate: Array  # (H,)  beta
    s: Array  # (B, H, Dh, Dh or Dh + 1)


# --- phi ----------------------------------------------------------------------------------------


def unit_forward(x, *, xp):
    """y = x / |x| over the last axis."""
    length = xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True) + TINY**2)
    return x / length, (x / length, length)


def unit_backward(dy, cache, *, xp):
    """dx = (dy - y (y . dy)) / |x|: what would only stretch x is removed."""
    y, length = cache
    return (dy - y * xp.sum(y * dy, axis=-1, keepdims=True)) / length


def elu_forward(x, *, xp):
    """y = elu(x) + 1 = x + 1 where x > 0, else exp(x)."""
    zero = xp.zeros((), dtype=x.dtype, device=x.device)
    y = xp.where(x > 0, x + 1.0, xp.exp(xp.minimum(x, zero)))
    return y, y


def elu_backward(dy, y, *, xp):
    """dx = dy where x > 0, else dy exp(x), which is y."""
    one = xp.ones((), dtype=y.dtype, device=y.device)
    return dy * xp.minimum(y, one)


def feature_forward(x, m: MemorySettings, *, xp):
    """phi(x) for queries or keys (B, H, T, Dh)."""
    elu = unit = None
    if m.feature == "elu":
        x, elu = elu_forward(x, xp=xp)
    if not has_denominator(m):
        x, unit = unit_forward(x, xp=xp)
    return x, (elu, unit)


def feature_backward(dy, cache, *, xp):
    """dx for dy = dLoss/dphi(x)."""
    elu, unit = cache
    if unit is not None:
        dy = unit_backward(dy, unit, xp=xp)
    return dy if elu is None else elu_backward(dy, elu, xp=xp)


def has_denominator(m: MemorySettings) -> bool:
    """Whether what is read is divided by z . phi(q)."""
    return m.rule == "sum" and m.feature == "elu"


# --- a segment's writes and reads ---------------------------------------------------------------


class MemoryCache(NamedTuple):
    q: Array  # (B, H, T, Dh)  phi(q)
    k: Array
    v: Array  # (B, H, T, Dh or Dh + 1)
    b: Array  # (B, H, T, 1)
    s: Array  # (B, H, Dh, Dh or Dh + 1), that was found
    u: Array  # (B, H, T, Dh or Dh + 1)
    scores: Array | None  # (B, H, T, T): tril(Q K^T); None where no query reads its segment
    below: Array | None  # (B, H, T, T): tril(K K^T, -1), of the delta rule
    read: Array | None  # (B, H, T, Dh + 1): numerator and denominator
    features: tuple


def substitute_forward(below, y, *, xp):
    """Solve (I + below) u = y for u, below (..., T, T) strictly lower, y (..., T, n), row by row.

    u_i = y_i - sum_{j < i} below_ij u_j. Five times as fast here as `xp.linalg.solve`, which looks
    for pivots.
    """
    u = xp.asarray(y, copy=True)
    for i in range(1, y.shape[-2]):
        u[..., i : i + 1, :] -= xp.matmul(below[..., i : i + 1, :i], u[..., :i, :])
    return u


def substitute_backward(du, below, *, xp):
    """Return dy, which solves (I + below)^T dy = du, from the last row up."""
    dy, above = xp.asarray(du, copy=True), xp.matrix_transpose(below)
    for i in reversed(range(du.shape[-2] - 1)):
        dy[..., i : i + 1, :] -= xp.matmul(above[..., i : i + 1, i + 1 :], dy[..., i + 1 :, :])
    return dy


def memory_forward(q, k, v, b, s, m: MemorySettings, *, xp):
    """Return what is read (B, H, T, Dh), the matrix that is left, and the cache.

    q, k, v (B, H, T, Dh); b (B, H, T, 1) between 0 and 1; s (B, H, Dh, Dh or Dh + 1).
    """
    q, q_cache = feature_forward(q, m, xp=xp)
    k, k_cache = feature_forward(k, m, xp=xp)
    if has_denominator(m):
        v = xp.concat([v, xp.ones_like(v[..., :1])], axis=-1)  # z is what a value of 1 adds up to
    t_, below = xp.matrix_transpose, None
    if m.rule == "sum":
        u = b * v
    else:  # what is stored under a key already is taken away, the segment's own writes too
        below = xp.tril(xp.matmul(k, t_(k)), k=-1)  # (B, H, T, T)
        u = substitute_forward(b * below, b * (v - xp.matmul(k, s)), xp=xp)
    read, scores = xp.matmul(q, s), None
    if m.reads == "all":
        scores = xp.tril(xp.matmul(q, t_(k)))  # (B, H, T, T)
        read = read + xp.matmul(scores, u)
    new = s + xp.matmul(t_(k), u)
    cache = MemoryCache(
        q, k, v, b, s, u, scores, below, read if has_denominator(m) else None, (q_cache, k_cache)
    )
    if has_denominator(m):
        read = read[..., :-1] / (read[..., -1:] + TINY)
    return read, new, cache


def memory_backward(do, dnew, cache: MemoryCache, *, xp):
    """Return dq, dk, dv, db, ds for do (B, H, T, Dh) and dnew = dLoss/dS' (or None)."""
    q, k, v, b, s, u, scores, below, read, (q_cache, k_cache) = cache
    t_ = xp.matrix_transpose
    if read is not None:  # undo: numerator / denominator
        divisor = read[..., -1:] + TINY
        ddivisor = -xp.sum(do * read[..., :-1], axis=-1, keepdims=True) / (divisor * divisor)
        do = xp.concat([do / divisor, ddivisor], axis=-1)
    # undo: M = Q S + tril(Q K^T) U
    dq, dk, du = xp.matmul(do, t_(s)), xp.zeros_like(k), xp.zeros_like(u)
    ds = xp.matmul(t_(q), do)
    if scores is not None:
        dscores = xp.tril(xp.matmul(do, t_(u)))  # (B, H, T, T)
        dq += xp.matmul(dscores, k)
        dk += xp.matmul(t_(dscores), q)
        du += xp.matmul(t_(scores), do)
    # undo: S' = S + K^T U
    if dnew is not None:
        ds += dnew
        dk += xp.matmul(u, t_(dnew))
        du += xp.matmul(k, dnew)
    if below is None:  # undo: U = B V
        dv = b * du
        db = xp.sum(du * v, axis=-1, keepdims=True)
    else:  # undo: (I + tril(B K K^T, -1)) U = B (V - K S)
        dy = substitute_backward(du, b * below, xp=xp)
        dbelow = -xp.tril(xp.matmul(dy, t_(u)), k=-1)  # of B K K^T
        missing = v - xp.matmul(k, s)  # what the memory does not say yet
        db = xp.sum(dy * missing, axis=-1, keepdims=True)
        db += xp.sum(dbelow * below, axis=-1, keepdims=True)
        dv = b * dy
        dk -= xp.matmul(dv, t_(s))
        ds -= xp.matmul(t_(k), dv)
        dbelow *= b  # of K K^T
        dk += xp.matmul(dbelow, k) + xp.matmul(t_(dbelow), k)
    if read is not None:
        dv = dv[..., :-1]  # the 1 in the last column is no parameter
    dq = feature_backward(dq, q_cache, xp=xp)
    return dq, feature_backward(dk, k_cache, xp=xp), dv, db, ds


# --- the block ----------------------------------------------------------------------------------


class MatrixCache(NamedTuple):
    heads: HeadsCache
    pos: Array
    core: CoreCache
    b: LinearCache
    strength: Array  # (B, H, T, 1)
    memory: MemoryCache
    mixed: tuple  # (m, a, g)
    o: LinearCache
    new: Array  # S'


def sigmoid(x, *, xp):
    """1 / (1 + exp(-x)), by tanh: it cannot overflow."""
    return 0.5 * (xp.tanh(0.5 * x) + 1.0)


def matrix_forward(x, h, pos, w: MatrixWeights, mask, *, m, dropatt, rng, xp, inspect=None):
    """Attend from the segment x (B, T, D) to h (B, K, D) = [rows ; segment] and to the matrix.

    m: the settings of the memory; all else as in `attention_forward`.
    """
    n_head, t = w.r_w_bias.shape[0], x.shape[1]
    q, k, v, heads = heads_forward(x, h, w.w_q, w.w_k, w.w_v, n_head=n_head, xp=xp)
    r = position_keys(pos, w.w_r, n_head=n_head, xp=xp)  # (K, D) -> (H, K, Dh)
    biases = (w.r_w_bias, w.r_r_bias)
    forward = core_forward if inspect is None else core_forward.plain
    a, core = forward(q, k, v, r, *biases, mask, dropatt=dropatt, rng=rng, xp=xp)
    if inspect is not None:
        inspect.look(core.attend, mask, attention_terms(q, k, r, *biases, xp=xp))
    b, b_cache = linear_forward(x, w.w_b, xp=xp)  # (B, T, D) -> (B, T, H)
    b = sigmoid(xp.permute_dims(b, (0, 2, 1))[..., None], xp=xp)  # -> (B, H, T, 1)
    n_mem = h.shape[1] - t
    own = (k[:, :, n_mem:, :], v[:, :, n_mem:, :])  # the segment's; the rows are in S already
    read, new, memory = memory_forward(q, *own, b, w.s, m, xp=xp)
    g = sigmoid(w.gate, xp=xp)[:, None, None]  # (H,) -> (H, 1, 1)
    o = merge_heads(g * read + (1.0 - g) * a, xp=xp)  # (B, H, T, Dh) -> (B, T, H*Dh)
    y, o_cache = linear_forward(o, w.w_o, xp=xp)
    return y, MatrixCache(heads, pos, core, b_cache, b, memory, (read, a, g), o_cache, new)


def matrix_backward(dy, cache: MatrixCache, *, dnew=None, memory_rows=False, xp):
    """Return dx (B, T, D), dh as `attention_backward`, and the weights' gradients, S's with them.

    dnew: dLoss/dS', or None.
    """
    heads, pos, core, b_cache, b, memory, (read, a, g), o_cache, _ = cache
    # undo: y = merge_heads(o) @ w_o
    do, dw_o, _ = linear_backward(dy, o_cache, xp=xp)
    do = split_heads(do, n_head=heads.n_head, xp=xp)  # (B, T, H*Dh) -> (B, H, T, Dh)
    # undo: o = g m + (1 - g) a
    dg = xp.sum(do * (read - a), axis=(0, 2, 3))  # (H,)
    dgate = dg * (g * (1.0 - g))[:, 0, 0]
    dq, dk, dv, dr, du, dv_bias = core_backward((1.0 - g) * do, core, xp=xp)
    own = memory_backward(g * do, dnew, memory, xp=xp)
    dq = dq + own[0]
    n_mem = dk.shape[2] - own[1].shape[2]
    dk[:, :, n_mem:, :] += own[1]
    dv[:, :, n_mem:, :] += own[2]
    db = own[3] * b * (1.0 - b)  # undo: the sigmoid
    db = xp.permute_dims(db[..., 0], (0, 2, 1))  # (B, H, T, 1) -> (B, T, H)
    dx_b, dw_b, _ = linear_backward(db, b_cache, xp=xp)
    dw_r = position_keys_backward(dr, pos, xp=xp)
    dx, dh, dw_q, dw_k, dw_v = heads_backward(dq, dk, dv, heads, memory_rows=memory_rows, xp=xp)
    dw = MatrixWeights(dw_q, dw_k, dw_v, dw_r, dw_o, du, dv_bias, dw_b, dgate, own[4])
    return dx + dx_b, dh, dw


# --- the memory ---------------------------------------------------------------------------------


class Matrix(Memory):
    """See the top of this file."""

    def layer_shapes(self, n):
        c = self.config
        return {f"layers.{n}.attn.w_b": (c.d_model, c.n_head), f"layers.{n}.attn.gate": (c.n_head,)}

    def weights(self, params, n, state):
        p = f"layers.{n}.attn."
        w = layer_weights(params, n)
        own = dict(w_b=params[p + "w_b"], gate=params[p + "gate"])
        own["s"] = None if state is None else state.s
        return w._replace(attn=MatrixWeights(**w.attn._asdict(), **own))

    def parameters(self, w: LayerWeights):
        return w._replace(attn=w.attn[:-1])

    def _shape(self, batch_size: int) -> tuple:
        c = self.config
        return (batch_size, c.n_head, c.d_head, c.d_head + has_denominator(c.memory))

    def start(self, batch_size, *, dtype, device, xp):
        rows = super().start(batch_size, dtype=dtype, device=device, xp=xp)[0]
        s = xp.zeros(self._shape(batch_size), dtype=dtype, device=device)
        return [MatrixState(rows, s)] * self.config.n_layer

    def shapes(self, batch_size, n):
        return {"rows": super().shapes(batch_size, n)[""], "s": self._shape(batch_size)}

    def n_bytes(self, itemsize=4):
        _, h, rows, columns = self._shape(1)
        return super().n_bytes(itemsize) + itemsize * self.config.n_layer * h * rows * columns

    def flops(self, n_query):
        (_, h, dh, width), t, m = self._shape(1), n_query, self.config.memory
        read = 2 * t * dh * width + (2 * t * t * (dh + width) if m.reads == "all" else 0)
        write = 2 * t * dh * width
        if m.rule == "delta":  # K K^T, K S, and the triangular system
            write += 2 * t * t * dh + 2 * t * dh * width + t * t * width
        return h * (read + write) + 2 * t * self.config.d_model * h

    def rows(self, state, *, xp):
        return state.rows

    def attend(self, x, h, pos, w, mask, **options):
        return matrix_forward(x, h, pos, w, mask, m=self.config.memory, **options)

    def attend_backward(self, dleft):
        def backward(dy, cache, *, memory_rows=False, xp):
            dnew = None if dleft is None else dleft.s
            return matrix_backward(dy, cache, dnew=dnew, memory_rows=memory_rows, xp=xp)

        return backward

    def update(self, state, h, w, layer, params, n, *, xp):
        rows, cache = super().update(state.rows, h, w, layer, params, n, xp=xp)
        return MatrixState(rows, layer.attn.new), cache

    def update_backward(self, dleft, cache, dmem, dw, grads, n, *, xp):
        drows = None if dleft is None else dleft.rows
        drows, dh = super().update_backward(drows, cache, dmem, dw, grads, n, xp=xp)
        return (None if drows is None else MatrixState(drows, dw.attn.s)), dh
