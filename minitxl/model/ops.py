"""The operations of the model, each `x_forward` followed by its hand-written `x_backward`.

Contract (all of them):
  y, cache = x_forward(inputs, ..., xp=xp)
  dinputs  = x_backward(dy, cache, xp=xp)
where `dy` is dLoss/dy and the gradients come back in the order, shape and dtype of the
differentiable inputs. A cache holds what backward reads and no more. Nothing passed in is changed.
`xp` is a namespace of the Python array API standard: NumPy, CuPy, or any other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.backend.twins import has_twin

Array = Any  # an array of whichever library `xp` is


# --- linear -------------------------------------------------------------------------------------


class LinearCache(NamedTuple):
    x: Array  # (N, D_in)
    w: Array  # (D_in, D_out)
    shape: tuple  # of the input
    has_bias: bool


@has_twin
def linear_forward(x, w, b=None, *, xp):
    """y = x w + b for x (..., D_in), w (D_in, D_out), b (D_out,) or None."""
    x2 = xp.reshape(x, (-1, x.shape[-1]))  # (..., D_in) -> (N, D_in): one large product is fastest
    y = x2 @ w  # (N, D_in) @ (D_in, D_out) -> (N, D_out)
    if b is not None:
        y += b
    return xp.reshape(y, (*x.shape[:-1], w.shape[1])), LinearCache(x2, w, x.shape, b is not None)


def linear_backward(dy, cache: LinearCache, *, xp):
    """dx = dy w^T, dw = x^T dy, db = sum dy (None where there was no b)."""
    x, w, shape, has_bias = cache
    dy = xp.reshape(dy, (-1, w.shape[1]))  # (..., D_out) -> (N, D_out)
    dx = linear_backward_input(dy, w, xp=xp)
    dw = linear_backward_weight(x, dy, xp=xp)
    db = xp.sum(dy, axis=0) if has_bias else None  # (N, D_out) -> (D_out,)
    return xp.reshape(dx, shape), dw, db


@has_twin
def linear_backward_input(dy, w, *, xp):
    """dx = dy w^T, for dy (N, D_out), w (D_in, D_out) -> (N, D_in)."""
    return dy @ w.T


@has_twin
def linear_backward_weight(x, dy, *, xp):
    """dw = x^T dy, for x (N, D_in), dy (N, D_out) -> (D_in, D_out)."""
    return x.T @ dy


# --- embedding ----------------------------------------------------------------------------------


class EmbeddingCache(NamedTuple):
    tokens: Array  # (N,)
    n_token: int


def embedding_forward(tokens, w, *, xp):
    """y = w[tokens] for tokens (B, T) integers and w (V, D) -> (B, T, D)."""
    flat = xp.reshape(tokens, (-1,))  # (B, T) -> (N,)
    y = xp.take(w, flat, axis=0)  # (V, D) -> (N, D)
    return xp.reshape(y, (*tokens.shape, w.shape[1])), EmbeddingCache(flat, w.shape[0])


def embedding_backward(dy, cache: EmbeddingCache, *, scatter_add, xp):
    """dw[v] = sum of dy over the places where token v stood (`Backend.scatter_add` adds them)."""
    dy = xp.reshape(dy, (-1, dy.shape[-1]))  # (B, T, D) -> (N, D)
    return scatter_add(dy, cache.tokens, n_rows=cache.n_token)  # (N, D) -> (V, D)


# --- layer normalisation ------------------------------------------------------------------------


class LayerNormCache(NamedTuple):
    x_hat: Array  # (..., D) input with mean 0 and variance 1 (but for eps)
    rstd: Array  # (..., 1)  1 / standard deviation
    gamma: Array  # (D,)


@has_twin
def layer_norm_forward(x, gamma, beta, *, eps, xp):
    """y = gamma x^ + beta, x^ = (x - mean) / sqrt(var + eps), both over the last axis."""
    x_hat = x - xp.mean(x, axis=-1, keepdims=True)
    var = xp.mean(x_hat * x_hat, axis=-1, keepdims=True)  # (..., D) -> (..., 1)
    rstd = 1.0 / xp.sqrt(var + eps)
    x_hat *= rstd
    y = x_hat * gamma
    y += beta
    return y, LayerNormCache(x_hat, rstd, gamma)


@has_twin
def layer_norm_backward(dy, cache: LayerNormCache, *, xp):
    """dx = rstd (g - mean(g) - x^ mean(g x^)), g = dy gamma: what LayerNorm cannot see, removed.

    The output does not change when the input is shifted or (but for eps) stretched; so dx has no
    part along the ones and none along x^.
    """
    x_hat, rstd, gamma = cache
    lead = tuple(range(dy.ndim - 1))
    dy_x_hat = dy * x_hat
    dgamma = xp.sum(dy_x_hat, axis=lead)  # (..., D) -> (D,)
    dbeta = xp.sum(dy, axis=lead)
    dy_x_hat *= gamma  # from here on g x^
    dx = dy * gamma  # g
    mean_g_x_hat = xp.mean(dy_x_hat, axis=-1, keepdims=True)
    dx -= xp.mean(dx, axis=-1, keepdims=True)
    dx -= x_hat * mean_g_x_hat
    dx *= rstd
    return dx, dgamma, dbeta


# --- relu ---------------------------------------------------------------------------------------


class ReluCache(NamedTuple):
    y: Array  # the output: it is positive exactly where the input was


def relu_forward(x, *, xp):
    """y = max(x, 0)."""
    y = xp.maximum(x, xp.zeros((), dtype=x.dtype, device=x.device))
    return y, ReluCache(y)


def relu_backward(dy, cache: ReluCache, *, xp):
    """dx = dy where x > 0, else 0."""
    return dy * xp.astype(cache.y > 0, dy.dtype)  # NumPy's where takes eight times as long


# --- dropout ------------------------------------------------------------------------------------


class DropoutCache(NamedTuple):
    mask: Array | None  # 0 or 1 / (1 - rate); None: nothing was dropped


@has_twin
def dropout_forward(x, *, rate, rng, xp):
    """y = x mask, mask = 0 with probability `rate`, else 1 / (1 - rate), so that E[y] = x.

    `rng` (see `Backend.rng`) brings the randomness; with rng None or rate 0 it is the identity.
    """
    if rng is None or rate == 0.0:
        return x, DropoutCache(None)
    mask = xp.astype(rng.uniform(x.shape) >= rate, x.dtype)
    mask *= 1.0 / (1.0 - rate)
    return x * mask, DropoutCache(mask)


def dropout_backward(dy, cache: DropoutCache, *, xp):
    """dx = dy mask."""
    return dy if cache.mask is None else dy * cache.mask


# --- softmax ------------------------------------------------------------------------------------


class SoftmaxCache(NamedTuple):
    p: Array  # the probabilities; the scores are not needed again


def softmax_forward(x, *, xp):
    """p = exp(x) / sum exp(x) over the last axis; scores of -inf get exactly 0."""
    p = xp.exp(x - xp.max(x, axis=-1, keepdims=True))  # minus the maximum: exp cannot overflow
    p /= xp.sum(p, axis=-1, keepdims=True)
    return p, SoftmaxCache(p)


def softmax_backward(dp, cache: SoftmaxCache, *, xp):
    """dx = p (dp - sum(dp p)): adding a constant to every score changes nothing."""
    (p,) = cache
    dx = dp - xp.vecdot(dp, p, axis=-1)[..., None]
    dx *= p
    return dx


# --- cross entropy ------------------------------------------------------------------------------


class CrossEntropyCache(NamedTuple):
    log_p: Array  # (N, V) log-probabilities
    targets: Array  # (N,)


def log_softmax(x, *, xp):
    """log p = x - log sum exp(x) over the last axis."""
    y = x - xp.max(x, axis=-1, keepdims=True)
    y -= xp.log(xp.sum(xp.exp(y), axis=-1, keepdims=True))
    return y


@has_twin
def cross_entropy_forward(logits, targets, *, xp):
    """nll = -log softmax(logits)[target] in nats, for logits (N, V) and targets (N,) -> (N,).

    The factors of P(x), one for each token (paper sec. 3.1).
    """
    log_p = log_softmax(logits, xp=xp)
    picked = xp.take_along_axis(log_p, targets[:, None], axis=-1)  # (N, V) -> (N, 1)
    return -picked[:, 0], CrossEntropyCache(log_p, targets)


@has_twin
def cross_entropy_backward(dnll, cache: CrossEntropyCache, *, xp):
    """dlogits = (p - one_hot(target)) dnll."""
    log_p, targets = cache
    ids = xp.arange(log_p.shape[1], dtype=targets.dtype, device=targets.device)
    dlogits = xp.exp(log_p)
    dlogits -= xp.astype(ids[None, :] == targets[:, None], log_p.dtype)
    dlogits *= dnll[:, None]
    return dlogits


# --- relative positions -------------------------------------------------------------------------


def inverse_frequencies(*, d_model, dtype, device, xp):
    """w_k = 10000^(-2k/D) for k = 0 ... D/2 - 1 -> (D/2,)."""
    two_k = xp.arange(0, d_model, 2, dtype=dtype, device=device)
    return 10000.0 ** (-two_k / d_model)


def sinusoid(distances, inv_freq, *, xp):
    """R_p = [sin(p w_0), sin(p w_1) ... | cos(p w_0) ...]; (K,), (D/2,) -> (K, D).

    Paper sec. 3.3 (R has no learned parameters); sines and cosines side by side as in the released
    code, not interleaved.
    """
    angles = xp.astype(distances, inv_freq.dtype)[:, None] * inv_freq  # (K, 1) * (D/2,)
    return xp.concat([xp.sin(angles), xp.cos(angles)], axis=-1)  # (K, D/2) x 2 -> (K, D)


@has_twin
def sinusoid_table(n_key, inv_freq, *, clamp_len=-1, xp):
    """R (sec. 3.3) for the distances K-1 ... 0, from clamp_len on all alike -> (K, D)."""
    distances = xp.arange(n_key - 1, -1, -1, device=inv_freq.device)
    if clamp_len > 0:
        distances = xp.clip(distances, None, clamp_len)
    return sinusoid(distances, inv_freq, xp=xp)


class TableCache(NamedTuple):
    n_table: int  # rows of the table
    n_used: int  # of them, the last ones, are read
    n_row: int


def last_rows_forward(table, *, n_row, clamp_len=-1, xp):
    """y = the last n_row rows of a learned table of distances (L, ...) -> (n_row, ...).

    The last row belongs to distance 0. Longer distances than the table has (or than clamp_len
    rows of it) share the first row that is read.
    """
    n_table = table.shape[0]
    n_used = min(n_table, n_row if clamp_len < 0 else min(n_row, clamp_len))
    y = table[n_table - n_used :, ...]
    if n_used < n_row:
        first = xp.broadcast_to(y[:1, ...], (n_row - n_used, *y.shape[1:]))
        y = xp.concat([first, y], axis=0)  # (n_row - n_used, ...), (n_used, ...) -> (n_row, ...)
    return y, TableCache(n_table, n_used, n_row)


def last_rows_backward(dy, cache: TableCache, *, xp):
    """dtable: 0 for rows that were not read; the first one read adds up all that shared it."""
    n_table, n_used, n_row = cache
    shared = n_row - n_used
    first = xp.sum(dy[: shared + 1, ...], axis=0, keepdims=True)
    unread = xp.zeros((n_table - n_used, *dy.shape[1:]), dtype=dy.dtype, device=dy.device)
    return xp.concat([unread, first, dy[shared + 1 :, ...]], axis=0)  # -> (L, ...)


def rel_shift_forward(x, *, xp):
    """Shift row i of x (..., T, K) left by T-1-i, so that column j holds distance i + M - j.

    Paper app. B. Column c of x belongs to distance K-1-c for every row; a query i must read its
    key j at distance i + M - j, which is column j + T-1-i. Written out in one line of memory with
    one column of zeros behind each row, that entry stands at i (K+1) + j + T-1-i = i K + j + (T-1):
    the shift is nothing but leaving out the first T-1 numbers and cutting into rows of K again.

    What comes into the upper right corner (j > i + M) is one 0 and then the *next row's* scores.
    That is garbage, not zeros: without the causal mask it would leak the future.
    """
    *lead, t, k = x.shape
    column = xp.zeros((*lead, t, 1), dtype=x.dtype, device=x.device)
    line = xp.reshape(xp.concat([x, column], axis=-1), (*lead, t * (k + 1)))  # rows in one line
    return xp.reshape(line[..., t - 1 : t - 1 + t * k], (*lead, t, k)), None


def rel_shift_backward(dy, cache=None, *, xp):
    """The adjoint: put the numbers back where they were read, and drop the column of zeros.

    <rel_shift(x), y> = <x, rel_shift_backward(y)> for all x and y. The first T-1 numbers of the
    line were never read, so their gradient is 0.
    """
    *lead, t, k = dy.shape
    head = xp.zeros((*lead, t - 1), dtype=dy.dtype, device=dy.device)
    tail = xp.zeros((*lead, 1), dtype=dy.dtype, device=dy.device)  # T(K+1) - (T-1) - TK = 1
    line = xp.concat([head, xp.reshape(dy, (*lead, t * k)), tail], axis=-1)
    return xp.reshape(line, (*lead, t, k + 1))[..., :k]  # without the column of zeros
