"""The Transformer-XL language model: forward, backward, memory update.

`forward` and `backward` are pure functions of data, so that threads, processes or devices can each
run a piece of the batch and add up their gradients. `TransformerXL` is a thin object around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from minitxl.attention import Inspection, additive_mask, attention_mask
from minitxl.backend import Backend, get_backend
from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.layers import LayerCache, LayerSettings, LayerWeights, layer_backward, layer_forward
from minitxl.ops import (
    CrossEntropyCache,
    DropoutCache,
    EmbeddingCache,
    LinearCache,
    cross_entropy_backward,
    cross_entropy_forward,
    dropout_backward,
    dropout_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_forward,
    log_softmax,
    sinusoid,
)
from minitxl.params import Params
from minitxl.weights import init_params, layer_weights

Array = Any


# --- forward ------------------------------------------------------------------------------------


class ModelCache(NamedTuple):
    """What `backward` reads."""

    embedding: EmbeddingCache
    emb_dropout: DropoutCache
    layers: list[LayerCache]
    out_dropout: DropoutCache
    out_linear: LinearCache
    loss: CrossEntropyCache
    shape: tuple[int, int]  # (B, T)


class Hidden(NamedTuple):
    """The model up to the softmax's input, with the caches on the way."""

    y: Array  # (B, T, D)
    mems: list  # n_layer of (B, M', D)
    embedding: EmbeddingCache
    emb_dropout: DropoutCache
    layers: list[LayerCache]
    out_dropout: DropoutCache


def update_mems(both, *, mem_len):
    """Return the last mem_len rows of both = [mem ; h]: (B, M + T, D) -> (B, <= mem_len, D).

    The memory holds *layer inputs* (hidden states), not keys or values (sec. 3.2).
    """
    return both[:, max(0, both.shape[1] - mem_len) :, :]


def _hidden_forward(params, tokens, mems, config, *, rng, xp, inspect, keep=True) -> Hidden:
    c = config
    t, n_mem = tokens.shape[1], mems[0].shape[1]
    k = n_mem + t
    dtype, device = params["word_emb"].dtype, params["word_emb"].device
    drop = dict(rate=c.dropout, rng=rng, xp=xp)

    # h_0 = dropout(sqrt(D) E[x]). E also is the softmax's matrix and so starts small (0.02);
    # sqrt(D) brings its rows to the size that a layer's input should have.
    h, embedding = embedding_forward(tokens, params["word_emb"], xp=xp)  # (B, T) -> (B, T, D)
    h, emb_dropout = dropout_forward(h * math.sqrt(c.d_model), **drop)

    # R for the distances K-1 ... 0; one table serves every layer, query and row of the batch
    distances = xp.arange(k - 1, -1, -1, device=device)
    if c.clamp_len > 0:
        distances = xp.minimum(distances, xp.asarray(c.clamp_len, device=device))
    pos = sinusoid(distances, d_model=c.d_model, dtype=dtype, xp=xp)  # (K,) -> (K, D)
    pos, _ = dropout_forward(pos, **drop)  # R has no gradient, so its mask is not kept
    lengths = dict(n_query=t, n_mem=n_mem, mem_len=c.mem_len)
    mask = attention_mask(**lengths, same_length=c.same_length, device=device, xp=xp)
    mask = additive_mask(mask, dtype=dtype, xp=xp)

    settings = LayerSettings(c.pre_lnorm, c.layer_norm_epsilon, c.dropout, c.dropatt)
    new_mems, layers = [], []
    for n in range(c.n_layer):
        if inspect is not None:
            inspect.hidden.append(h)
        # What this layer reads now is what it will remember: the input h of layer n. In the next
        # segment layer n reads these states again, so every layer reaches one memory further.
        both = xp.concat([mems[n], h], axis=1)  # h~ = [SG(m) ; h] (sec. 3.2) -> (B, K, D)
        new_mems.append(update_mems(both, mem_len=c.mem_len))
        w = layer_weights(params, n, c.untie_r)
        h, cache = layer_forward(
            both, pos, w, mask, settings, n_mem=n_mem, rng=rng, xp=xp, inspect=inspect
        )
        if keep:
            layers.append(cache)
    if inspect is not None:
        inspect.hidden.append(h)
    # No LayerNorm here, under pre_lnorm neither: the released code has none.
    h, out_dropout = dropout_forward(h, **drop)
    return Hidden(h, new_mems, embedding, emb_dropout, layers, out_dropout)


def _logits(params, h, *, xp):
    """Softmax layer tied to the embedding: (B, T, D) -> (B*T, V)."""
    h = xp.reshape(h, (-1, h.shape[-1]))  # (B, T, D) -> (B*T, D)
    return linear_forward(h, params["word_emb"].T, params["out_bias"], xp=xp)


def forward(params, tokens, targets, mems, config: Config, *, rng, xp, inspect=None):
    """Return nll (B, T) in nats, the new memories, and the cache for `backward`.

    tokens, targets (B, T) integers; mems: n_layer arrays (B, M, D), M = 0 at a stream's start.
    """
    hidden = _hidden_forward(params, tokens, mems, config, rng=rng, xp=xp, inspect=inspect)
    logits, out_linear = _logits(params, hidden.y, xp=xp)
    nll, loss = cross_entropy_forward(logits, xp.reshape(targets, (-1,)), xp=xp)
    cache = ModelCache(
        hidden.embedding,
        hidden.emb_dropout,
        hidden.layers,
        hidden.out_dropout,
        out_linear,
        loss,
        tokens.shape,
    )
    return xp.reshape(nll, tokens.shape), hidden.mems, cache


def log_probs_forward(params, tokens, mems, config: Config, *, xp, inspect=None):
    """Return log-probabilities (B, T, V) of the next token and the new memories; nothing kept."""
    hidden = _hidden_forward(
        params, tokens, mems, config, rng=None, xp=xp, inspect=inspect, keep=False
    )
    logits, _ = _logits(params, hidden.y, xp=xp)
    return xp.reshape(log_softmax(logits, xp=xp), (*tokens.shape, -1)), hidden.mems


# --- backward -----------------------------------------------------------------------------------


class Gradients(NamedTuple):
    """What `backward` finds on its way down."""

    params: Params
    hidden: list  # N + 1 of (B, T, D): dLoss/dh_0 ... dLoss/dh_N
    mems: list  # N of (B, M, D), or None each where the gradient is stopped


def backward(
    params, dnll, cache: ModelCache, config: Config, *, scatter_add, xp, later=None, through=False
) -> Gradients:
    """Back-propagate dnll (B, T) = dLoss/dnll through one segment.

    Memory is a constant (stopped gradient, sec. 3.2). For experiments and pictures,
    through=True also returns the gradient into the memories, and `later` (N arrays (B, T, D))
    adds what a *later* segment sent back into this segment's layer inputs.
    """
    grads = params.zeros_like()
    # undo: nll = cross_entropy(dropout(h_N) @ E^T + b)
    dlogits = cross_entropy_backward(xp.reshape(dnll, (-1,)), cache.loss, xp=xp)
    dh, demb_t, dbias = linear_backward(dlogits, cache.out_linear, xp=xp)
    grads["word_emb"] += demb_t.T  # E is used twice: as softmax weights here ...
    grads["out_bias"] += dbias
    dh = xp.reshape(dh, (*cache.shape, -1))  # (B*T, D) -> (B, T, D)
    dh = dropout_backward(dh, cache.out_dropout, xp=xp)

    dhidden, dmems = [dh], []
    for n in reversed(range(config.n_layer)):
        dh, dmem, dw = layer_backward(dh, cache.layers[n], memory_rows=through, xp=xp)
        if later is not None:
            dh = dh + later[n]
        _accumulate(layer_weights(grads, n, config.untie_r), dw)
        dhidden.append(dh)
        dmems.append(dmem)

    # undo: h_0 = dropout(sqrt(D) E[x])
    dh = dropout_backward(dh, cache.emb_dropout, xp=xp) * math.sqrt(config.d_model)
    demb = embedding_backward(dh, cache.embedding, scatter_add=scatter_add, xp=xp)
    grads["word_emb"] += demb  # ... and as the embedding of the input here
    return Gradients(grads, dhidden[::-1], dmems[::-1])


def _accumulate(grads: LayerWeights, dw: LayerWeights) -> None:
    """Add one layer's gradients to the buffer: u and v, shared by the layers, collect from all."""
    for total, part in zip((*grads.attn, *grads[1:]), (*dw.attn, *dw[1:]), strict=True):
        total += part  # `total` is a view into the flat buffer


# --- the object ---------------------------------------------------------------------------------


class TransformerXL:
    """A Transformer-XL language model with its parameters on one device.

    >>> model = TransformerXL(Config(n_token=78), device="cpu")
    >>> nll, mems, cache = model.forward(tokens, targets)         # first segment, no memory
    >>> grads = model.backward(cache)                             # of nll.mean()
    >>> nll, mems, cache = model.forward(more, targets, mems)     # next segment, with memory
    """

    def __init__(
        self,
        config: Config,
        device: str | Backend = "auto",
        dtype: str = "float32",
        seed: int = 0,
        params: Params | None = None,
    ):
        self.config = config
        self.backend = get_backend(device, dtype)
        self.params = init_params(config, self.backend, seed) if params is None else params

    def __repr__(self) -> str:
        return f"TransformerXL({self.n_params:,} parameters on {self.backend.name}, {self.config})"

    @property
    def n_params(self) -> int:
        """Number of parameters, the tied embedding counted once."""
        return self.params.flat.shape[0]

    def with_options(self, **changes) -> TransformerXL:
        """Return a model that shares these parameters but has other lengths, for evaluation.

        changes: any of mem_len, tgt_len, clamp_len, same_length.
        """
        wrong = sorted(set(changes) - {"mem_len", "tgt_len", "clamp_len", "same_length"})
        if wrong:
            raise MinitxlError(
                f"{', '.join(wrong)} cannot change for given parameters; "
                "only mem_len, tgt_len, clamp_len and same_length can"
            )
        config = self.config.replace(**changes)
        return TransformerXL(config, device=self.backend, params=self.params)

    def empty_mems(self, batch_size: int) -> list:
        """Return the memory of a stream's start: n_layer arrays (B, 0, D)."""
        b = self.backend
        shape = (batch_size, 0, self.config.d_model)
        return [b.xp.zeros(shape, dtype=b.dtype, device=b.device)] * self.config.n_layer

    def forward(self, tokens, targets, mems=None, rng=None, inspect: Inspection | None = None):
        """Return nll (B, T) in nats per token, new mems, and a cache for `backward`.

        tokens, targets: (B, T) integers, 0 <= id < n_token, of any T >= 1. mems: what an earlier
        call returned, or None at a stream's start (then the memory is short or empty, never
        padded). rng: `model.backend.rng(key, ...)` turns dropout on. inspect: an `Inspection` to
        fill with hidden states, attention probabilities and terms. The cache refers to the
        parameters: call `backward` before they change.
        """
        tokens = self._ids(tokens, "tokens")
        targets = self._ids(targets, "targets")
        if tokens.shape != targets.shape:
            raise MinitxlError(
                f"targets has shape {tuple(targets.shape)}, tokens {tuple(tokens.shape)}; "
                "they must match: targets are the tokens one step later"
            )
        mems = self._check_mems(mems, tokens.shape[0])
        xp = self.backend.xp
        return forward(
            self.params, tokens, targets, mems, self.config, rng=rng, xp=xp, inspect=inspect
        )

    def backward(self, cache: ModelCache, dnll=None) -> Params:
        """Return the gradients, by name, of nll.mean() - or of sum(nll * dnll) for dnll (B, T)."""
        return self.backward_all(cache, dnll).params

    def backward_all(self, cache: ModelCache, dnll=None, later=None, through=False) -> Gradients:
        """Like `backward`, with the gradients of hidden states and memories; see `Gradients`."""
        b, t = cache.shape
        back = self.backend
        if dnll is None:
            dnll = back.xp.full((b, t), 1.0 / (b * t), dtype=back.dtype, device=back.device)
        else:
            dnll = back.asarray(dnll, dtype=back.dtype)
            if tuple(dnll.shape) != (b, t):
                raise MinitxlError(
                    f"dnll has shape {tuple(dnll.shape)}, nll has {(b, t)}: give one number for "
                    "each token, or None for the gradient of the mean"
                )
        return backward(
            self.params,
            dnll,
            cache,
            self.config,
            scatter_add=back.scatter_add,
            xp=back.xp,
            later=later,
            through=through,
        )

    def predict(self, tokens, mems=None, inspect: Inspection | None = None):
        """Return log-probabilities (B, T, V) of each next token, and the new mems."""
        tokens = self._ids(tokens, "tokens")
        mems = self._check_mems(mems, tokens.shape[0])
        xp = self.backend.xp
        return log_probs_forward(self.params, tokens, mems, self.config, xp=xp, inspect=inspect)

    def _ids(self, ids, name: str):
        if not hasattr(ids, "shape"):
            ids = self.backend.xp.asarray(ids)  # a nested list
        shape = tuple(ids.shape)
        if len(shape) != 2 or 0 in shape:
            raise MinitxlError(f"{name} has shape {shape}; it must be (B, T), both at least 1")
        if "int" not in str(ids.dtype):
            raise MinitxlError(f"{name} is of type {ids.dtype}; token ids must be integers")
        if hasattr(ids, "__array_interface__"):  # on the host: looking at the values is cheap
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.config.n_token:
                raise MinitxlError(
                    f"{name} holds ids from {low} to {high}, the model knows 0 to "
                    f"{self.config.n_token - 1}; use the vocabulary it was trained with"
                )
        return self.backend.asarray(ids, dtype=self.backend.xp.int32)

    def _check_mems(self, mems, batch_size: int) -> Sequence:
        if mems is None:
            return self.empty_mems(batch_size)
        c = self.config
        if len(mems) != c.n_layer:
            raise MinitxlError(
                f"mems holds {len(mems)} arrays, the model has {c.n_layer} layers: they come from "
                "another model; start with mems=None"
            )
        length = mems[0].shape[1] if len(mems[0].shape) == 3 else None
        for n, mem in enumerate(mems):
            if len(mem.shape) != 3 or mem.shape[1] != length:
                raise MinitxlError(
                    f"mems[{n}] has shape {tuple(mem.shape)}, it must be (B, M, D) with one M for "
                    "all layers; start with mems=None"
                )
            if mem.shape[2] != c.d_model:
                raise MinitxlError(
                    f"mems[{n}] has d_model={mem.shape[2]}, the model has {c.d_model}: they come "
                    "from another checkpoint; start with mems=None"
                )
            if mem.dtype != self.backend.dtype:
                raise MinitxlError(
                    f"mems[{n}] is of type {mem.dtype}, the model of {self.backend.dtype_name}: "
                    "they come from another model; start with mems=None"
                )
            if mem.shape[0] != batch_size:
                raise MinitxlError(
                    f"mems[{n}] has batch size {mem.shape[0]}, tokens has {batch_size}: row b of "
                    "a batch must continue row b of the one before; start with mems=None"
                )
        if length > c.mem_len:
            raise MinitxlError(
                f"mems hold {length} tokens, the model has mem_len={c.mem_len}: cut them to their "
                "last rows, or start with mems=None"
            )
        return mems
