"""Twins for NumPy: the hot operations in place, in blocks that fit the cache; see `twins.py`.

The plain versions write every step of a chain into a new array in main memory. These work on a
block at a time, small enough to stay in the second-level cache from the first step to the last,
and the attention core leaves out the keys that causality hides from a whole block of queries.
Threads are not their affair: each piece of the batch runs them on its own (`threads.py`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Array = Any

BLOCK = 1 << 16  # numbers of a block, 256 kB in float32: a few such arrays share the cache
QUERIES = 128  # of a block in the attention core; fewer hide more keys, more make larger products


# --- the core of relative attention -------------------------------------------------------------


class CoreCache(NamedTuple):
    q_u: Array  # (B, H, T, Dh)  (q + u) / sqrt(Dh)
    q_v: Array  # (B, H, T, Dh)  (q + v) / sqrt(Dh)
    k: Array  # (B, H, K, Dh)
    v: Array  # (B, H, K, Dh)
    r: Array  # (H, K, Dh)
    e: Array  # (B, H, T, K) exp(score - its row's maximum); only what the blocks cover is set
    total: Array  # (B, H, T, 1) sums of its rows
    o: Array  # (B, H, T, Dh)
    blocks: list[Block]


class Block(NamedTuple):
    """Queries i <= . < stop with the keys j <= . < end; all of them see the keys a <= . < b."""

    i: int
    stop: int
    j: int
    end: int
    a: int
    b: int


def _blocks(mask) -> list[Block]:
    """Cut the queries into blocks, each with the range of keys that any of its queries sees.

    mask (1 or B, T, K) additive, in each row one stretch of keys that are seen. The range ends with
    the last query's own key, so that the shift needs no more rows of r than there are keys.
    """
    n_query, n_key = mask.shape[1:]
    by_any, by_every = (mask == 0).any(axis=0), (mask == 0).all(axis=0)  # row of the batch
    blocks = []
    for i in range(0, n_query, QUERIES):
        stop = min(i + QUERIES, n_query)
        j, end = int(np.argmax(by_any[i:stop].any(axis=0))), n_key - n_query + stop
        by_all = np.flatnonzero(by_every[i:stop, j:end].all(axis=0)) + j
        a, b = (int(by_all[0]), int(by_all[-1]) + 1) if by_all.size else (j, j)
        blocks.append(Block(i, stop, j, end, a, b))
    return blocks


def _batches(n_batch: int, size: int):
    """Yield slices of the batch so large that `size` numbers for each fit a block."""
    step = max(1, BLOCK // size)
    for b in range(0, n_batch, step):
        yield slice(b, min(b + step, n_batch))


def _shift_buffer(n: int, n_query: int, n_key: int, dtype):
    """Return two views of one buffer: by distance (n, T, K), and by key (n, T, K), shifted.

    They are `rel_shift_forward` without copying: a column of zeros behind the K distances of each
    row, all rows in one line, the first T-1 numbers left out, cut into rows of K again.
    """
    buffer = np.zeros((n, n_query * (n_key + 1)), dtype=dtype)
    by_distance = buffer.reshape(n, n_query, n_key + 1)[:, :, :n_key]
    start = n_query - 1
    by_key = buffer[:, start : start + n_query * n_key].reshape(n, n_query, n_key)
    return by_distance, by_key


def core_forward(q, k, v, r, r_w_bias, r_r_bias, mask, *, dropatt, rng, xp):
    """As `attention.core_forward`; declines dropout on the probabilities."""
    if rng is not None and dropatt > 0.0:
        return NotImplemented
    n_batch, n_head, n_query, d_head = q.shape
    n_key = k.shape[2]
    scale = 1.0 / math.sqrt(d_head)
    q_u, q_v = q + r_w_bias[:, None, :], q + r_r_bias[:, None, :]
    q_u *= scale
    q_v *= scale
    mask = mask.reshape(-1, n_query, n_key)  # one for all rows of the batch, or one each
    blocks = _blocks(mask)
    e = np.empty((n_batch, n_head, n_query, n_key), dtype=q.dtype)
    total = np.empty((n_batch, n_head, n_query, 1), dtype=q.dtype)
    o = np.empty((n_batch, n_query, n_head, d_head), dtype=q.dtype).transpose(0, 2, 1, 3)
    ones = np.ones(n_key, dtype=q.dtype)
    for h in range(n_head):
        k_t, r_t = _transposed(k[:, h]), _transposed(r[h])  # (B, Dh, K), (Dh, K)
        for i, stop, j, end, a, b in blocks:
            n, m, first_row = stop - i, end - j, n_query - stop + j
            for rows in _batches(n_batch, n * m):
                queries = (rows, h, slice(i, stop))
                by_distance, by_key = _shift_buffer(rows.stop - rows.start, n, m, q.dtype)
                np.matmul(q_v[queries], r_t[:, first_row:], out=by_distance)
                s = q_u[queries] @ k_t[rows, :, j:end]
                s += by_key
                for some in (slice(j, a), slice(b, end)):  # which not all queries see
                    hidden = mask[rows if len(mask) > 1 else slice(1), i:stop, some]
                    s[:, :, some.start - j : some.stop - j] += hidden
                s -= s.max(axis=-1, keepdims=True)
                # The division by the row's sum comes where there is less to divide: in o.
                block = np.exp(s, out=e[(*queries, slice(j, end))])
                total[queries] = (block @ ones[:m])[..., None]
                o[queries] = block @ v[rows, h, j:end]
    o /= total
    return o, CoreCache(q_u, q_v, k, v, r, e, total, o, blocks)


def core_backward(do, cache, *, xp):
    """As `attention.core_backward`."""
    if not isinstance(cache, CoreCache):  # of the plain version
        return NotImplemented
    q_u, q_v, k, v, r, e, total, o, blocks = cache
    n_batch, n_head, n_query, _ = q_u.shape
    scale = 1.0 / math.sqrt(q_u.shape[-1])
    dq_u, dq_v, dk, dv = (_like_heads(a) for a in (q_u, q_v, k, v))
    dr = np.zeros_like(r)
    do = do / total  # now p do_i = e do_i, with p = e / total
    # sum_j dp_ij p_ij = do_i . o_i, for o = p v and dp = do v^T: it needs no row of dp
    inner = np.vecdot(do, o)[..., None]  # (B, H, T, 1)
    for h in range(n_head):
        v_t = _transposed(v[:, h])  # (B, Dh, K)
        for i, stop, j, end, _, _ in blocks:
            n, m, first_row = stop - i, end - j, n_query - stop + j
            for rows in _batches(n_batch, n * m):
                by_distance, ds = _shift_buffer(rows.stop - rows.start, n, m, r.dtype)
                here, keys = (rows, h, slice(i, stop)), (rows, h, slice(j, end))
                block = e[(*here, slice(j, end))]
                # undo: o = p @ v, softmax
                dv[keys] += block.swapaxes(1, 2) @ do[here]
                np.matmul(do[here], v_t[rows, :, j:end], out=ds)
                ds -= inner[here]
                ds *= block
                # undo: ac = q_u @ k^T
                np.matmul(ds, k[keys], out=dq_u[here])
                dk[keys] += ds.swapaxes(1, 2) @ q_u[here]
                # undo: bd = rel_shift(q_v @ r^T): ds lies in the buffer where it came from, and
                # what no key has read is still 0
                np.matmul(by_distance, r[h, first_row:], out=dq_v[here])
                dr[h, first_row:] += (by_distance.swapaxes(1, 2) @ q_v[here]).sum(axis=0)
    dq_u *= scale
    dq_v *= scale
    du, dv_bias = dq_u.sum(axis=(0, 2)), dq_v.sum(axis=(0, 2))
    dq_u += dq_v
    return dq_u, dk, dv, dr, du, dv_bias


def _transposed(a):
    """A copy of a (..., K, Dh) as (..., Dh, K): the products run faster with such a right side."""
    return np.ascontiguousarray(a.swapaxes(-1, -2))


def _like_heads(a):
    """Zeros of a's shape (B, H, L, Dh), laid out as (B, L, H, Dh): merging the heads is free."""
    b, h, length, d = a.shape
    return np.zeros((b, length, h, d), dtype=a.dtype).transpose(0, 2, 1, 3)


# --- layer norm ---------------------------------------------------------------------------------


class LayerNormCache(NamedTuple):
    x_hat: Array  # (N, D)
    rstd: Array  # (N, 1)
    gamma: Array  # (D,)


def _rows(x):
    """Yield slices of the rows of x (N, D), a block each."""
    step = max(1, BLOCK // x.shape[1])
    for n in range(0, x.shape[0], step):
        yield slice(n, n + step)


def layer_norm_forward(x, gamma, beta, *, eps, xp):
    """As `ops.layer_norm_forward`."""
    shape = x.shape
    x = x.reshape(-1, shape[-1])
    x_hat, y = np.empty_like(x), np.empty_like(x)
    rstd = np.empty((x.shape[0], 1), dtype=x.dtype)
    for n in _rows(x):
        h = x_hat[n]
        np.subtract(x[n], x[n].mean(axis=-1, keepdims=True), out=h)
        var = np.vecdot(h, h)[:, None] / shape[-1]
        rstd[n] = 1.0 / np.sqrt(var + eps)
        h *= rstd[n]
        np.multiply(h, gamma, out=y[n])
        y[n] += beta
    return y.reshape(shape), LayerNormCache(x_hat, rstd, gamma)


def layer_norm_backward(dy, cache, *, xp):
    """As `ops.layer_norm_backward`."""
    if not isinstance(cache, LayerNormCache):
        return NotImplemented
    x_hat, rstd, gamma = cache
    shape = dy.shape
    dy = dy.reshape(-1, shape[-1])
    dx = np.empty_like(dy)
    dgamma = np.zeros_like(gamma)
    ones = np.ones(dy.shape[0], dtype=dy.dtype)
    for n in _rows(dy):
        g = dx[n]
        np.multiply(dy[n], x_hat[n], out=g)
        dgamma += ones[n] @ g
        mean_g_x_hat = (g @ gamma)[:, None] / shape[-1]
        np.multiply(dy[n], gamma, out=g)
        g -= g.mean(axis=-1, keepdims=True)
        g -= x_hat[n] * mean_g_x_hat
        g *= rstd[n]
    return dx.reshape(shape), dgamma, ones @ dy


# --- dropout ------------------------------------------------------------------------------------


def dropout_forward(x, *, rate, rng, xp):
    """As `ops.dropout_forward`, drawing the same numbers."""
    if rng is None or rate == 0.0 or not x.flags.c_contiguous:
        return NotImplemented
    y, mask = np.empty_like(x), np.empty_like(x)
    flat = [a.reshape(-1) for a in (x, y, mask)]
    for start in range(0, x.size, BLOCK):
        a, b, m = (f[start : start + BLOCK] for f in flat)
        np.greater_equal(rng.uniform(a.shape), rate, out=m)
        m *= 1.0 / (1.0 - rate)
        np.multiply(a, m, out=b)
    return y, DropoutCache(mask)


class DropoutCache(NamedTuple):
    mask: Array


# --- cross entropy ------------------------------------------------------------------------------


class CrossEntropyCache(NamedTuple):
    p: Array  # (N, V) exp(logits - maximum)
    total: Array  # (N,) its sums
    targets: Array  # (N,)


def cross_entropy_forward(logits, targets, *, xp):
    """As `ops.cross_entropy_forward`."""
    p, rows = np.empty_like(logits), np.arange(len(targets))
    highest, total = (np.empty(len(targets), dtype=logits.dtype) for _ in range(2))
    for n in _rows(logits):
        highest[n] = logits[n].max(axis=-1)
        np.subtract(logits[n], highest[n, None], out=p[n])
        np.exp(p[n], out=p[n])
        total[n] = p[n].sum(axis=-1)
    nll = np.log(total) - (logits[rows, targets] - highest)
    return nll, CrossEntropyCache(p, total, targets)


def cross_entropy_backward(dnll, cache, *, xp):
    """As `ops.cross_entropy_backward`."""
    if not isinstance(cache, CrossEntropyCache):
        return NotImplemented
    p, total, targets = cache
    dlogits = p * (dnll / total)[:, None]
    dlogits[np.arange(len(targets)), targets] -= dnll
    return dlogits


TWINS = {
    f.__name__: f
    for f in (
        core_forward,
        core_backward,
        layer_norm_forward,
        layer_norm_backward,
        dropout_forward,
        cross_entropy_forward,
        cross_entropy_backward,
    )
}
"""By the name of the plain operation."""
