"""The way through the layers with another memory: as `model/network.py`, with a `kinds.Memory`."""

from __future__ import annotations

import math

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.family.memories.compressive import Compressive
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.family.memories.matrix import Matrix
from minitxl.model.family.memories.tokens import Tokens
from minitxl.model.family.network import Ends, wired
from minitxl.model.layers import layer_backward, layer_forward
from minitxl.model.network import HiddenCache, Network, accumulate, segment_mask
from minitxl.model.ops import dropout_forward, sinusoid_table
from minitxl.model.params import layer_shapes, position_biases

KINDS = {"xl": Memory, "compressive": Compressive, "matrix": Matrix, "tokens": Tokens}


def with_memory(config: Config, ends: Ends, kind: type[Memory] | None = None) -> Network:
    """Return the functions of a model with the memory that a configuration asks for.

    kind: the class of a "custom" one. MinitxlError where that has none.
    """
    kind = kind or KINDS.get(config.memory.kind)
    if kind is None:
        raise MinitxlError(
            'memory kind="custom" is a class, which no file holds: give it by memory=...'
        )
    memory = kind(config)
    part = dict(memory=memory)
    return wired(ends, param_shapes, hidden_forward, hidden_backward, part, memory)


def param_shapes(config: Config, *, memory: Memory, ends: Ends) -> dict:
    """As `params.param_shapes`."""
    biases, c = position_biases(config), config
    shapes = ends.shapes(c) | ({} if c.untie_r else biases) | memory.shared_shapes()
    for n in range(c.n_layer):
        own = biases if c.untie_r else {}
        shapes |= layer_shapes(c, n, projections=("w_q", "w_k", "w_v", "w_r"), own=own)
        shapes |= memory.layer_shapes(n)
    return shapes


def hidden_forward(
    params, tokens, mems, config, *, rng, xp, inspect=None, keep=True, position_ids=None,
    memory: Memory, embed_forward,
):  # fmt: skip
    """As `network.hidden_forward`."""
    c, drop = config, dict(rng=rng, xp=xp)
    b, t = tokens.shape
    h, embedding = embed_forward(params, xp.reshape(tokens, (-1,)), c, xp=xp)
    h = xp.reshape(h, (b, t, c.d_model)) * math.sqrt(c.d_model)  # (B*T, D) -> (B, T, D)
    h, emb_dropout = dropout_forward(h, rate=c.dropout, **drop)
    h, entered = memory.enter(h, mems, params, xp=xp)
    n_mem = memory.rows(mems[0], xp=xp).shape[1]
    pos = sinusoid_table(
        n_mem + h.shape[1], params.constants["inv_freq"], clamp_len=c.clamp_len, xp=xp
    )
    pos, _ = dropout_forward(pos, rate=c.dropout, **drop)
    mask = segment_mask(h, n_mem, c, xp=xp)

    new_mems, layers, updates = [], [], []
    for n in range(c.n_layer):
        if inspect is not None:
            inspect.hidden.append(h)
        w = memory.weights(params, n, mems[n])
        both = xp.concat([memory.rows(mems[n], xp=xp), h], axis=1)  # [SG(m) ; h] -> (B, K, D)
        y, layer = layer_forward(
            both, pos, w, mask, c, n_mem=n_mem, attend=memory.attend, inspect=inspect, **drop
        )
        state, update = memory.update(mems[n], h, w, layer, params, n, xp=xp)
        new_mems.append(state)
        h = y
        if keep:
            layers.append(layer)
            updates.append(update)
    h, new_mems = memory.leave(h, new_mems)
    if inspect is not None:
        inspect.hidden.append(h)
    h, out_dropout = dropout_forward(h, rate=c.dropout, **drop)
    return (
        h,
        new_mems,
        HiddenCache(embedding, emb_dropout, layers, out_dropout, [entered, *updates]),
    )


def hidden_backward(
    dh, cache: HiddenCache, grads, config, *, xp, dleft=None, through=False, memory: Memory
):
    """As `network.hidden_backward`; dleft: one for each of the memories, as they are."""
    dh, dleft = memory.leave_backward(dh, dleft or [None] * config.n_layer, xp=xp)
    entered, *updates = cache.added or [None]
    dhidden, dmems = [dh], []
    for n in reversed(range(config.n_layer)):
        dh, dmem, dw = layer_backward(
            dh, cache.layers[n], memory_rows=through, xp=xp,
            attend_backward=memory.attend_backward(dleft[n]),
        )  # fmt: skip
        dstate, own = memory.update_backward(dleft[n], updates[n], dmem, dw, grads, n, xp=xp)
        dh = dh if own is None else dh + own
        accumulate(memory.parameters(memory.weights(grads, n, None)), memory.parameters(dw))
        dhidden.append(dh)
        dmems.append(dstate)
    first, dmems = memory.enter_backward(dh, dmems[::-1], entered, grads, xp=xp)
    return [first, *(memory.own_rows(dh) for dh in dhidden[-2::-1])], dmems


def memory_losses(cache) -> list:
    """Return the losses (0-d) by layer that train a compression in a `ModelCache`."""
    return [u.loss.value for u in cache.hidden.added if getattr(u, "loss", None) is not None]
