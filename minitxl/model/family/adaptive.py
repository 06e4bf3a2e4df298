"""Adaptive embedding and adaptive softmax for large vocabularies (paper sec. 4.1; Grave et al.
2017, Baevski & Auli 2019), forward and backward.

Ids are sorted by frequency and cut into clusters at the cutoffs: the head holds the frequent
words, the tails the rare ones. The softmax first chooses among the head's words and, with one
column for each tail, the tails; only then within a tail:
  log p(word) = log p_head(word)                             for a word of the head
  log p(word) = log p_head(tail) + log p_tail(word)          for a word of a tail
So a rare word's tail is computed only where that word stands, and a tail's vectors may be
narrower than the head's. Words are worked on cluster by cluster and put back into the order of
the text by a permutation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.config import Config
from minitxl.model.ops import (
    CrossEntropyCache,
    EmbeddingCache,
    LinearCache,
    cross_entropy_backward,
    cross_entropy_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_forward,
    log_softmax,
)

Array = Any


# --- rows by cluster, and back ------------------------------------------------------------------


def rows_of(ids, first: int, stop: int, *, xp):
    """Return the places at which ids (N,) lie in [first, stop)."""
    return xp.nonzero((ids >= first) & (ids < stop))[0]


def project_forward(x, w, *, xp):
    """y = x w, or x itself where there is no projection (w None)."""
    return (x, None) if w is None else linear_forward(x, w, xp=xp)


def project_backward(dy, cache: LinearCache | None, *, xp):
    """Return dx and dw (None without a projection)."""
    return (dy, None) if cache is None else linear_backward(dy, cache, xp=xp)[:2]


# --- embedding ----------------------------------------------------------------------------------


class Band(NamedTuple):
    """A range of ids with a table of its own."""

    first: int
    stop: int
    table: Array  # (stop - first, E_i)
    proj: Array | None  # (E_i, D)


class AdaptiveEmbeddingCache(NamedTuple):
    rows: list  # of (N_i,): where the ids of each band stand
    tables: list[EmbeddingCache]
    projs: list


def adaptive_embedding_forward(tokens, bands, *, xp):
    """y[n] = table_i[tokens[n] - first_i] proj_i, i the id's band (sec. 4.1); (N,) -> (N, D)."""
    rows, tables, projs, parts = [], [], [], []
    for band in bands:
        where = rows_of(tokens, band.first, band.stop, xp=xp)
        ids = xp.take(tokens, where) - band.first
        e, table = embedding_forward(ids, band.table, xp=xp)  # (N_i,) -> (N_i, E_i)
        y, proj = project_forward(e, band.proj, xp=xp)  # -> (N_i, D)
        rows.append(where)
        tables.append(table)
        projs.append(proj)
        parts.append(y)
    order = xp.concat(rows)  # the k-th row by band is the order[k]-th of the text
    y = xp.take(xp.concat(parts, axis=0), xp.argsort(order), axis=0)  # (N, D) in the text's order
    return y, AdaptiveEmbeddingCache(rows, tables, projs)


def adaptive_embedding_backward(dy, cache: AdaptiveEmbeddingCache, *, scatter_add, xp):
    """Return a pair (dtable, dproj) for every band; dproj is None where there is no projection."""
    grads = []
    for where, table, proj in zip(*cache, strict=True):
        de, dproj = project_backward(xp.take(dy, where, axis=0), proj, xp=xp)
        grads.append((embedding_backward(de, table, scatter_add=scatter_add, xp=xp), dproj))
    return grads


# --- softmax ------------------------------------------------------------------------------------


class Cluster(NamedTuple):
    """The softmax of a range of ids; the head's has a column more for each tail."""

    first: int
    stop: int
    weight: Array  # (n_i, E_i)
    bias: Array  # (n_i,)
    proj: Array | None  # (D, E_i)


class ClusterCache(NamedTuple):
    rows: Array | None  # (N_i,): where the targets of this tail stand; None for the head: all
    proj: LinearCache | None
    linear: LinearCache
    loss: CrossEntropyCache


class AdaptiveSoftmaxCache(NamedTuple):
    head: ClusterCache
    tails: list[ClusterCache]
    place: Array | None  # (N,): where each word of the text is among the words by cluster


def tail_columns(n_head: int, n_tail: int, order: str) -> list[int]:
    """Return the head's column for every tail, behind the n_head columns of the head's words.

    "natural" counts up (the TF code, Hugging Face), "reversed" down (the released PyTorch code).
    """
    columns = list(range(n_head, n_head + n_tail))
    return columns[::-1] if order == "reversed" else columns


def adaptive_softmax_forward(h, targets, head: Cluster, tails, *, order, xp):
    """nll[n] = -log p(targets[n] | h[n]) in nats (sec. 4.1); h (N, D), targets (N,) -> (N,).

    head.weight (n_head + n_tail, E) and bias hold the columns of the tails at their end; order
    says in which order (`tail_columns`).
    """
    columns = tail_columns(head.stop, len(tails), order)
    column = targets  # of the head, for every target: the word's own, or that of its tail
    for tail, c in zip(tails, columns, strict=True):
        inside = (targets >= tail.first) & (targets < tail.stop)
        column = xp.where(inside, xp.asarray(c, dtype=targets.dtype, device=targets.device), column)
    nll, head_cache = _cluster_forward(h, column, head, None, xp=xp)
    if not tails:
        return nll, AdaptiveSoftmaxCache(head_cache, [], None)

    rows, caches = [rows_of(targets, 0, head.stop, xp=xp)], []
    parts = [xp.zeros(rows[0].shape, dtype=nll.dtype, device=nll.device)]  # the head's: no tail
    for tail in tails:
        where = rows_of(targets, tail.first, tail.stop, xp=xp)
        ids = xp.take(targets, where) - tail.first
        part, cache = _cluster_forward(xp.take(h, where, axis=0), ids, tail, where, xp=xp)
        rows.append(where)
        parts.append(part)
        caches.append(cache)
    place = xp.argsort(xp.concat(rows))
    nll += xp.take(xp.concat(parts), place)  # by cluster -> in the order of the text
    return nll, AdaptiveSoftmaxCache(head_cache, caches, place)


def _cluster_forward(h, ids, cluster: Cluster, where, *, xp):
    """nll (N_i,) of ids within one cluster, for h (N_i, D)."""
    z, proj = project_forward(h, cluster.proj, xp=xp)  # (N_i, D) -> (N_i, E_i)
    logits, linear = linear_forward(z, cluster.weight.T, cluster.bias, xp=xp)  # -> (N_i, n_i)
    nll, loss = cross_entropy_forward(logits, ids, xp=xp)
    return nll, ClusterCache(where, proj, linear, loss)


def adaptive_softmax_backward(dnll, cache: AdaptiveSoftmaxCache, *, xp):
    """Return dh (N, D) and, for the head and every tail, (dweight, dbias, dproj)."""
    dh, *dw = _cluster_backward(dnll, cache.head, xp=xp)
    grads = [tuple(dw)]
    if not cache.tails:
        return dh, grads
    parts = []
    for tail in cache.tails:
        part, *dw = _cluster_backward(xp.take(dnll, tail.rows), tail, xp=xp)  # (N_i, D)
        grads.append(tuple(dw))
        parts.append(part)
    n_head = dh.shape[0] - sum(part.shape[0] for part in parts)
    parts.insert(0, xp.zeros((n_head, dh.shape[1]), dtype=dh.dtype, device=dh.device))
    dh += xp.take(xp.concat(parts, axis=0), cache.place, axis=0)  # -> in the order of the text
    return dh, grads


def _cluster_backward(dnll, cache: ClusterCache, *, xp):
    dlogits = cross_entropy_backward(dnll, cache.loss, xp=xp)
    dz, dweight_t, dbias = linear_backward(dlogits, cache.linear, xp=xp)
    dh, dproj = project_backward(dz, cache.proj, xp=xp)
    return dh, dweight_t.T, dbias, dproj


def adaptive_log_probs(h, head: Cluster, tails, *, order, xp):
    """Return log p (N, V) of every word, for h (N, D)."""
    z, _ = project_forward(h, head.proj, xp=xp)
    first = log_softmax(linear_forward(z, head.weight.T, head.bias, xp=xp)[0], xp=xp)
    parts = [first[:, : head.stop]]
    for tail, c in zip(tails, tail_columns(head.stop, len(tails), order), strict=True):
        z, _ = project_forward(h, tail.proj, xp=xp)
        inside = log_softmax(linear_forward(z, tail.weight.T, tail.bias, xp=xp)[0], xp=xp)
        parts.append(first[:, c : c + 1] + inside)  # (N, 1) + (N, n_i)
    return xp.concat(parts, axis=1)


# --- which parameters of the model a band of the embedding and a cluster of the softmax use -----


def _edges(config: Config) -> list[tuple[int, int]]:
    stops = [*config.cutoffs, config.n_token]
    return list(zip([0, *config.cutoffs], stops, strict=True))


def adaptive_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Tables and projections by cluster: one of width E each, or E // div_val^i wide.

    With div_val 1 one table serves all clusters. What is tied stands under the embedding's name.
    """
    c = config
    shapes: dict[str, tuple[int, ...]] = {}
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


# --- the two ends of the model (`embedding.py`) -------------------------------------------------


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
    return adaptive_softmax_forward(
        h, targets, head, tails, order=config.released.cluster_order, xp=xp
    )


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
    return adaptive_log_probs(h, head, tails, order=config.released.cluster_order, xp=xp)
