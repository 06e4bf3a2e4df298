"""From token ids to vectors, and from vectors to losses: the two ends of the model.

Two kinds, each with the same five functions: `PLAIN`, one table that is embedding and softmax at
once, and `ADAPTIVE` (`adaptive.py`) for large vocabularies, projections and untied weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minitxl.config import Config
from minitxl.model.family.adaptive import (
    adaptive_embed_backward,
    adaptive_embed_forward,
    adaptive_log_probs_of,
    adaptive_nll_backward,
    adaptive_nll_forward,
    adaptive_shapes,
)
from minitxl.model.ops import (
    CrossEntropyCache,
    LinearCache,
    cross_entropy_backward,
    cross_entropy_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_forward,
    log_softmax,
)


class Vocabulary(NamedTuple):
    """The two ends of a model; ids are (N,), hidden states h (N, D), nll (N,) in nats."""

    shapes: Callable  # config -> name -> shape of the parameters
    embed_forward: Callable  # (params, ids, config, *, xp) -> x (N, D), cache
    embed_backward: Callable  # (dx, cache, grads, config, *, scatter_add, xp): adds to grads
    nll_forward: Callable  # (params, h, targets, config, *, xp) -> nll (N,), cache
    nll_backward: Callable  # (dnll, cache, grads, config, *, xp) -> dh (N, D); adds to grads
    log_probs: Callable  # (params, h, config, *, xp) -> (N, V)


def vocabulary_of(config: Config) -> Vocabulary:
    """Return the kind that a configuration asks for."""
    return PLAIN if config.is_plain else ADAPTIVE


# --- plain: logits = h E^T + b, with the embedding's own matrix E -------------------------------


class PlainCache(NamedTuple):
    linear: LinearCache
    loss: CrossEntropyCache


def plain_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """E and the softmax's bias."""
    return {"word_emb": (config.n_token, config.d_model), "out_bias": (config.n_token,)}


def plain_embed_forward(params, ids, config, *, xp):
    """x = E[ids]: h of layer 0 (sec. 3.3)."""
    return embedding_forward(ids, params["word_emb"], xp=xp)  # (N,) -> (N, D)


def plain_embed_backward(dx, cache, grads, config, *, scatter_add, xp):
    """Add dE: the same matrix also collects the softmax's gradient."""
    grads["word_emb"] += embedding_backward(dx, cache, scatter_add=scatter_add, xp=xp)


def _plain_logits(params, h, *, xp):
    return linear_forward(h, params["word_emb"].T, params["out_bias"], xp=xp)  # (N, D) -> (N, V)


def plain_nll_forward(params, h, targets, config, *, xp):
    """nll = cross entropy of the logits."""
    logits, linear = _plain_logits(params, h, xp=xp)
    nll, loss = cross_entropy_forward(logits, targets, xp=xp)
    return nll, PlainCache(linear, loss)


def plain_nll_backward(dnll, cache: PlainCache, grads, config, *, xp):
    """Return dh; add dE and the bias's gradient."""
    dlogits = cross_entropy_backward(dnll, cache.loss, xp=xp)
    dh, demb_t, dbias = linear_backward(dlogits, cache.linear, xp=xp)
    grads["word_emb"] += demb_t.T  # E is used twice: as softmax weights here, as embedding there
    grads["out_bias"] += dbias
    return dh


def plain_log_probs(params, h, config, *, xp):
    """log softmax of the logits."""
    return log_softmax(_plain_logits(params, h, xp=xp)[0], xp=xp)


PLAIN = Vocabulary(
    plain_shapes,
    plain_embed_forward,
    plain_embed_backward,
    plain_nll_forward,
    plain_nll_backward,
    plain_log_probs,
)

ADAPTIVE = Vocabulary(
    adaptive_shapes,
    adaptive_embed_forward,
    adaptive_embed_backward,
    adaptive_nll_forward,
    adaptive_nll_backward,
    adaptive_log_probs_of,
)
