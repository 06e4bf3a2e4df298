"""Twins for CuPy: the hot operations as few launches as they go; see `twins.py`.

Each function has the shapes and the meaning of the plain operation of its name, which is the one
to read; the comments here say what differs on a GPU. Kernels are in `kernels.cu`. A backward twin
leaves the plain operation's cache to the plain operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from minitxl.backend.cupy_launch import Device

Array = Any

FLAT_THREADS = 256  # of a block that takes its numbers from one long line
FLAT_BLOCKS = 1024  # at most; the GPU runs some thousand threads at a time
ROWS_OF_A_CHUNK = 512  # of `column_sums`; fewer rows are summed in one launch
MAX_CHUNKS = 64


class CoreCache(NamedTuple):
    q_u: Array  # (H, B, T, Dh)
    q_v: Array  # (H, B, T, Dh)
    k: Array  # (H, B, K, Dh)
    v: Array  # (H, B, K, Dh)
    r: Array  # (H, K, Dh)
    p: Array  # (H, B, T, K)
    p_dropped: Array  # (H, B, T, K); p itself where nothing was dropped
    dropatt: float


class LinearCache(NamedTuple):
    x: Array  # (N, D_in)
    w: Array  # (D_in, D_out)
    shape: tuple  # of the input
    has_bias: bool


class LayerNormCache(NamedTuple):
    x_hat: Array  # (N, D)
    rstd: Array  # (N,)
    gamma: Array  # (D,)


class FeedForwardCache(NamedTuple):
    x: Array  # (N, D)
    w_1: Array  # (D, F)
    y: Array  # (N, F) after ReLU and dropout: positive exactly where the gradient passes
    w_2: Array  # (F, D)
    uniform: Array | None  # (N, D) of the second dropout
    dropout: float


class DropoutCache(NamedTuple):
    mask: Array  # of the input's shape


class CrossEntropyCache(NamedTuple):
    logits: Array  # (N, V)
    targets: Array  # (N,)
    log_z: Array  # (N,)


class Twins:
    """The twins of one GPU; `table` goes into the backend's `Namespace`."""

    def __init__(self, device: Device):
        self._device = device
        self._kernel = device.kernel

    def table(self) -> dict[str, Callable]:
        """Return name of an operation -> its twin."""
        return {
            name: getattr(self, name)
            for name in (
                "linear_forward",
                "linear_backward_input",
                "linear_backward_weight",
                "core_forward",
                "core_backward",
                "layer_norm_forward",
                "layer_norm_backward",
                "feed_forward_forward",
                "feed_forward_backward",
                "dropout_forward",
                "cross_entropy_forward",
                "cross_entropy_backward",
                "clip_by_norm",
                "adam_update",
            )
        }

    # --- linear ---------------------------------------------------------------------------------

    def linear_forward(self, x, w, b=None, *, xp):
        """One launch, two with a bias."""
        x2 = _contiguous(xp.reshape(x, (-1, x.shape[-1])), xp)  # (..., D_in) -> (N, D_in)
        y = self._product(x2, w, xp)  # (N, D_in) @ (D_in, D_out) -> (N, D_out)
        if b is not None:
            self._bias(y, b, None, 0, 0.0)
        shape = (*x.shape[:-1], w.shape[1])
        return xp.reshape(y, shape), LinearCache(x2, w, x.shape, b is not None)

    def linear_backward_input(self, dy, w, *, xp):
        """One launch."""
        return self._product(_contiguous(dy, xp), w.T, xp)

    def linear_backward_weight(self, x, dy, *, xp):
        """One launch."""
        return self._product(_contiguous(x, xp).T, _contiguous(dy, xp), xp)

    # --- the core of relative attention ---------------------------------------------------------

    def core_forward(self, q, k, v, r, r_w_bias, r_r_bias, mask, *, dropatt, rng, xp):
        """Seven launches, one more for the random numbers of dropatt.

        The heads are put in front, (H, B, ...), while u and v are added: then a batch of products
        has a single stride, and b + d is H products of (B*T, Dh) with r.
        """
        b, h, t, dh = q.shape
        n_key, dtype = k.shape[2], q.dtype
        q_u, q_v = self._to_heads(q, q, r_w_bias, r_r_bias, 1.0 / math.sqrt(dh), xp)
        k, v = self._to_heads(k, v, None, None, 1.0, xp)
        r = _rows(r, xp)
        p = xp.empty((h, b, t, n_key), dtype=dtype)  # first the scores a + c
        by_distance = xp.empty((h, b, t, n_key), dtype=dtype)
        self._products(q_u, _transposed(k), p)
        self._products(_batch_of_heads(q_v), _transposed(r), _batch_of_heads(by_distance))
        drops = rng is not None and dropatt > 0.0
        uniform = rng.uniform((b, h, t, n_key)) if drops else None
        p_dropped = by_distance if drops else p  # its memory, read before it is written
        self._kernel(
            "attention_softmax", dtype, (h * b * t,), _threads(n_key),
            p, by_distance, _contiguous(mask, xp), uniform, p_dropped, b, h, t, n_key,
            t * n_key if mask.ndim > 2 else 0, dropatt,
        )  # fmt: skip
        o = xp.empty((h, b, t, dh), dtype=dtype)
        self._products(p_dropped, v, o)
        rate = dropatt if drops else 0.0
        return self._from_heads(o, None, 1.0, xp), CoreCache(q_u, q_v, k, v, r, p, p_dropped, rate)

    def core_backward(self, do, cache: CoreCache, *, xp):
        """Twelve launches; `ds` is made in the memory of `dp`."""
        if not isinstance(cache, CoreCache):
            return NotImplemented
        q_u, q_v, k, v, r, p, p_dropped, dropatt = cache
        h, b, t, dh = q_u.shape
        n_key, dtype = k.shape[2], q_u.dtype
        do, _ = self._to_heads(do, None, None, None, 1.0, xp)
        ds, by_distance = xp.empty_like(p), xp.empty_like(p)
        dk, dv = xp.empty_like(k), xp.empty_like(v)
        # undo: o = p_dropped @ v
        self._products(do, _transposed(v), ds)
        self._products(_transposed(p_dropped), do, dv)
        # undo: dropatt, softmax, shift
        self._kernel(
            "attention_softmax_backward", dtype, (h * b * t,), _threads(n_key),
            p, p_dropped, ds, by_distance, t, n_key, dropatt,
        )  # fmt: skip
        # undo: ac = q_u @ k^T
        dq = xp.empty((2, h, b, t, dh), dtype=dtype)  # of q_u and of q_v
        self._products(ds, k, dq[0, ...])
        self._products(_transposed(ds), q_u, dk)
        # undo: bd = q_v @ r^T; the sum over the batch is part of the product
        by_distance = _batch_of_heads(by_distance)  # (H, B, T, K) -> (H, B*T, K)
        self._products(by_distance, r, _batch_of_heads(dq[1, ...]))
        dr = xp.empty((n_key, h, dh), dtype=dtype).transpose(1, 0, 2)  # (H, K, Dh), heads inside
        self._products(_transposed(by_distance), _batch_of_heads(q_v), dr)
        # undo: q_u = (q + u) scale, q_v = (q + v) scale
        scale = 1.0 / math.sqrt(dh)
        sums = self._column_sums(dq.reshape(2 * h, b * t, dh), None, scale, xp)
        du, dv_bias = sums[0, :h, :], sums[0, h:, :]
        dq = self._from_heads(dq[0, ...], dq[1, ...], scale, xp)
        return (
            dq,
            self._from_heads(dk, None, 1.0, xp),
            self._from_heads(dv, None, 1.0, xp),
            dr,
            du,
            dv_bias,
        )

    # --- layer normalisation --------------------------------------------------------------------

    def layer_norm_forward(self, x, gamma, beta, *, eps, xp):
        """One launch."""
        x = _contiguous(x, xp)
        d, n = x.shape[-1], x.size // x.shape[-1]
        y, x_hat = xp.empty_like(x), xp.empty((n, d), dtype=x.dtype)
        rstd = xp.empty((n,), dtype=x.dtype)
        args = (x, gamma, beta, y, x_hat, rstd, d, float(eps))
        self._kernel("layer_norm", x.dtype, (n,), _threads(d), *args)
        return y, LayerNormCache(x_hat, rstd, gamma)

    def layer_norm_backward(self, dy, cache: LayerNormCache, *, xp):
        """Two launches, three where the rows are many."""
        if not isinstance(cache, LayerNormCache):
            return NotImplemented
        x_hat, rstd, gamma = cache
        n, d = x_hat.shape
        dy = _contiguous(dy, xp)
        dx = xp.empty_like(dy)
        args = (dy, x_hat, rstd, gamma, dx, d)
        self._kernel("layer_norm_backward", dy.dtype, (n,), _threads(d), *args)
        sums = self._column_sums(dy.reshape(1, n, d), x_hat, 1.0, xp)
        return dx, sums[1, 0, :], sums[0, 0, :]

    # --- position-wise feed-forward -------------------------------------------------------------

    def feed_forward_forward(self, x, w_1, b_1, w_2, b_2, *, dropout, rng, xp):
        """Four launches, two more for the random numbers of dropout."""
        drops = rng is not None and dropout > 0.0
        rate = dropout if drops else 0.0
        x2 = xp.reshape(x, (-1, x.shape[-1]))  # (B, T, D) -> (N, D)
        x2 = _contiguous(x2, xp)
        y = self._product(x2, w_1, xp)  # (N, D) @ (D, F) -> (N, F)
        uniform = rng.uniform((*x.shape[:-1], y.shape[1])) if drops else None
        self._bias(y, b_1, uniform, 1, rate)
        out = self._product(y, w_2, xp)  # (N, F) @ (F, D) -> (N, D)
        uniform = rng.uniform((*x.shape[:-1], out.shape[1])) if drops else None
        self._bias(out, b_2, uniform, 0, rate)
        cache = FeedForwardCache(x2, w_1, y, w_2, uniform, rate)
        return xp.reshape(out, (*x.shape[:-1], out.shape[1])), cache

    def feed_forward_backward(self, dy, cache: FeedForwardCache, *, xp):
        """Seven launches, one more with dropout and two where the rows are many."""
        if not isinstance(cache, FeedForwardCache):
            return NotImplemented
        x, w_1, y, w_2, uniform, rate = cache
        shape = dy.shape
        dy = _contiguous(xp.reshape(dy, (-1, w_2.shape[1])), xp)  # (B, T, D) -> (N, D)
        if uniform is not None:
            dy = self._gate(dy, None, uniform, xp.empty_like(dy), rate)
        dw_2 = self._product(y.T, dy, xp)
        db_2 = self._column_sums(dy[None, ...], None, 1.0, xp)[0, 0, :]
        dy = self._product(dy, w_2.T, xp)  # (N, D) @ (D, F) -> (N, F)
        self._gate(dy, y, None, dy, rate)
        dw_1 = self._product(x.T, dy, xp)
        db_1 = self._column_sums(dy[None, ...], None, 1.0, xp)[0, 0, :]
        dx = self._product(dy, w_1.T, xp)  # (N, F) @ (F, D) -> (N, D)
        return xp.reshape(dx, shape), dw_1, db_1, dw_2, db_2

    # --- dropout --------------------------------------------------------------------------------

    def dropout_forward(self, x, *, rate, rng, xp):
        """Two launches, the first for the random numbers."""
        if rng is None or rate == 0.0:
            return NotImplemented
        x = _contiguous(x, xp)
        y, mask = xp.empty_like(x), xp.empty_like(x)
        args = (x, rng.uniform(x.shape), y, mask, x.size, float(rate))
        self._kernel("dropout", x.dtype, (_blocks(x.size),), FLAT_THREADS, *args)
        return y, DropoutCache(mask)

    # --- cross entropy --------------------------------------------------------------------------

    def cross_entropy_forward(self, logits, targets, *, xp):
        """One launch. A target that is no token gives a loss that is no number."""
        logits = _contiguous(logits, xp)
        targets = _contiguous(xp.astype(targets, xp.int32, copy=False), xp)
        n, n_token = logits.shape
        nll, log_z = xp.empty((n,), dtype=logits.dtype), xp.empty((n,), dtype=logits.dtype)
        args = (logits, targets, nll, log_z, n_token)
        self._kernel("cross_entropy", logits.dtype, (n,), _threads(n_token), *args)
        return nll, CrossEntropyCache(logits, targets, log_z)

    def cross_entropy_backward(self, dnll, cache: CrossEntropyCache, *, xp):
        """One launch."""
        if not isinstance(cache, CrossEntropyCache):
            return NotImplemented
        logits, targets, log_z = cache
        n, n_token = logits.shape
        dlogits = xp.empty_like(logits)
        args = (logits, targets, log_z, _contiguous(dnll, xp), dlogits, n_token)
        self._kernel("cross_entropy_backward", logits.dtype, (n,), _threads(n_token), *args)
        return dlogits

    # --- the flat buffer ------------------------------------------------------------------------

    def clip_by_norm(self, grad, max_norm: float, *, xp):
        """Two launches: sums of squares, then norm and scaling; the host sees neither."""
        n, blocks = grad.shape[0], _blocks(grad.shape[0])
        sums, norm = xp.empty((blocks,), dtype=grad.dtype), xp.empty((), dtype=grad.dtype)
        self._kernel("square_sums", grad.dtype, (blocks,), FLAT_THREADS, grad, sums, n)
        args = (grad, sums, norm, blocks, n, float(max_norm))
        self._kernel("clip_by_norm", grad.dtype, (blocks,), FLAT_THREADS, *args)
        return norm

    def adam_update(self, flat, g, m, v, factors, *, beta1, beta2, eps, xp):
        """One launch; the factors are numbers, or lie on the GPU."""
        n = flat.shape[0]
        rate, stretch = (xp.asarray(x, dtype=xp.float64) for x in factors)
        args = (flat, g, m, v, rate, stretch, n, float(beta1), float(beta2), float(eps))
        self._kernel("adam", flat.dtype, (_blocks(n),), FLAT_THREADS, *args)

    # --- what they share ------------------------------------------------------------------------

    def _to_heads(self, x, other, bias, bias_of_other, scale, xp):
        """(B, H, L, Dh) of any strides -> (H, B, L, Dh) contiguous, for one array or two."""
        x = _rows(x, xp)
        pair = other is not None
        other = _rows(other, xp) if pair else x
        if other.strides != x.strides:
            x, other = (_packed(a, xp) for a in (x, other))
        b, h, length, dh = x.shape
        y = xp.empty((h, b, length, dh), dtype=x.dtype)
        y_of_other = xp.empty_like(y) if pair else y
        steps = [stride // x.itemsize for stride in x.strides[:3]]
        self._kernel(
            "to_heads", x.dtype, (b * length, 2 if pair else 1), _threads(h * dh),
            x, other, bias, bias_of_other, y, y_of_other, b, length, h, dh, *steps, scale,
        )  # fmt: skip
        return y, y_of_other

    def _from_heads(self, x, other, scale, xp):
        """(x + other) scale; (H, B, L, Dh) -> (B, H, L, Dh), in memory (B, L, H*Dh)."""
        h, b, length, dh = x.shape
        y = xp.empty((b, length, h, dh), dtype=x.dtype)
        args = (x, other, y, b, length, h, dh, scale)
        self._kernel("from_heads", x.dtype, (b * length,), _threads(h * dh), *args)
        return y.transpose(0, 2, 1, 3)  # a view; merging the heads needs no copy

    def _product(self, a, b, xp):
        """a @ b for (m, k) and (k, n), either of them transposed in memory or not."""
        out = xp.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
        self._device.products(a[None, ...], b[None, ...], out[None, ...])
        return out

    def _products(self, a, b, out):
        """Multiply the matrices of the last two dims; the dims before are one batch."""
        flat = (x.reshape(-1, *x.shape[-2:]) if x.ndim > 3 else x for x in (a, b, out))
        self._device.products(*flat)

    def _column_sums(self, x, y, scale, xp):
        """Sum x (G, N, C), and x*y if y (N, C) is given, over N -> (1 or 2, G, C)."""
        g, n, c = x.shape
        n_sum = 1 if y is None else 2
        chunks = min(MAX_CHUNKS, -(-n // ROWS_OF_A_CHUNK))
        sums = xp.empty((n_sum, g, chunks, c), dtype=x.dtype)
        columns = -(-c // 32)
        args = (x, y, sums, n, c, scale)
        self._kernel("column_sums", x.dtype, (columns, chunks, g), FLAT_THREADS, *args)
        if chunks > 1:
            parts, sums = sums, xp.empty((n_sum, g, 1, c), dtype=x.dtype)
            args = (parts, None, sums, chunks, c, 1.0)
            self._kernel("column_sums", x.dtype, (columns, 1, n_sum * g), FLAT_THREADS, *args)
        return sums.reshape(n_sum, g, c)

    def _bias(self, x, bias, uniform, relu: int, rate: float):
        """x (N, C) = dropout(relu(x + bias)) in place."""
        n, c = x.shape
        args = (x, bias, uniform, c, relu, rate)
        self._kernel("bias_relu_dropout", x.dtype, (n,), _threads(c), *args)

    def _gate(self, dy, y, uniform, dx, rate: float):
        """dx = dy where ReLU and dropout were open."""
        n = dy.size
        args = (dy, y, uniform, dx, n, rate)
        self._kernel("relu_dropout_backward", dy.dtype, (_blocks(n),), FLAT_THREADS, *args)
        return dx


def _threads(n: int) -> int:
    """Threads of a block for a row of n numbers: whole warps, about four numbers each."""
    return min(256, max(32, -(-n // 128) * 32))


def _blocks(n: int) -> int:
    """Blocks for n numbers in one line."""
    return min(FLAT_BLOCKS, -(-n // FLAT_THREADS))


def _transposed(x):
    """The last two dims exchanged, a view."""
    return x.swapaxes(-1, -2)


def _batch_of_heads(x):
    """(H, B, L, C) -> (H, B*L, C), a view: what the batch shares is one product for each head."""
    h, b, length, c = x.shape
    return x.reshape(h, b * length, c)


def _contiguous(x, xp):
    """x itself if its numbers lie in one line, else a copy."""
    return x if x.flags.c_contiguous else _packed(x, xp)


def _rows(x, xp):
    """x itself if the numbers of its last dim lie side by side, else a copy."""
    return x if x.strides[-1] == x.itemsize else _packed(x, xp)


def _packed(x, xp):
    return xp.ascontiguousarray(x)
