"""The ways to tell attention where a key stands: one `Encoding` for each `attn_type`.

`network.py` goes through all of them in the same way; whoever keeps keys to read on (`inference`)
or shows them (`viz`) asks `position_terms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from minitxl.config import ALIBI, LEARNED, RELATIVE, ROPE, SHAW, SINUSOID, Config
from minitxl.model.attention import (
    AttentionWeights,
    attention_backward,
    attention_forward,
    position_keys,
)
from minitxl.model.family.absolute import (
    AbsoluteWeights,
    absolute_backward,
    absolute_forward,
    add_sinusoid_backward,
    add_sinusoid_forward,
    add_table_backward,
    add_table_forward,
)
from minitxl.model.family.alibi import alibi_backward, alibi_forward, linear_biases
from minitxl.model.family.rope import rope_backward, rope_forward, rotary_table, rotate_forward
from minitxl.model.family.shaw import (
    ShawWeights,
    shaw_backward,
    shaw_forward,
    shaw_position_keys,
)
from minitxl.model.ops import dropout_forward, sinusoid_table
from minitxl.model.params import position_biases


class Encoding(NamedTuple):
    """One way to encode positions."""

    weights: Any  # the NamedTuple of the attention block's weights
    attend: Callable  # config -> a function of `attention_forward`'s form
    attend_backward: Callable
    shared_shapes: Callable  # config -> name -> shape of what all layers share
    layer_shapes: Callable  # config -> name -> shape of a layer's own parameters of position
    positions: Callable  # (n_key, params, config, *, rng, xp) -> R with dropout, or None
    # (w, n_key, params, config, *, xp) -> r (H, K, Dh or 0), e (H, K): the score of a key at a
    # distance has (q . r + e) / sqrt(Dh) beside what the key itself gives. None: positions are part
    # of the states.
    position_terms: Callable | None
    # (h, n, params, config, *, rng, xp) -> h (B, K, D), and a cache or None
    add_forward: Callable | None = None
    # (dh, n, cache, grads, *, xp) -> dh (B, K, D); adds to grads
    add_backward: Callable | None = None
    # whether the embeddings meet their dropout before positions are added
    drops_embedding: bool = True
    # (x, place, step=1, *, xp) -> queries or keys x (B, H, L, Dh), turned to the places place,
    # place + step, ..., where the encoding turns them
    turn: Callable = lambda x, place, step=1, *, xp: x


def encoding_of(config: Config) -> Encoding:
    """Return the encoding that a configuration asks for."""
    return _ENCODINGS[config.attn_type]


def _nothing(config) -> dict:
    return {}


def _no_positions(n_key, params, config, *, rng, xp):
    return None


# --- type 0: relative, of this paper ------------------------------------------------------------


def _r(n_key, params, config, *, xp):
    return sinusoid_table(n_key, params.constants["inv_freq"], clamp_len=config.clamp_len, xp=xp)


def _relative_positions(n_key, params, config, *, rng, xp):
    pos = _r(n_key, params, config, xp=xp)
    return dropout_forward(pos, rate=config.dropout, rng=rng, xp=xp)[0]


def _relative_terms(w: AttentionWeights, n_key, params, config, *, xp):
    """Terms b and d: (q + v) . r = q . r + v . r."""
    r = position_keys(_r(n_key, params, config, xp=xp), w.w_r, n_head=config.n_head, xp=xp)
    return r, xp.sum(r * w.r_r_bias[:, None, :], axis=-1)  # (H, K, Dh) -> (H, K)


# --- type 1: relative, learned ------------------------------------------------------------------


def _shaw_shapes(config) -> dict:
    rows, heads = config.table_len, config.n_head
    biases = {"r_w_bias": (heads, config.d_head)}
    return biases | {"r_emb": (rows, heads, config.d_head), "r_bias": (rows, heads)}


def _shaw_terms(w: ShawWeights, n_key, params, config, *, xp):
    return shaw_position_keys(w, n_row=n_key, clamp_len=config.clamp_len, xp=xp)[:2]


# --- types 2 and 3: absolute --------------------------------------------------------------------


def _add_sinusoid(h, n, params, config, *, rng, xp):
    if n > 0:
        return h, None
    pos = _r(h.shape[1], params, config, xp=xp)
    return add_sinusoid_forward(h, pos, dropout=config.dropout, rng=rng, xp=xp)


def _add_sinusoid_backward(dh, n, cache, grads, *, xp):
    return add_sinusoid_backward(dh, cache, xp=xp)


def _table_shapes(config) -> dict:
    return {"pos_emb": (config.table_len, config.d_model)}


def _add_table(h, n, params, config, *, rng, xp):
    table = params[f"layers.{n}.pos_emb"]
    return add_table_forward(h, table, clamp_len=config.clamp_len, xp=xp)


def _add_table_backward(dh, n, cache, grads, *, xp):
    dh, dtable = add_table_backward(dh, cache, xp=xp)
    grads[f"layers.{n}.pos_emb"] += dtable
    return dh


# --- types 4 and 5: rotary, and linear biases ---------------------------------------------------


def _rotary_positions(n_key, params, config, *, rng, xp):
    distances = xp.arange(n_key - 1, -1, -1, device=params.flat.device)
    return rotary_table(distances, d_head=config.d_head, dtype=params.flat.dtype, xp=xp)


def _turn(x, place, step=1, *, xp):
    distances = -(place + step * xp.arange(x.shape[2], device=x.device))  # behind place 0
    table = rotary_table(distances, d_head=x.shape[3], dtype=x.dtype, xp=xp)
    return rotate_forward(x, table, xp=xp)[0]


def _rotary_terms(w, n_key, params, config, *, xp):
    """None but what the turned key itself gives."""
    where = dict(dtype=params.flat.dtype, device=params.flat.device)
    shape = (config.n_head, n_key)
    return xp.zeros((*shape, 0), **where), xp.zeros(shape, **where)


def _linear_positions(n_key, params, config, *, rng=None, xp):
    where = dict(dtype=params.flat.dtype, device=params.flat.device, xp=xp)
    return linear_biases(n_key, n_head=config.n_head, clamp_len=config.clamp_len, **where)


def _linear_terms(w, n_key, params, config, *, xp):
    e = _linear_positions(n_key, params, config, xp=xp) * math.sqrt(config.d_head)
    return xp.zeros((*e.shape, 0), dtype=e.dtype, device=e.device), e


_ENCODINGS = {
    RELATIVE: Encoding(
        weights=AttentionWeights,
        attend=lambda config: attention_forward,
        attend_backward=attention_backward,
        shared_shapes=lambda c: {} if c.untie_r else position_biases(c),
        layer_shapes=lambda c: position_biases(c) if c.untie_r else {},
        positions=_relative_positions,
        position_terms=_relative_terms,
    ),
    SHAW: Encoding(
        weights=ShawWeights,
        attend=lambda config: partial(shaw_forward, clamp_len=config.clamp_len),
        attend_backward=shaw_backward,
        shared_shapes=_nothing,
        layer_shapes=_shaw_shapes,
        positions=_no_positions,
        position_terms=_shaw_terms,
    ),
    SINUSOID: Encoding(
        weights=AbsoluteWeights,
        attend=lambda config: partial(absolute_forward, n_head=config.n_head),
        attend_backward=absolute_backward,
        shared_shapes=_nothing,
        layer_shapes=_nothing,
        positions=_no_positions,
        position_terms=None,
        add_forward=_add_sinusoid,
        add_backward=_add_sinusoid_backward,
        drops_embedding=False,
    ),
    LEARNED: Encoding(
        weights=AbsoluteWeights,
        attend=lambda config: partial(absolute_forward, n_head=config.n_head),
        attend_backward=absolute_backward,
        shared_shapes=_nothing,
        layer_shapes=_table_shapes,
        positions=_no_positions,
        position_terms=None,
        add_forward=_add_table,
        add_backward=_add_table_backward,
    ),
    ROPE: Encoding(
        weights=AbsoluteWeights,
        attend=lambda config: partial(rope_forward, n_head=config.n_head),
        attend_backward=rope_backward,
        shared_shapes=_nothing,
        layer_shapes=_nothing,
        positions=_rotary_positions,
        position_terms=_rotary_terms,
        turn=_turn,
    ),
    ALIBI: Encoding(
        weights=AbsoluteWeights,
        attend=lambda config: alibi_forward,
        attend_backward=alibi_backward,
        shared_shapes=_nothing,
        layer_shapes=_nothing,
        positions=_linear_positions,
        position_terms=_linear_terms,
    ),
}
