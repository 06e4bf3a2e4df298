"""From token ids to vectors, and from vectors to losses: the two ends of the model.

One matrix E is embedding and softmax at once. For large vocabularies `family/adaptive.py` has
functions of the same form.
"""

from __future__ import annotations

from typing import NamedTuple

from minitxl.config import Config
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


class LossCache(NamedTuple):
    linear: LinearCache
    loss: CrossEntropyCache


def end_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of E and of the softmax's bias."""
    return {"word_emb": (config.n_token, config.d_model), "out_bias": (config.n_token,)}


def embed_forward(params, ids, config, *, xp):
    """x = E[ids]: h of layer 0 (sec. 3.3), for ids (N,) -> (N, D)."""
    return embedding_forward(ids, params["word_emb"], xp=xp)


def embed_backward(dx, cache, grads, config, *, scatter_add, xp):
    """Add dE to grads: the same matrix also collects the softmax's gradient."""
    grads["word_emb"] += embedding_backward(dx, cache, scatter_add=scatter_add, xp=xp)


def _logits(params, h, *, xp):
    return linear_forward(h, params["word_emb"].T, params["out_bias"], xp=xp)  # (N, D) -> (N, V)


def nll_forward(params, h, targets, config, *, xp):
    """nll (N,) in nats = cross entropy of the logits h E^T + b, for h (N, D), targets (N,)."""
    logits, linear = _logits(params, h, xp=xp)
    nll, loss = cross_entropy_forward(logits, targets, xp=xp)
    return nll, LossCache(linear, loss)


def nll_backward(dnll, cache: LossCache, grads, config, *, xp):
    """Return dh (N, D); add dE and the bias's gradient to grads."""
    dlogits = cross_entropy_backward(dnll, cache.loss, xp=xp)
    dh, demb_t, dbias = linear_backward(dlogits, cache.linear, xp=xp)
    grads["word_emb"] += demb_t.T  # E is used twice: as softmax weights here, as embedding there
    grads["out_bias"] += dbias
    return dh


def log_probs(params, h, config, *, xp):
    """log softmax of the logits, for h (N, D) -> (N, V)."""
    return log_softmax(_logits(params, h, xp=xp)[0], xp=xp)
