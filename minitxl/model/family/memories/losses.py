"""The two losses of Rae et al. (2019, sec. 3.2) that train a compression, and nothing else.

    attention    | attn(h, old) - attn(h, new) |^2: what this segment would have read from the
                 states that leave, read from their coarse rows instead (lossy: what nobody asks
                 for may go)
    autoencode   | old - g(new) |^2, g(new) = new + new A_i for the i-th state of a block

Everything but the compression is a constant here: queries, keys, values and the states themselves.
They are added, with weight 1, to the mean of the model's own loss.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minitxl.model.attention import attend_backward, attend_forward, merge_heads, split_heads
from minitxl.model.ops import (
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_backward_input,
    linear_forward,
)

Array = Any


class LossCache(NamedTuple):
    value: Array  # 0-d
    gap: Array  # what is to become 0, of which `value` is the mean square, times its width
    rest: Any


class Loss(NamedTuple):
    """forward(h, blocks, made, w, params, n, config, *, xp) -> LossCache for blocks (B, n, c, D)
    and made (B, n, D); backward(cache, grads, n, config, *, xp) -> dmade, adds its own weights'."""

    forward: Any
    backward: Any


def _value(gap, n_row: int, *, xp):
    """The sum of squares for each of n_row vectors, in the mean."""
    return xp.sum(gap * gap) / n_row


# --- attention reconstruction -------------------------------------------------------------------


class ReadCache(NamedTuple):
    norm: Any  # of the rows, under pre_lnorm
    weights: tuple[Array, Array]  # W_k, W_v
    q: Array
    attend: Any


def heads_of(x, weights, w, config, *, xp):
    """x (B, L, D), under its LayerNorm where that stands before, times each weight, by heads."""
    norm = None
    if config.pre_lnorm:
        gamma, beta, eps = w.attn_gamma, w.attn_beta, config.layer_norm_epsilon
        x, norm = layer_norm_forward(x, gamma, beta, eps=eps, xp=xp)
    projected = (linear_forward(x, weight, xp=xp)[0] for weight in weights)
    return [split_heads(y, n_head=config.n_head, xp=xp) for y in projected], norm


def queries(h, w, config, *, xp):
    """h (B, T, D) -> q (B, H, T, Dh), scaled by 1 / sqrt(Dh)."""
    (q,), _ = heads_of(h, (w.attn.w_q,), w, config, xp=xp)
    return q * (1.0 / math.sqrt(q.shape[-1]))


def read_forward(q, rows, w, config, *, xp):
    """What queries q (B, H, T, Dh), scaled, read from rows (B, m, D) by content alone.

    softmax(q (rows W_k)^T) rows W_v -> (B, H, T, Dh), with the layer's own weights and LayerNorm.
    """
    weights = (w.attn.w_k, w.attn.w_v)
    (k, v), norm = heads_of(rows, weights, w, config, xp=xp)
    scores = xp.matmul(q, xp.matrix_transpose(k))  # (B, H, T, Dh) @ (B, H, Dh, m) -> (B, H, T, m)
    o, attend = attend_forward(scores, v, dropatt=0.0, rng=None, xp=xp)
    return o, ReadCache(norm, weights, q, attend)


def read_backward(do, cache: ReadCache, *, xp):
    """Return drows (B, m, D); all else is a constant."""
    ds, dv = attend_backward(do, cache.attend, xp=xp)
    dk = xp.matmul(xp.matrix_transpose(ds), cache.q)  # -> (B, H, m, Dh)
    drows: Any = 0.0
    for dy, weight in zip((dk, dv), cache.weights, strict=True):
        dy = merge_heads(dy, xp=xp)  # -> (B, m, H*Dh)
        b, m, width = dy.shape
        flat = linear_backward_input(xp.reshape(dy, (b * m, width)), weight, xp=xp)
        drows = drows + xp.reshape(flat, (b, m, -1))
    return drows if cache.norm is None else layer_norm_backward(drows, cache.norm, xp=xp)[0]


def attention_loss_forward(h, blocks, made, w, params, n, config, *, xp):
    """L = 1/(B T) sum |attn(h, old) - attn(h, new)|^2."""
    b, n_block, rate, d = blocks.shape
    q = queries(h, w, config, xp=xp)
    old, _ = read_forward(q, xp.reshape(blocks, (b, n_block * rate, d)), w, config, xp=xp)
    new, cache = read_forward(q, made, w, config, xp=xp)
    gap = new - old  # (B, H, T, Dh)
    return LossCache(_value(gap, b * h.shape[1], xp=xp), gap, cache)


def attention_loss_backward(cache: LossCache, grads, n, config, *, xp):
    """Return dmade: 2 (new - old) / (B T), back through the reading of `new` alone."""
    b, _, t, _ = cache.gap.shape
    return read_backward(cache.gap * (2.0 / (b * t)), cache.rest, xp=xp)


# --- auto-encoding ------------------------------------------------------------------------------


def autoencode_loss_forward(h, blocks, made, w, params, n, config, *, xp):
    """L = 1/(B n c) sum |old_i - (new + new A_i)|^2."""
    b, n_block, rate, d = blocks.shape
    kernel = xp.permute_dims(params[f"layers.{n}.memory.w_a"], (1, 0, 2))  # (c, D, D) -> (D, c, D)
    back, linear = linear_forward(made, xp.reshape(kernel, (d, rate * d)), xp=xp)  # all A_i at once
    gap = made[:, :, None, :] + xp.reshape(back, blocks.shape) - blocks  # (B, n, c, D)
    return LossCache(_value(gap, b * n_block * rate, xp=xp), gap, linear)


def autoencode_loss_backward(cache: LossCache, grads, n, config, *, xp):
    """Return dmade, and add the gradient of the A_i."""
    b, n_block, rate, d = cache.gap.shape
    dgap = cache.gap * (2.0 / (b * n_block * rate))
    # undo: back = new A_i
    dback = xp.reshape(dgap, (b, n_block, rate * d))
    dmade, dkernel, _ = linear_backward(dback, cache.rest, xp=xp)
    dkernel = xp.permute_dims(xp.reshape(dkernel, (d, rate, d)), (1, 0, 2))  # -> (c, D, D)
    grads[f"layers.{n}.memory.w_a"] += dkernel
    return xp.sum(dgap, axis=2) + dmade


LOSSES = {
    "attention": Loss(attention_loss_forward, attention_loss_backward),
    "autoencode": Loss(autoencode_loss_forward, autoencode_loss_backward),
}
