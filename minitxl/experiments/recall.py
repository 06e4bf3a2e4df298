"""Recall: pairs of a key and a value stand in a text, and later their keys ask for the values.

    tokens    .  k:4  .  m:9  ?k  |  .  ?m  b:2  .  ?k  |  ?b  .  ?m  ...
    targets                    4        9            4      2      9

Multi-query associative recall (Arora et al. 2024, "Zoology"), carried across segments. All pairs
are written at the beginning, each key once, at random places; other places hold fillers or ask a
key that was written before. The loss is at the questions alone. How far back a pair lies (its lag)
and how many pairs there are can be chosen, and that is what memories differ in.

One position holds a whole pair: its vector is the sum of the key's, the value's and one that all
pairs have. A question is the key's vector alone, a filler one of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minitxl.backend import get_backend
from minitxl.config import Config, TrainConfig
from minitxl.model.family.memories.walk import with_memory
from minitxl.model.family.network import PLAIN
from minitxl.model.ops import embedding_backward, embedding_forward, inverse_frequencies
from minitxl.model.params import Params, draw
from minitxl.model.through_memory import sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

QUESTION = 0.6  # the chance of a question where no pair stands
SPREAD = 1.25  # pairs are written among so many places for each, at least
WINDOW = 128  # places among which pairs are written, at most, unless there are too many
EDGES = (1, 9, 17, 33, 49, 65, 97, 129, 161, 193, 257, 385, 513)  # of the bins of lags, in tokens


# --- the task -----------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Texts of L tokens; target, lag and asked mean something where a question stands."""

    tokens: np.ndarray  # (B, L)
    targets: np.ndarray  # (B, L) the value asked for
    asked: np.ndarray  # (B, L) bool
    lag: np.ndarray  # (B, L) tokens since the pair was written


@dataclass(frozen=True)
class Recall:
    """The task's sizes; n_pairs: how many pairs a text may have."""

    tgt_len: int = 32
    n_segment: int = 8
    n_key: int = 256
    n_value: int = 64
    n_filler: int = 16
    n_pairs: tuple = (4, 8, 16, 32, 64, 128)

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return self.tgt_len * self.n_segment

    @property
    def n_slot(self) -> int:
        """What stands beside a key or a filler: a value, or (the last one) nothing."""
        return self.n_value + 1

    @property
    def n_token(self) -> int:
        """Ids: filler or key, times what stands beside it."""
        return (self.n_filler + self.n_key) * self.n_slot

    def draw(self, rng, batch_size: int) -> Batch:
        """Return random texts, each of its own number of pairs, written among W places.

        W is log-uniform from SPREAD places a pair to WINDOW. A question asks any of the keys
        written before it, each with the same chance.
        """
        n_pair = rng.choice(self.n_pairs, batch_size)
        low = np.log(SPREAD * n_pair)
        high = np.maximum(low, math.log(WINDOW))
        window = np.exp(low + rng.random(batch_size) * (high - low)).astype(int)
        written = self._places(rng, n_pair, window)
        so_far = written.cumsum(axis=1)  # pairs up to here, this place included
        asked = ~written & (so_far > 0) & (rng.random(written.shape) < QUESTION)
        which = (rng.random(written.shape) * so_far).astype(int)  # of the pairs so far
        return self._batch(rng, written, asked, which)

    def ask_once(self, rng, batch_size: int, n_pair: int) -> Batch:
        """Return texts in which every key is asked at most once: no answer has been heard before.

        The lag of a question is drawn from a bin of EDGES, each bin with the same chance, until its
        place is free; a key that finds none is not asked.
        """
        n_pair = np.full(batch_size, n_pair)
        written = self._places(rng, n_pair, np.maximum(WINDOW, SPREAD * n_pair).astype(int))
        asked, which = np.zeros_like(written), np.zeros(written.shape, int)
        edges = np.array([e for e in EDGES if e <= self.length + 1])
        for row in range(batch_size):
            free = ~written[row]
            for pair, place in enumerate(np.flatnonzero(written[row])):
                bins = rng.integers(0, len(edges) - 1, 8)
                tries = place + rng.integers(edges[bins], edges[bins + 1])
                at = next((t for t in tries if t < self.length and free[t]), None)
                if at is not None:
                    free[at], asked[row, at], which[row, at] = False, True, pair
        return self._batch(rng, written, asked, which)

    def _places(self, rng, n_pair, window) -> np.ndarray:
        """Where pairs are written, (B, L) bool: n_pair (B,) of the first window (B,) places."""
        place = np.arange(self.length)
        order = rng.random((len(n_pair), self.length)) + (place >= window[:, None])
        rank = order.argsort(axis=1).argsort(axis=1)
        return rank < n_pair[:, None]

    def _batch(self, rng, written, asked, which) -> Batch:
        """Deal keys, values and fillers; which (B, L): of a question, by the order of writing."""
        row = np.arange(len(written))[:, None]
        most = int(written.sum(axis=1).max())
        keys = rng.random((len(written), self.n_key)).argsort(axis=1)[:, :most]  # none twice
        values = rng.integers(0, self.n_value, (len(written), most))
        order = np.where(written, written.cumsum(axis=1) - 1, which)  # of the pair spoken of
        what = rng.integers(0, self.n_filler, written.shape)
        beside = np.full(written.shape, self.n_value)  # nothing
        spoken = written | asked
        what[spoken] = self.n_filler + keys[row, order][spoken]
        beside[written] = values[row, order][written]
        place = (~written).argsort(axis=1, kind="stable")[:, :most]  # of the j-th pair
        lag = np.arange(self.length) - place[row, order]
        return Batch(what * self.n_slot + beside, values[row, order], asked, lag)


# --- the model ----------------------------------------------------------------------------------


def pair_shapes(config: Config, *, task: Recall) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the vectors of values, of pairs, of fillers and keys, and of the softmax."""
    d, n_value = config.d_model, task.n_value
    tables = {"value_emb": (n_value, d), "pair_emb": (1, d)}
    tables |= {"what_emb": (task.n_filler + task.n_key, d)}
    return tables | {"word_emb": (n_value, d), "out_bias": (n_value,)}  # as `embedding.py` has them


def pair_embed_forward(params, ids, config, *, xp):
    """x = (E[key or filler] + A[beside]) / sqrt(D), for ids (N,) -> (N, D); A: value + pair, or 0.

    (The network multiplies by sqrt(D). Vectors as large as what the first layer reads are changed
    by Adam in small steps; smaller ones it changes so fast that they forget what they stand for.)
    """
    values = params["value_emb"]
    beside = (values + params["pair_emb"], xp.zeros_like(values[:1, :]))  # (V, D), (1, D)
    table = xp.concat([*beside, params["what_emb"]], axis=0)
    n, n_slot = ids.shape[0], values.shape[0] + 1
    rows = xp.concat([ids % n_slot, n_slot + ids // n_slot])  # (N,) -> (2N,)
    parts, cache = embedding_forward(rows, table, xp=xp)  # -> (2N, D)
    return (parts[:n, :] + parts[n:, :]) / math.sqrt(config.d_model), cache  # -> (N, D)


def pair_embed_backward(dx, cache, grads, config, *, scatter_add, xp):
    """Add the gradients of all parts to grads: each is that of their sum, dx (N, D) / sqrt(D)."""
    both = xp.concat([dx, dx], axis=0) / math.sqrt(config.d_model)  # (N, D) -> (2N, D)
    dtable = embedding_backward(both, cache, scatter_add=scatter_add, xp=xp)
    n_value = grads["value_emb"].shape[0]
    dvalues = dtable[:n_value, :]
    grads["value_emb"] += dvalues
    grads["pair_emb"] += xp.sum(dvalues, axis=0, keepdims=True)  # it stands in each of them
    grads["what_emb"] += dtable[n_value + 1 :, :]  # row n_value is 0, and stays so


def new_model(config: Config, task: Recall, seed: int, device="cpu", dtype="float32", memory=None):
    """Return a model of this configuration for the task, with first weights under which it learns.

    Weights N(0, 1 / fan_in), those that add to the residual stream divided by sqrt(2 N), vectors of
    tokens N(0, 1), u and v 0; the softmax and what a memory has of its own as the library draws
    them. W_k begins as a copy of W_q: so what looks alike attends to each other from the start.
    Otherwise all models stand still for hundreds of updates, each for another number. memory: a
    class, for one of the reader's own.
    """
    back = get_backend(device, dtype)
    ends = PLAIN._replace(
        shapes=lambda c: pair_shapes(c, task=task),
        embed_forward=pair_embed_forward,
        embed_backward=pair_embed_backward,
    )
    network = with_memory(config, ends, memory)
    where = dict(dtype=back.dtype, device=back.device, xp=back.xp)
    constants = {"inv_freq": inverse_frequencies(d_model=config.d_model, **where)}
    params = Params.zeros(network.param_shapes(config), constants=constants, **where)
    _scale(draw(params, config, back, seed), config)
    model = TransformerXL(config, device=back, params=params, memory=memory)
    model.network = network
    return model


def _scale(params: Params, config: Config) -> None:
    """Bring weights drawn with init_std to the sizes that `new_model` names, in place."""
    for name, shape in params.shapes.items():
        end = name.rpartition(".")[2]
        if end in ("r_w_bias", "r_r_bias"):
            params[name][...] = 0.0
        elif end == "gamma":
            params[name][...] = 1.0
        elif end in ("value_emb", "pair_emb", "what_emb"):
            params[name] *= 1.0 / config.init_std
        elif end in ("w_q", "w_k", "w_v", "w_r", "w_1"):
            params[name] *= 1.0 / (config.init_std * math.sqrt(shape[0]))
        elif end in ("w_o", "w_2"):
            params[name] *= 1.0 / (config.init_std * math.sqrt(2 * config.n_layer * shape[0]))
    for n in range(config.n_layer):
        params[f"layers.{n}.attn.w_k"] = params[f"layers.{n}.attn.w_q"]


# --- training and measurement -------------------------------------------------------------------


def train(
    model: TransformerXL,
    task: Recall,
    settings: TrainConfig,
    segments_per_update: int = 4,
    through_memory: bool = False,
) -> list[float]:
    """Train the model in place; return the mean loss (nats a question) of every update.

    An update is made after so many segments, whatever the memory; with through_memory the gradient
    flows back through all of them, otherwise it stops at each segment's memory. The memory is
    emptied where a text ends.
    """
    s, back = settings, model.backend
    adam = Adam(model.params.flat, beta1=s.beta1, beta2=s.beta2, eps=s.eps, xp=back.xp)
    rng = np.random.default_rng([s.seed, 1])
    losses: list = []
    while len(losses) < s.steps:
        batch, mems = task.draw(rng, s.batch_size), None
        for first in range(0, task.n_segment, segments_per_update):
            starts = range(first * task.tgt_len, task.length, task.tgt_len)
            cuts = [slice(i, i + task.tgt_len) for i in starts[:segments_per_update]]
            n_asked = max(1, sum(int(batch.asked[:, cut].sum()) for cut in cuts))
            weights = [(batch.asked[:, cut] / n_asked).astype(back.dtype_name) for cut in cuts]
            segments = [(batch.tokens[:, cut], batch.targets[:, cut]) for cut in cuts]
            found = sequence_gradients(model, segments, weights, through_memory, mems)
            mems = found.mems
            clip_by_norm(found.params.flat, s.clip, xp=back.xp)
            factors = adam.factors(learning_rate(len(losses), s), len(losses) + 1)
            adam.update(model.params.flat, found.params.flat, factors)
            nll = (back.to_numpy(x) for x in found.nll)
            losses.append(sum(float((x * w).sum()) for x, w in zip(nll, weights, strict=True)))
    return losses


def measure(model: TransformerXL, task: Recall, batch: Batch) -> np.ndarray:
    """Return (2, bins): questions by their lag (EDGES), and how many of them are answered right.

    The first column is of questions whose pair stands in their own segment, whatever the lag.
    """
    mems, right = None, np.zeros_like(batch.asked)
    for first in range(0, task.length, task.tgt_len):
        cut = slice(first, first + task.tgt_len)
        log_p, mems = model.predict(batch.tokens[:, cut], mems)
        right[:, cut] = model.backend.to_numpy(log_p).argmax(axis=2) == batch.targets[:, cut]
    own = np.arange(task.length) % task.tgt_len >= batch.lag
    where = [batch.asked & own]
    for low, high in pairwise(EDGES):
        where.append(batch.asked & (batch.lag >= low) & (batch.lag < high))
    return np.array([[int(w.sum()) for w in where], [int((right & w).sum()) for w in where]])
