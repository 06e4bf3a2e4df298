"""The latch task: a marker in the first segment, fillers, and what the marker was after distance d.

    tokens    .  .  C  .  .  .  .  .  |  .  .  .  .  .  .  .  .  |  .  .  ?  .  ...
    dense              C  C  C  C  C     C  C  C  C  C  C  C  C     C  C  C  C  ...
    sparse                                                                C

One of 8 markers stands at a place of the first segment, all other tokens are the same filler. The
loss is that of naming the marker: "dense" at every distance d = 1 ... D from it, "sparse" at one
distance only, where the token is a question mark. Nothing but the marker tells the answer, so that
what is not seen of it is a guess: accuracy 1/8, loss ln 8 = 2.08 nats. There are 8 T sequences
(sparse: D times as many), few enough to measure a model on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minitxl.config import Config, TrainConfig
from minitxl.model.through_memory import sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

N_MARKER = 8
FILLER, QUERY = N_MARKER, N_MARKER + 1
N_TOKEN = N_MARKER + 2
CHANCE = 1 / N_MARKER


class Batch(NamedTuple):
    """Sequences of L = n_segment * T tokens; the target is the marker everywhere."""

    tokens: np.ndarray  # (B, L)
    targets: np.ndarray  # (B, L)
    distance: np.ndarray  # (B, L): position - place of the marker
    asked: np.ndarray  # (B, L) bool: where the loss is


@dataclass(frozen=True)
class Latch:
    """The task for segments of tgt_len tokens and distances 1 ... max_distance."""

    tgt_len: int
    max_distance: int
    sparse: bool = False

    @property
    def n_segment(self) -> int:
        """Segments of a sequence: a marker at place T - 1 has max_distance tokens after it."""
        return math.ceil((self.tgt_len + self.max_distance) / self.tgt_len)

    def batch(self, markers, places, queries=None) -> Batch:
        """Return the sequences with these markers at these places (B,); queries: distances (B,)."""
        shape = (len(markers), self.n_segment * self.tgt_len)
        tokens = np.full(shape, FILLER)
        row = np.arange(len(markers))
        tokens[row, places] = markers
        targets = np.broadcast_to(np.asarray(markers)[:, None], shape)
        distance = np.arange(shape[1]) - np.asarray(places)[:, None]
        if self.sparse:
            tokens[row, places + queries] = QUERY
            asked = distance == np.asarray(queries)[:, None]
        else:
            asked = (distance >= 1) & (distance <= self.max_distance)
        return Batch(tokens, targets, distance, asked)

    def draw(self, rng, batch_size: int) -> Batch:
        """Return random sequences: marker, place and distance are each uniform."""
        markers = rng.integers(0, N_MARKER, batch_size)
        places = rng.integers(0, self.tgt_len, batch_size)
        queries = rng.integers(1, self.max_distance + 1, batch_size)
        return self.batch(markers, places, queries)

    def all(self) -> Batch:
        """Return every sequence there is, once."""
        n_distance = self.max_distance if self.sparse else 1
        shape = (N_MARKER, self.tgt_len, n_distance)
        markers, places, queries = np.indices(shape).reshape(3, -1)
        return self.batch(markers, places, queries + 1)


def new_model(
    n_layer: int, tgt_len: int, mem_len: int, seed: int, dtype="float32", device: str = "cpu"
):
    """Return a model of the task's size: 32 wide, 2 heads of 16, LayerNorm before.

    Its weights begin five times as large as usual (0.1): so small a model then begins to learn at
    once, where it otherwise first stands still for a hundred updates.
    """
    sizes = dict(d_model=32, n_head=2, d_head=16, d_inner=64, pre_lnorm=True, dropout=0.0)
    config = Config(
        n_token=N_TOKEN, n_layer=n_layer, tgt_len=tgt_len, mem_len=mem_len, init_std=0.1, **sizes
    )
    return TransformerXL(config, device=device, dtype=dtype, seed=seed)


def cut(array, tgt_len: int) -> list:
    """(B, S * T) -> S of (B, T)."""
    return [array[:, i : i + tgt_len] for i in range(0, array.shape[1], tgt_len)]


def train(
    model: TransformerXL,
    task: Latch,
    settings: TrainConfig,
    through_memory: bool = False,
    watch: Callable[[int, list], bool] | None = None,
) -> list[float]:
    """Train the model in place; return the mean loss (nats per answer) of every update's batch.

    An update's gradient is that of a whole sequence, from an empty memory on: the sum over its
    segments of what each can see, stopped at the memory, or with through_memory let through it.
    watch is called after every update with the number of updates done and their losses (0-d, on
    the device); training ends early where it returns True.
    """
    s, back = settings, model.backend
    xp = back.xp
    adam = Adam(model.params.flat, beta1=s.beta1, beta2=s.beta2, eps=s.eps, xp=xp)

    def update(inputs, state):
        tokens, targets, weight, factors = inputs
        segments = zip(cut(tokens, task.tgt_len), cut(targets, task.tgt_len), strict=True)
        upstream = cut(weight, task.tgt_len)
        nll, grads, *_ = sequence_gradients(model, segments, upstream, through_memory)
        clip_by_norm(grads.flat, s.clip, xp=xp)
        adam.update(model.params.flat, grads.flat, factors)
        return xp.sum(xp.concat(nll, axis=1) * weight), state

    step = back.replayed(update)
    rng = np.random.default_rng([s.seed, 1])
    losses: list = []
    for n in range(s.steps):
        batch = task.draw(rng, s.batch_size)
        weight = (batch.asked / batch.asked.sum()).astype(back.dtype_name)
        factors = adam.factors(learning_rate(n, s), n + 1)
        ids = (a.astype(np.int32) for a in (batch.tokens, batch.targets))
        loss, _ = step((*ids, weight, factors), ())
        losses.append(loss)
        if watch is not None and watch(n + 1, losses):
            break
    return [float(loss) for loss in losses]


def measure(model: TransformerXL, task: Latch) -> dict:
    """Return accuracy and loss (nats) at the distances 1 ... max_distance, over all sequences."""
    batch = task.all()
    mems, log_probs = None, []
    for tokens in cut(batch.tokens, task.tgt_len):
        log_p, mems = model.predict(tokens, mems)
        log_probs.append(model.backend.to_numpy(log_p))
    log_p = np.concatenate(log_probs, axis=1)  # (B, L, V)
    right = log_p.argmax(axis=2) == batch.targets
    nll = -np.take_along_axis(log_p, batch.targets[..., None], axis=2)[..., 0]
    at = [batch.asked & (batch.distance == d) for d in range(1, task.max_distance + 1)]
    return {
        "accuracy": [round(float(right[here].mean()), 4) for here in at],
        "nll": [round(float(nll[here].mean()), 4) for here in at],
    }


# --- what theory allows -------------------------------------------------------------------------


def seen(distance: int, reach: int, tgt_len: int) -> float:
    """Return the share of a segment's T queries that can see a marker at this distance.

    A segment sees `reach` tokens before its start, and all its queries see the same ones. The query
    at offset o = 0 ... T - 1 so sees distances up to reach + o: of all offsets, which are equally
    often met as the marker's place is uniform, 1 - (d - R)/T, at most 1 and at least 0.
    """
    return min(1.0, max(0.0, 1.0 - (distance - reach) / tgt_len))


def expected_accuracy(distance: int, reach: int, tgt_len: int) -> float:
    """Return the best accuracy: 1 where the marker is seen, a guess (1/8) where it is not."""
    share = seen(distance, reach, tgt_len)
    return share + (1.0 - share) * CHANCE


def loss_floor(reach: int, task: Latch) -> float:
    """Return the lowest mean loss, nats: 0 where the marker is seen, ln 8 where it is not."""
    distances = range(1, task.max_distance + 1)
    unseen = [1.0 - seen(d, reach, task.tgt_len) for d in distances]
    return math.log(N_MARKER) * sum(unseen) / len(unseen)
