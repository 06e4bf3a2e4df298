"""One layer of the model: attention and feed-forward, with LayerNorm after or before each."""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.backend.twins import has_twin
from minitxl.config import Config
from minitxl.model.attention import attention_backward, attention_forward
from minitxl.model.ops import (
    DropoutCache,
    LayerNormCache,
    LinearCache,
    ReluCache,
    dropout_backward,
    dropout_forward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    linear_forward,
    relu_backward,
    relu_forward,
)

Array = Any


class LayerWeights(NamedTuple):
    """The parameters of one layer; their gradients come in the same tuple."""

    attn: Any  # AttentionWeights, or those of another attention
    attn_gamma: Array  # (D,)
    attn_beta: Array  # (D,)
    w_1: Array  # (D, F)
    b_1: Array  # (F,)
    w_2: Array  # (F, D)
    b_2: Array  # (D,)
    ff_gamma: Array  # (D,)
    ff_beta: Array  # (D,)


# --- position-wise feed-forward -----------------------------------------------------------------


class FeedForwardCache(NamedTuple):
    linear_1: LinearCache
    relu: ReluCache
    dropout_1: DropoutCache
    linear_2: LinearCache
    dropout_2: DropoutCache


@has_twin
def feed_forward_forward(x, w_1, b_1, w_2, b_2, *, dropout, rng, xp):
    """y = dropout(dropout(relu(x w_1 + b_1)) w_2 + b_2) (sec. 3.3); (B, T, D) -> (B, T, D)."""
    y, linear_1 = linear_forward(x, w_1, b_1, xp=xp)  # (B, T, D) -> (B, T, F)
    y, relu = relu_forward(y, xp=xp)
    y, dropout_1 = dropout_forward(y, rate=dropout, rng=rng, xp=xp)
    y, linear_2 = linear_forward(y, w_2, b_2, xp=xp)  # (B, T, F) -> (B, T, D)
    y, dropout_2 = dropout_forward(y, rate=dropout, rng=rng, xp=xp)
    return y, FeedForwardCache(linear_1, relu, dropout_1, linear_2, dropout_2)


@has_twin
def feed_forward_backward(dy, cache: FeedForwardCache, *, xp):
    """Return dx, dw_1, db_1, dw_2, db_2."""
    dy = dropout_backward(dy, cache.dropout_2, xp=xp)
    dy, dw_2, db_2 = linear_backward(dy, cache.linear_2, xp=xp)
    dy = dropout_backward(dy, cache.dropout_1, xp=xp)
    dy = relu_backward(dy, cache.relu, xp=xp)
    dx, dw_1, db_1 = linear_backward(dy, cache.linear_1, xp=xp)
    return dx, dw_1, db_1, dw_2, db_2


# --- the layer ----------------------------------------------------------------------------------


class LayerCache(NamedTuple):
    config: Config
    n_mem: int
    attn: Any  # AttentionCache, or that of another attention
    attn_dropout: DropoutCache
    attn_norm: LayerNormCache
    ff: FeedForwardCache
    ff_norm: LayerNormCache


def layer_forward(
    h, pos, w: LayerWeights, mask, config: Config, *, n_mem, attend=attention_forward, **options
):
    """The Transformer-Layer of sec. 3.2: h (B, K, D) = [memory ; segment] -> (B, T, D), cache.

    n_mem: how many rows are memory; pos (K, D) = R; mask (T, K): 0, or -inf where a key is hidden.
    options: rng, xp, inspect, as in `attention_forward`; attend: that function, or another of its
    form (`family/`).
    """
    forward = _pre_norm_forward if config.pre_lnorm else _post_norm_forward
    return forward(h, pos, w, mask, config, n_mem=n_mem, attend=attend, **options)


def layer_backward(
    dy, cache: LayerCache, *, memory_rows=False, xp, attend_backward=attention_backward
):
    """Return dx (B, T, D), dmem (B, M, D) or None, and the gradients of the weights.

    dmem is None, the stopped gradient, unless memory_rows=True asks for what is otherwise cut.
    """
    backward = _pre_norm_backward if cache.config.pre_lnorm else _post_norm_backward
    dx, dh, dw = backward(dy, cache, memory_rows, attend_backward, xp=xp)
    # h = [mem ; x], and x was also used on its own, for queries and the residual sum: its
    # gradients add up.
    if not memory_rows:
        return dx + dh, None, dw
    n_mem = cache.n_mem
    return dx + dh[:, n_mem:, :], dh[:, :n_mem, :], dw


def _post_norm_forward(h, pos, w, mask, c, *, n_mem, attend, rng, xp, inspect=None):
    """a = LN(x + dropout(attn(x, h))), y = LN(a + FF(a)), as in the paper (sec. 3.3)."""
    x = h[:, n_mem:, :]  # (B, K, D) -> (B, T, D)
    eps = c.layer_norm_epsilon
    a, attn = attend(x, h, pos, w.attn, mask, dropatt=c.dropatt, rng=rng, xp=xp, inspect=inspect)
    a, attn_dropout = dropout_forward(a, rate=c.dropout, rng=rng, xp=xp)
    a, attn_norm = layer_norm_forward(x + a, w.attn_gamma, w.attn_beta, eps=eps, xp=xp)
    f, ff = feed_forward_forward(a, w.w_1, w.b_1, w.w_2, w.b_2, dropout=c.dropout, rng=rng, xp=xp)
    y, ff_norm = layer_norm_forward(a + f, w.ff_gamma, w.ff_beta, eps=eps, xp=xp)
    return y, LayerCache(c, n_mem, attn, attn_dropout, attn_norm, ff, ff_norm)


def _post_norm_backward(dy, cache, memory_rows, attend_backward, *, xp):
    # undo: y = LN(a + FF(a))
    ds, dff_gamma, dff_beta = layer_norm_backward(dy, cache.ff_norm, xp=xp)
    da, dw_1, db_1, dw_2, db_2 = feed_forward_backward(ds, cache.ff, xp=xp)
    da += ds
    # undo: a = LN(x + dropout(attn(x, h)))
    ds, dattn_gamma, dattn_beta = layer_norm_backward(da, cache.attn_norm, xp=xp)
    da = dropout_backward(ds, cache.attn_dropout, xp=xp)
    dx, dh, dattn = attend_backward(da, cache.attn, memory_rows=memory_rows, xp=xp)
    dx += ds
    dw = LayerWeights(dattn, dattn_gamma, dattn_beta, dw_1, db_1, dw_2, db_2, dff_gamma, dff_beta)
    return dx, dh, dw


def _pre_norm_forward(h, pos, w, mask, c, *, n_mem, attend, rng, xp, inspect=None):
    """a = x + dropout(attn(LN(h))), y = a + FF(LN(a)). The memory holds un-normalised states."""
    x = h[:, n_mem:, :]  # (B, K, D) -> (B, T, D)
    eps = c.layer_norm_epsilon
    normed, attn_norm = layer_norm_forward(h, w.attn_gamma, w.attn_beta, eps=eps, xp=xp)
    asking = x if c.released.raw_queries else normed[:, n_mem:, :]
    a, attn = attend(
        asking, normed, pos, w.attn, mask, dropatt=c.dropatt, rng=rng, xp=xp, inspect=inspect
    )
    a, attn_dropout = dropout_forward(a, rate=c.dropout, rng=rng, xp=xp)
    a = x + a
    normed, ff_norm = layer_norm_forward(a, w.ff_gamma, w.ff_beta, eps=eps, xp=xp)
    ff_weights = (w.w_1, w.b_1, w.w_2, w.b_2)
    f, ff = feed_forward_forward(normed, *ff_weights, dropout=c.dropout, rng=rng, xp=xp)
    return a + f, LayerCache(c, n_mem, attn, attn_dropout, attn_norm, ff, ff_norm)


def _pre_norm_backward(dy, cache, memory_rows, attend_backward, *, xp):
    n_mem = cache.n_mem
    # undo: y = a + FF(LN(a))
    dn, dw_1, db_1, dw_2, db_2 = feed_forward_backward(dy, cache.ff, xp=xp)
    dx, dff_gamma, dff_beta = layer_norm_backward(dn, cache.ff_norm, xp=xp)
    dx += dy
    # undo: a = x + dropout(attn(LN(h))). LN saw the memory's rows, so its gamma and beta get
    # gradients from all K rows (as w_k and w_v do), also when the memory itself gets none.
    da = dropout_backward(dx, cache.attn_dropout, xp=xp)
    dasking, dn, dattn = attend_backward(da, cache.attn, memory_rows=True, xp=xp)
    if cache.config.released.raw_queries:
        dx += dasking
    else:
        dn[:, n_mem:, :] += dasking
    dh, dattn_gamma, dattn_beta = layer_norm_backward(dn, cache.attn_norm, xp=xp)
    dw = LayerWeights(dattn, dattn_gamma, dattn_beta, dw_1, db_1, dw_2, db_2, dff_gamma, dff_beta)
    # Here is the stop, after LayerNorm's gradients: the memory's rows of dh are left out.
    return dx, (dh if memory_rows else dh[:, n_mem:, :]), dw
