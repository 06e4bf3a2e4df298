"""The ways to tell attention where a key stands: one `Encoding` for each `attn_type`.

The model goes through all of them in the same way: `positions` once a segment, then in every layer
`add_forward`, which may add positions to the layer's input, and the attention itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minitxl.config import LEARNED, RELATIVE, SHAW, SINUSOID, Config
from minitxl.model.attention import AttentionWeights, attention_backward, attention_forward
from minitxl.model.family.absolute import (
    AbsoluteWeights,
    absolute_backward,
    absolute_forward,
    add_sinusoid_backward,
    add_sinusoid_forward,
    add_table_backward,
    add_table_forward,
)
from minitxl.model.family.shaw import ShawWeights, shaw_backward, shaw_forward
from minitxl.model.layers import Attention
from minitxl.model.ops import dropout_forward, sinusoid


class Encoding(NamedTuple):
    """One way to encode positions."""

    weights: type  # of the attention block, a NamedTuple
    attention: Attention
    layer_shapes: Callable  # config -> name -> shape of a layer's parameters of position
    positions: Callable  # (n_key, params, config, *, rng, xp) -> the attention's argument `pos`
    add_forward: Callable  # (h, n, params, config, *, rng, xp) -> h (B, K, D), cache or None
    add_backward: Callable  # (dh, n, cache, grads, *, xp) -> dh (B, K, D); adds to grads
    drops_embedding: bool  # whether the embeddings meet their dropout before positions are added


def encoding_of(config: Config) -> Encoding:
    """Return the encoding that a configuration asks for."""
    return _ENCODINGS[config.attn_type]


def sinusoid_table(n_key, params, config: Config, *, xp):
    """R (sec. 3.3) for the distances K-1 ... 0, from clamp_len on all alike -> (K, D)."""
    inv_freq = params.constants["inv_freq"]
    distances = xp.arange(n_key - 1, -1, -1, device=inv_freq.device)
    if config.clamp_len > 0:
        distances = xp.clip(distances, None, config.clamp_len)
    return sinusoid(distances, inv_freq, xp=xp)


def _nothing_added(h, n, params, config, *, rng, xp):
    return h, None


def _no_shapes(config) -> dict:
    return {}


# --- type 0: relative, of this paper ------------------------------------------------------------


def _relative_positions(n_key, params, config, *, rng, xp):
    """R with dropout; one table serves every layer, query and row of the batch."""
    pos = sinusoid_table(n_key, params, config, xp=xp)
    # R has no gradient, so its dropout mask is not kept.
    return dropout_forward(pos, rate=config.dropout, rng=rng, xp=xp)[0]


# --- type 1: relative, learned ------------------------------------------------------------------


def _shaw_shapes(config) -> dict:
    rows, heads = config.table_len, config.n_head
    biases = {"r_w_bias": (heads, config.d_head)}
    return biases | {"r_emb": (rows, heads, config.d_head), "r_bias": (rows, heads)}


def _clamp_len(n_key, params, config, *, rng, xp):
    return config.clamp_len


# --- types 2 and 3: absolute --------------------------------------------------------------------


def _n_head(n_key, params, config, *, rng, xp):
    return config.n_head


def _add_sinusoid(h, n, params, config, *, rng, xp):
    if n > 0:
        return h, None
    pos = sinusoid_table(h.shape[1], params, config, xp=xp)
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


_ABSOLUTE = Attention(absolute_forward, absolute_backward)
_ENCODINGS = {
    RELATIVE: Encoding(
        weights=AttentionWeights,
        attention=Attention(attention_forward, attention_backward),
        layer_shapes=_no_shapes,  # u and v stand with the model's: layers may share them
        positions=_relative_positions,
        add_forward=_nothing_added,
        add_backward=None,
        drops_embedding=True,
    ),
    SHAW: Encoding(
        weights=ShawWeights,
        attention=Attention(shaw_forward, shaw_backward),
        layer_shapes=_shaw_shapes,
        positions=_clamp_len,
        add_forward=_nothing_added,
        add_backward=None,
        drops_embedding=True,
    ),
    SINUSOID: Encoding(
        weights=AbsoluteWeights,
        attention=_ABSOLUTE,
        layer_shapes=_no_shapes,
        positions=_n_head,
        add_forward=_add_sinusoid,
        add_backward=_add_sinusoid_backward,
        drops_embedding=False,
    ),
    LEARNED: Encoding(
        weights=AbsoluteWeights,
        attention=_ABSOLUTE,
        layer_shapes=_table_shapes,
        positions=_n_head,
        add_forward=_add_table,
        add_backward=_add_table_backward,
        drops_embedding=True,
    ),
}
