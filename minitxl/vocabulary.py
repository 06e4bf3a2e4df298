"""From token ids to vectors, and from vectors to losses: the two ends of the model.

Two kinds, each with the same five functions: `PLAIN`, one table that is embedding and softmax at
once, and `ADAPTIVE` (`adaptive.py`) for large vocabularies, projections and untied weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minitxl.adaptive import (
    Band,
    Cluster,
    adaptive_embedding_backward,
    adaptive_embedding_forward,
    adaptive_log_probs,
    adaptive_softmax_backward,
    adaptive_softmax_forward,
)
from minitxl.config import Config
from minitxl.ops import (
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
    """x = E[ids]."""
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

# --- adaptive: which parameters a band of the embedding and a cluster of the softmax use --------


def _edges(config: Config) -> list[tuple[int, int]]:
    stops = [*config.cutoffs, config.n_token]
    return list(zip([0, *config.cutoffs], stops, strict=True))


def adaptive_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Tables and projections by cluster: one of width E each, or E // div_val^i wide.

    With div_val 1 one table serves all clusters. What is tied stands under the embedding's name.
    """
    c, shapes = config, {}
    for i, (first, stop) in enumerate(_edges(c) if c.div_val > 1 else [(0, c.n_token)]):
        width = c.embed_width // c.div_val**i
        shapes[f"word_emb.{i}"] = (stop - first, width)
        shapes[f"out_bias.{i}"] = (stop - first,)
        if not c.tie_weight:
            shapes[f"out_emb.{i}"] = (stop - first, width)
        if c.has_projections:
            shapes[f"emb_proj.{i}"] = (width, c.d_model)
    if c.has_projections:
        for i in range(c.n_cluster):
            if not c.ties_projection(i):
                shapes[f"out_proj.{i}"] = (c.d_model, c.embed_width // c.div_val**i)
    if c.cutoffs:
        shapes["cluster_weight"] = (c.n_cluster - 1, c.embed_width)
        shapes["cluster_bias"] = (c.n_cluster - 1,)
    return shapes


def embedding_bands(params, config: Config) -> list[Band]:
    """Return the embedding's tables (from gradients: views of theirs)."""
    edges = _edges(config) if config.div_val > 1 else [(0, config.n_token)]
    return [
        Band(*edge, params[f"word_emb.{i}"], params.get(f"emb_proj.{i}"))
        for i, edge in enumerate(edges)
    ]


def softmax_clusters(params, config: Config) -> list[Cluster]:
    """Return the softmax's clusters, the head first and without its columns for the tails.

    From gradients: views of theirs, also where weight or projection are the embedding's.
    """
    table = "word_emb" if config.tie_weight else "out_emb"
    clusters = []
    for i, (first, stop) in enumerate(_edges(config)):
        if config.div_val > 1:
            weight, bias, own = params[f"{table}.{i}"], params[f"out_bias.{i}"], i
        else:  # one table for all: take this cluster's rows
            weight, bias = (params[f"{name}.0"][first:stop, ...] for name in (table, "out_bias"))
            own = 0
        proj = None
        if config.has_projections and config.ties_projection(i):
            proj = params[f"emb_proj.{own}"].T  # (E_i, D) -> (D, E_i)
        elif config.has_projections:
            proj = params[f"out_proj.{i}"]
        clusters.append(Cluster(first, stop, weight, bias, proj))
    return clusters


def _head_and_tails(params, config: Config, *, xp) -> tuple[Cluster, list[Cluster]]:
    head, *tails = softmax_clusters(params, config)
    if tails:  # the head's columns for the tails stand behind its words
        weight = xp.concat([head.weight, params["cluster_weight"]], axis=0)
        bias = xp.concat([head.bias, params["cluster_bias"]])
        head = head._replace(weight=weight, bias=bias)
    return head, tails


# --- adaptive: the five functions ---------------------------------------------------------------


def adaptive_embed_forward(params, ids, config, *, xp):
    """See `adaptive_embedding_forward`."""
    return adaptive_embedding_forward(ids, embedding_bands(params, config), xp=xp)


def adaptive_embed_backward(dx, cache, grads, config, *, scatter_add, xp):
    """Add the gradients of tables and projections."""
    bands = embedding_bands(grads, config)
    parts = adaptive_embedding_backward(dx, cache, scatter_add=scatter_add, xp=xp)
    for band, part in zip(bands, parts, strict=True):
        _add(band[2:], part)


def adaptive_nll_forward(params, h, targets, config, *, xp):
    """See `adaptive_softmax_forward`."""
    head, tails = _head_and_tails(params, config, xp=xp)
    return adaptive_softmax_forward(h, targets, head, tails, order=config.cluster_order, xp=xp)


def adaptive_nll_backward(dnll, cache, grads, config, *, xp):
    """Return dh; add the gradients of weights, biases and projections, tied or not."""
    dh, parts = adaptive_softmax_backward(dnll, cache, xp=xp)
    head, *tails = softmax_clusters(grads, config)
    dweight, dbias, dproj = parts[0]
    n = head.stop  # the head's own rows; those of the tails' columns follow
    _add(head[2:], (dweight[:n, :], dbias[:n], dproj))
    if tails:
        grads["cluster_weight"] += dweight[n:, :]
        grads["cluster_bias"] += dbias[n:]
    for tail, part in zip(tails, parts[1:], strict=True):
        _add(tail[2:], part)
    return dh


def _add(totals, parts) -> None:
    """Add gradients to views of the flat buffer, in place: tied parameters collect from both."""
    for total, part in zip(totals, parts, strict=True):
        if part is not None:
            total += part


def adaptive_log_probs_of(params, h, config, *, xp):
    """See `adaptive_log_probs`."""
    head, tails = _head_and_tails(params, config, xp=xp)
    return adaptive_log_probs(h, head, tails, order=config.cluster_order, xp=xp)


ADAPTIVE = Vocabulary(
    adaptive_shapes,
    adaptive_embed_forward,
    adaptive_embed_backward,
    adaptive_nll_forward,
    adaptive_nll_backward,
    adaptive_log_probs_of,
)
