"""The gradient over several segments: stopped at the memory, or let through."""

from __future__ import annotations

from typing import Any, NamedTuple

from minitxl.errors import MinitxlError
from minitxl.model.network import ModelCache
from minitxl.model.ops import LinearCache
from minitxl.model.params import Params
from minitxl.model.transformer_xl import TransformerXL


class SequenceGradients(NamedTuple):
    """What `sequence_gradients` finds in S segments."""

    nll: list[Any]  # S of (B, T), in nats
    params: Params  # dLoss/dparameter, added up over the segments
    hidden: list[list]  # S of N + 1 of (B, T, D): dLoss/dh_0 ... dLoss/dh_N
    mems: list  # the memories that the last segment left


def hidden_gradients(model: TransformerXL, segments, through_memory=False, dnll=None) -> list:
    """Return d loss / d h_n for every segment and layer, with the gradient stopped or not.

    segments: consecutive (tokens, targets), (B, T) and (B, S). The loss is nll.mean() of the *last*
    one (or sum(nll * dnll)). Returns a list over segments of lists over n = 0 ... N of (B, T, D).
    With through_memory=False (the model as it is trained) everything before the last segment is
    0. With True the gradient also flows through the cached states into the segments they came
    from: full back-propagation through time, which Transformer-XL leaves out.
    """
    segments = list(segments)
    if dnll is None:
        back, (b, s) = model.backend, segments[-1][1].shape
        dnll = back.xp.full((b, s), 1.0 / (b * s), dtype=back.dtype, device=back.device)
    upstream = [None] * (len(segments) - 1) + [dnll]
    return sequence_gradients(model, segments, upstream, through_memory).hidden


def sequence_gradients(
    model: TransformerXL, segments, upstream, through_memory=False, mems=None
) -> SequenceGradients:
    """Back-propagate sum(nll * upstream) over consecutive segments, which begin with mems.

    segments: (tokens, targets), (B, T) and (B, S), each; upstream: dLoss/dnll (B, S) of each
    segment, or None where its nll is no part of the loss; mems: None at a stream's start. With
    through_memory=False the memory is a constant to every segment's loss (sec. 3.2: the gradients
    are those of training segment by segment, all with the same weights); with True the gradient
    of a later segment's loss also flows through the states kept by these segments. A loss that
    trains a compression counts 1 for every segment that is gone back through. Raises MinitxlError
    where the numbers of segments differ.
    """
    segments, upstream = list(segments), list(upstream)
    if len(segments) != len(upstream):
        raise MinitxlError(
            f"{len(segments)} segments with {len(upstream)} upstream gradients: give one each, "
            "None for a segment without loss"
        )
    xp, c = model.backend.xp, model.config
    where = dict(dtype=model.backend.dtype, device=model.backend.device)
    passes = []
    for tokens, targets in segments:
        nll, mems, cache = model.forward(tokens, targets, mems)
        passes.append((nll, cache))

    total, hidden = model.params.zeros_like(), []
    dmems = None  # what the later segments send into the memory that this one left
    for (_, cache), dnll in zip(reversed(passes), reversed(upstream), strict=True):
        b, t = cache.shape
        if dnll is None and dmems is None:  # nothing arrives
            hidden.append([xp.zeros((b, t, c.d_model), **where) for _ in range(c.n_layer + 1)])
            continue
        if dnll is None:
            dnll = xp.zeros((b, cache.n_target), **where)
        g = model.backward_all(cache, dnll, dleft=dmems, through=through_memory)
        total.flat += g.params.flat
        hidden.append(g.hidden)
        dmems = g.mems if through_memory else None
    return SequenceGradients([nll for nll, _ in passes], total, hidden[::-1], mems)


def segment_rows(linear: LinearCache, n_mem: int, *, xp) -> LinearCache:
    """Return the cache of k = h W_k with the first n_mem rows of h (B, K, D) set to 0."""
    rows = xp.reshape(linear.x, linear.shape)  # (B*K, D) -> (B, K, D)
    rows = xp.concat([xp.zeros_like(rows[:, :n_mem, :]), rows[:, n_mem:, :]], axis=1)
    return linear._replace(x=xp.reshape(rows, linear.x.shape))


def without_memory_rows(cache: ModelCache, *, xp) -> ModelCache:
    """Return the cache of `model.forward` with the memory's rows of [memory ; segment] set to 0.

    `model.backward` forms dW_k = h^T dk and dW_v = h^T dv over all K rows of h (sec. 3.2). Given
    this cache it sums over the segment's T rows alone, and returns all other gradients as they
    were: the difference is what the memory's rows give. The cache passed in stays as it is.
    """
    layers = []
    for layer in cache.hidden.layers:
        heads = layer.attn.heads
        k, v = (segment_rows(linear, heads.n_mem, xp=xp) for linear in (heads.k, heads.v))
        heads = heads._replace(k=k, v=v)
        layers.append(layer._replace(attn=layer.attn._replace(heads=heads)))
    return cache._replace(hidden=cache.hidden._replace(layers=layers))


def memory_shares(model: TransformerXL, cache: ModelCache, dnll=None) -> dict[str, list[float]]:
    """Return, for "w_k" and "w_v", the part of its gradient that the memory's rows give, by layer.

    dW = h^T dk sums over all rows of h = [memory ; segment] (sec. 3.2). With g the whole and m what
    the memory's rows add, it is <m, g> / <g, g>: this part and the segment's add up to 1.
    """
    whole = model.backward(cache, dnll)
    own = model.backward(without_memory_rows(cache, xp=model.backend.xp), dnll)
    shares: dict[str, list[float]] = {"w_k": [], "w_v": []}
    for n in range(model.config.n_layer):
        for name, found in shares.items():
            g = whole[f"layers.{n}.attn.{name}"]
            m = g - own[f"layers.{n}.attn.{name}"]
            found.append(float((m * g).sum() / (g * g).sum()))
    return shares
