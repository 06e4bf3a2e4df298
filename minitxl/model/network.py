"""The network of the paper: forward, backward, memory update (sec. 3.2 and 3.3).

Pure functions of data, so that threads, processes or devices can each run a piece of the batch and
add up their gradients. The object around them is in `transformer_xl.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from minitxl.backend.twins import has_twin
from minitxl.config import Config
from minitxl.model.attention import additive_mask, attention_mask
from minitxl.model.embedding import (
    embed_backward,
    embed_forward,
    log_probs,
    nll_backward,
    nll_forward,
)
from minitxl.model.layers import LayerCache, LayerWeights, layer_backward, layer_forward
from minitxl.model.ops import DropoutCache, dropout_backward, dropout_forward, sinusoid_table
from minitxl.model.params import Params, layer_weights, param_shapes

# --- the memory ---------------------------------------------------------------------------------


def kept_rows(*, n_mem, n_new, config: Config) -> tuple[int, int]:
    """Return (first, stop): which of the M + T rows [mem ; h] are the next segment's memory.

    The last ext_len rows stay out: the next segment begins by reading those tokens again.
    """
    if config.released.ext_len_swapped:  # the same, unless ext_len exceeds one of the two
        n_mem, n_new = n_new, n_mem
    stop = n_mem + max(0, n_new - config.ext_len)
    return max(0, stop - config.mem_len), stop


@has_twin
def update_mems(both, *, n_mem, config: Config, xp):
    """Return the last mem_len rows of both = [mem ; h] (B, M + T, D) -> (B, <= mem_len, D).

    The memory holds *layer inputs* (hidden states), not keys or values (sec. 3.2); see `kept_rows`.
    """
    first, stop = kept_rows(n_mem=n_mem, n_new=both.shape[1] - n_mem, config=config)
    return both[:, first:stop, :]


def update_mems_backward(dkept, *, n_mem, n_new, config: Config, xp):
    """Put the rows back where they were cut out: (B, <= mem_len, D) -> (B, M, D), (B, T, D)."""
    first, stop = kept_rows(n_mem=n_mem, n_new=n_new, config=config)
    (b, _, d), like = dkept.shape, dict(dtype=dkept.dtype, device=dkept.device)
    rest = (xp.zeros((b, n, d), **like) for n in (first, n_mem + n_new - stop))  # forgotten: 0
    both = xp.concat([next(rest), dkept, next(rest)], axis=1)  # -> (B, M + T, D)
    return both[:, :n_mem, :], both[:, n_mem:, :]


# --- forward ------------------------------------------------------------------------------------


class HiddenCache(NamedTuple):
    """What backward reads of the way from the ids to h_N."""

    embedding: Any
    emb_dropout: DropoutCache
    layers: list[LayerCache]
    out_dropout: DropoutCache
    added: list | None = None  # what the family keeps beside: positions added, memories' updates


class ModelCache(NamedTuple):
    """What `backward` reads."""

    hidden: HiddenCache
    loss: Any
    shape: tuple[int, int]  # (B, T) of the tokens
    n_target: int  # S: the loss is that of the last S positions


def hidden_forward(
    params, tokens, mems, config, *, rng, xp, inspect=None, keep=True, position_ids=None
):
    """Return h_N after its dropout (B, T, D), the new memories, and the cache (if keep)."""
    c, drop = config, dict(rng=rng, xp=xp)
    (b, t), n_mem = tokens.shape, mems[0].shape[1]

    # h_0 = dropout(sqrt(D) E[x]). E also is the softmax's matrix and so starts small (0.02);
    # sqrt(D) brings its rows to the size that a layer's input should have.
    h, embedding = embed_forward(params, xp.reshape(tokens, (-1,)), c, xp=xp)
    h = xp.reshape(h, (b, t, c.d_model)) * math.sqrt(c.d_model)  # (B*T, D) -> (B, T, D)
    h, emb_dropout = dropout_forward(h, rate=c.dropout, **drop)

    # R, for all layers, queries and rows of the batch. It has no gradient: no mask is kept.
    inv_freq = params.constants["inv_freq"]
    pos = sinusoid_table(n_mem + t, inv_freq, clamp_len=c.clamp_len, xp=xp)  # (K, D)
    pos, _ = dropout_forward(pos, rate=c.dropout, **drop)
    mask = segment_mask(h, n_mem, c, position_ids, xp=xp)  # (T, K) or (B, 1, T, K)

    new_mems, layers = [], []
    for n in range(c.n_layer):
        if inspect is not None:
            inspect.hidden.append(h)
        # What this layer reads now is what it will remember: the input h of layer n. In the next
        # segment layer n reads these states again, so every layer reaches one memory further.
        both = xp.concat([mems[n], h], axis=1)  # h~ = [SG(m) ; h] (sec. 3.2, 3.3) -> (B, K, D)
        new_mems.append(update_mems(both, n_mem=n_mem, config=c, xp=xp))
        w = layer_weights(params, n)
        h, cache = layer_forward(both, pos, w, mask, c, n_mem=n_mem, inspect=inspect, **drop)
        if keep:
            layers.append(cache)
    if inspect is not None:
        inspect.hidden.append(h)
    # No LayerNorm here, under pre_lnorm neither: the released code has none.
    h, out_dropout = dropout_forward(h, rate=c.dropout, **drop)
    return h, new_mems, HiddenCache(embedding, emb_dropout, layers, out_dropout)


def segment_mask(h, n_mem: int, config: Config, position_ids=None, *, xp):
    """The additive mask (T, M + T) of a segment's states h (B, T, D).

    With position_ids (B, T), the places of the tokens in their documents, it is (B, 1, T, M + T),
    the same for all heads: token p of a document sees itself and the p before it, no other's.
    """
    max_keys = config.most_keys if config.same_length else None
    where = dict(n_query=h.shape[1], n_mem=n_mem, device=h.device, xp=xp)
    mask = attention_mask(max_keys=max_keys, **where)
    if position_ids is not None:
        mask = mask | attention_mask(max_keys=position_ids[:, None, :, None] + 1, **where)
    return additive_mask(mask, dtype=h.dtype, xp=xp)


def _last_rows(h, n, *, xp):
    """(B, T, D) -> (B*n, D): the rows of the last n positions."""
    return xp.reshape(h[:, h.shape[1] - n :, :], (-1, h.shape[-1]))


def forward(
    params, tokens, targets, mems, config: Config, *, rng, xp, inspect=None, keep=True,
    position_ids=None, hidden_forward=hidden_forward, nll_forward=nll_forward,
):  # fmt: skip
    """Return nll (B, S) in nats, the new memories, and the cache for `backward` (if keep).

    tokens (B, T), targets (B, S) integers, S <= T: the targets of the last S positions (S = T/2 is
    the loss on half of sec. 4.2); mems: n_layer arrays (B, M, D), M = 0 at a stream's start;
    position_ids: see `segment_mask`. The last two arguments are the paper's own functions, unless a
    member of the family or a reader brings others of their form.
    """
    n_target = targets.shape[1]
    h, new_mems, hidden = hidden_forward(
        params, tokens, mems, config, rng=rng, xp=xp, inspect=inspect, keep=keep,
        position_ids=position_ids,
    )  # fmt: skip
    h = _last_rows(h, n_target, xp=xp)  # (B, T, D) -> (B*S, D)
    nll, loss = nll_forward(params, h, xp.reshape(targets, (-1,)), config, xp=xp)
    cache = ModelCache(hidden, loss, tokens.shape, n_target) if keep else None
    return xp.reshape(nll, targets.shape), new_mems, cache


def log_probs_forward(
    params, tokens, mems, config: Config, *, xp, inspect=None, last=None, position_ids=None,
    hidden_forward=hidden_forward, log_probs=log_probs,
):  # fmt: skip
    """Return log-probabilities (B, last or T, V) of the next token, and the new memories."""
    b, t = tokens.shape
    h, new_mems, _ = hidden_forward(
        params, tokens, mems, config, rng=None, xp=xp, inspect=inspect, keep=False,
        position_ids=position_ids,
    )  # fmt: skip
    n = t if last is None else min(last, t)
    log_p = log_probs(params, _last_rows(h, n, xp=xp), config, xp=xp)
    return xp.reshape(log_p, (b, n, -1)), new_mems


# --- backward -----------------------------------------------------------------------------------


class Gradients(NamedTuple):
    """What `backward` finds on its way down."""

    params: Params
    hidden: list  # N + 1 of (B, T, D): dLoss/dh_0 ... dLoss/dh_N
    mems: list  # N of (B, M, D), or None each where the gradient is stopped


def hidden_backward(dh, cache: HiddenCache, grads, config, *, xp, dleft=None, through=False):
    """Return dLoss/dh_0 ... dLoss/dh_N and the memories' gradients, for dh = dLoss/dh_N.

    Adds the layers' gradients to `grads`. dleft, through: see `backward`.
    """
    dhidden, dmems = [dh], []
    for n in reversed(range(config.n_layer)):
        n_mem, n_new = cache.layers[n].n_mem, dh.shape[1]
        dh, dmem, dw = layer_backward(dh, cache.layers[n], memory_rows=through, xp=xp)
        if dleft is not None:  # undo: memory left = last rows of [memory found ; h]
            past, own = update_mems_backward(
                dleft[n], n_mem=n_mem, n_new=n_new, config=config, xp=xp
            )
            dmem, dh = dmem + past, dh + own
        accumulate(layer_weights(grads, n), dw)
        dhidden.append(dh)
        dmems.append(dmem)
    return dhidden[::-1], dmems[::-1]


def accumulate(grads: LayerWeights, dw: LayerWeights) -> None:
    """Add one layer's gradients to the buffer: u and v, shared by the layers, collect from all."""
    for total, part in zip((*grads.attn, *grads[1:]), (*dw.attn, *dw[1:]), strict=True):
        total += part  # `total` is a view into the flat buffer


def backward(
    params, dnll, cache: ModelCache, config: Config, *, scatter_add, xp, dleft=None, through=False,
    hidden_backward=hidden_backward, nll_backward=nll_backward, embed_backward=embed_backward,
) -> Gradients:  # fmt: skip
    """Back-propagate dnll (B, S) = dLoss/dnll through one segment.

    Memory is a constant (stopped gradient, sec. 3.2). For experiments and pictures,
    through=True also returns the gradient into the memories that were found, and then `dleft`
    takes that into the memories that this segment *left*, which the next one returned.
    """
    grads = params.zeros_like()
    (b, t), n_target, hidden = cache.shape, cache.n_target, cache.hidden
    # undo: nll = the softmax's loss of the last S rows of dropout(h_N)
    dh = nll_backward(xp.reshape(dnll, (-1,)), cache.loss, grads, config, xp=xp)
    dh = xp.reshape(dh, (b, n_target, -1))  # (B*S, D) -> (B, S, D)
    if n_target < t:
        unread = xp.zeros((b, t - n_target, dh.shape[2]), dtype=dh.dtype, device=dh.device)
        dh = xp.concat([unread, dh], axis=1)  # -> (B, T, D)
    dh = dropout_backward(dh, hidden.out_dropout, xp=xp)
    # undo: the layers
    dhidden, dmems = hidden_backward(dh, hidden, grads, config, xp=xp, dleft=dleft, through=through)
    # undo: h_0 = dropout(sqrt(D) E[x])
    dh = dropout_backward(dhidden[0], hidden.emb_dropout, xp=xp) * math.sqrt(config.d_model)
    dx = xp.reshape(dh, (b * t, -1))  # (B, T, D) -> (B*T, D)
    embed_backward(dx, hidden.embedding, grads, config, scatter_add=scatter_add, xp=xp)
    return Gradients(grads, dhidden, dmems)


# --- together -----------------------------------------------------------------------------------


class Network(NamedTuple):
    """What stands behind a `TransformerXL`."""

    param_shapes: Callable
    forward: Callable
    log_probs_forward: Callable
    backward: Callable
    memory: Any = None  # another than the paper's: a `family.memories.kinds.Memory`


PAPER = Network(param_shapes, forward, log_probs_forward, backward)
