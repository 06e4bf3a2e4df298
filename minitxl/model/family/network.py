"""The family's way through the layers: as `model/network.py`, with the parts of a configuration.

What differs is in two tables: `encodings.py` for positions, `ENDS` here for vocabularies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from minitxl.config import Config
from minitxl.model import embedding, network
from minitxl.model.family import adaptive
from minitxl.model.family.encodings import Encoding, encoding_of
from minitxl.model.layers import layer_backward, layer_forward
from minitxl.model.network import (
    HiddenCache,
    Network,
    accumulate,
    segment_mask,
    update_mems,
    update_mems_backward,
)
from minitxl.model.ops import dropout_forward
from minitxl.model.params import layer_shapes, layer_weights


class Ends(NamedTuple):
    """The two ends of a model, with the arguments of the functions of `embedding.py`."""

    shapes: Callable
    embed_forward: Callable
    embed_backward: Callable
    nll_forward: Callable
    nll_backward: Callable
    log_probs: Callable


PLAIN = Ends(
    embedding.end_shapes,
    embedding.embed_forward,
    embedding.embed_backward,
    embedding.nll_forward,
    embedding.nll_backward,
    embedding.log_probs,
)
ADAPTIVE = Ends(
    adaptive.adaptive_shapes,
    adaptive.adaptive_embed_forward,
    adaptive.adaptive_embed_backward,
    adaptive.adaptive_nll_forward,
    adaptive.adaptive_nll_backward,
    adaptive.adaptive_log_probs_of,
)


def ends_of(config: Config) -> Ends:
    """Return the ends that a configuration asks for."""
    return PLAIN if config.is_plain else ADAPTIVE


def member(config: Config) -> Network:
    """Return the functions of a model: those of `model/network.py`, around other parts."""
    return network_with(encoding_of(config), ends_of(config))


def network_with(encoding: Encoding, ends: Ends) -> Network:
    """Return the functions of a model with this encoding and these ends."""
    part = dict(encoding=encoding)
    return wired(ends, param_shapes, hidden_forward, hidden_backward, part)


def wired(
    ends: Ends, shapes: Callable, walk: Callable, walk_back: Callable, part: dict, memory=None
) -> Network:
    """Return the functions of `model/network.py` around a way through the layers and two ends.

    shapes, walk, walk_back: of the forms of `param_shapes`, `hidden_forward`, `hidden_backward`
    below; part: what they take beside.
    """
    forward = partial(walk, embed_forward=ends.embed_forward, **part)
    return Network(
        partial(shapes, ends=ends, **part),
        partial(network.forward, hidden_forward=forward, nll_forward=ends.nll_forward),
        partial(network.log_probs_forward, hidden_forward=forward, log_probs=ends.log_probs),
        partial(
            network.backward,
            hidden_backward=partial(walk_back, **part),
            nll_backward=ends.nll_backward,
            embed_backward=ends.embed_backward,
        ),
        memory,
    )


def param_shapes(config: Config, *, encoding: Encoding, ends: Ends) -> dict:
    """As `params.param_shapes`."""
    projections = [name for name in encoding.weights._fields if name.startswith("w_")]
    projections.remove("w_o")
    shapes = ends.shapes(config) | encoding.shared_shapes(config)
    own = encoding.layer_shapes(config)
    for n in range(config.n_layer):
        shapes |= layer_shapes(config, n, projections=projections, own=own)
    return shapes


def hidden_forward(
    params, tokens, mems, config, *, rng, xp, inspect=None, keep=True, position_ids=None,
    encoding: Encoding, embed_forward: Callable,
):  # fmt: skip
    """As `network.hidden_forward`."""
    c, drop = config, dict(rng=rng, xp=xp)
    (b, t), n_mem = tokens.shape, mems[0].shape[1]
    h, embedding = embed_forward(params, xp.reshape(tokens, (-1,)), c, xp=xp)
    h = xp.reshape(h, (b, t, c.d_model)) * math.sqrt(c.d_model)  # (B*T, D) -> (B, T, D)
    rate = c.dropout if encoding.drops_embedding else 0.0
    h, emb_dropout = dropout_forward(h, rate=rate, **drop)
    pos = encoding.positions(n_mem + t, params, c, **drop)
    mask = segment_mask(h, n_mem, c, position_ids, xp=xp)
    options = dict(n_mem=n_mem, attend=encoding.attend(c), inspect=inspect, **drop)

    new_mems, layers, added = [], [], []
    for n in range(c.n_layer):
        if inspect is not None:
            inspect.hidden.append(h)
        both = xp.concat([mems[n], h], axis=1)  # [SG(m) ; h] -> (B, K, D)
        new_mems.append(update_mems(both, n_mem=n_mem, config=c, xp=xp))
        add_cache = None
        if encoding.add_forward is not None:  # absolute positions, when the states are read
            both, add_cache = encoding.add_forward(both, n, params, c, **drop)
        h, cache = layer_forward(
            both, pos, layer_weights(params, n, encoding.weights), mask, c, **options
        )
        if keep:
            layers.append(cache)
            added.append(add_cache)
    if inspect is not None:
        inspect.hidden.append(h)
    h, out_dropout = dropout_forward(h, rate=c.dropout, **drop)
    return h, new_mems, HiddenCache(embedding, emb_dropout, layers, out_dropout, added)


def hidden_backward(
    dh, cache: HiddenCache, grads, config, *, xp, dleft=None, through=False, encoding: Encoding
):
    """As `network.hidden_backward`."""
    dhidden, dmems = [dh], []
    for n in reversed(range(config.n_layer)):
        added = cache.added[n] if cache.added else None
        n_mem, n_new = cache.layers[n].n_mem, dh.shape[1]
        rows = through or added is not None  # a table of positions serves the memory's rows too
        dh, dmem, dw = layer_backward(
            dh, cache.layers[n], memory_rows=rows, xp=xp, attend_backward=encoding.attend_backward
        )
        if added is not None and encoding.add_backward is not None:
            both = xp.concat([dmem, dh], axis=1)  # (B, M, D), (B, T, D) -> (B, K, D)
            both = encoding.add_backward(both, n, added, grads, xp=xp)
            dmem, dh = (both[:, :n_mem, :] if through else None), both[:, n_mem:, :]
        if dleft is not None:
            past, own = update_mems_backward(
                dleft[n], n_mem=n_mem, n_new=n_new, config=config, xp=xp
            )
            dmem, dh = dmem + past, dh + own
        accumulate(layer_weights(grads, n, encoding.weights), dw)
        dhidden.append(dh)
        dmems.append(dmem)
    return dhidden[::-1], dmems[::-1]
