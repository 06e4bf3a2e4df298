"""What the stopped gradient costs: the same task, learned with the stop and without it.

Transformer-XL takes its memory for a constant (sec. 3.2): the loss of one segment teaches how to
*read* the states that earlier segments left, not what those segments should *write*. The sparse
latch task (`latch.py`) asks for just that: one question in a sequence, up to N segments after the
marker, and no other loss. "stopped" is the model as it is always trained; "full" is
back-propagation through the cached states of all segments. All else is the same: first weights,
batches, updates.

What a segment writes can still become useful by the way: a layer has the same weights for what is
read now and for what will be read later, and inside a segment the gradient does flow. So the
question is how much slower and how much less surely, not whether; both are trained with several
learning rates, so that none is judged by one that does not suit it. Loss floors: with k of the N
layers' hops learned, the marker is seen up to distance k M and then guessed (ln 8).
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minitxl.config import TrainConfig
from minitxl.experiments.latch import (
    CHANCE,
    N_MARKER,
    Latch,
    cut,
    expected_accuracy,
    loss_floor,
    measure,
    new_model,
    train,
)
from minitxl.experiments.parts import Parts
from minitxl.model.reach import exact_reach
from minitxl.model.through_memory import sequence_gradients
from minitxl.training.machine import machine_facts

WAYS = ("stopped", "full")
NEAR = 0.1  # nats above the floor: so near counts as learned


@dataclass(frozen=True)
class Settings:
    """Size of the model (mem_len = tgt_len) and how it is trained."""

    n_layer: int = 3
    tgt_len: int = 8
    lrs: tuple = (1e-3, 3e-3, 1e-2)
    seeds: int = 3
    steps: int = 600
    batch_size: int = 64
    every: int = 20  # updates that a point of the learning curve averages
    early: int = 100  # updates after which accuracy is measured for the first time

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works; two layers of short segments learn fast."""
        return cls(n_layer=2, tgt_len=4, lrs=(3e-3,), seeds=2, steps=80, every=10, early=30)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Train every way with every learning rate and seed; each training is a part."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    task = task_of(s)
    reach = exact_reach(s.n_layer, s.tgt_len, s.tgt_len)
    distances = range(1, task.max_distance + 1)
    groups = []
    with tqdm(total=len(WAYS) * len(s.lrs) * s.seeds, unit="model", disable=not progress) as bar:
        for way in WAYS:
            for lr in s.lrs:
                runs = []
                for seed in range(s.seeds):
                    name = f"{way}, lr {lr}, seed {seed}"
                    bar.set_description(name)
                    job = (way, lr, seed, s)
                    runs.append(parts.get(name, lambda job=job: _trained(*job)))
                    bar.update()
                groups.append(_described(way, lr, runs, s))
    return {
        "experiment": "stop-gradient",
        "settings": dataclasses.asdict(s),
        "machine": machine_facts(),
        "seconds": parts.seconds,
        "units": {
            "accuracy": "share of right answers at distances 1, 2, ... tokens, of all sequences",
            "curve": f"nats per answer, means of {s.every} updates' batches",
            "gradient": "norm of dLoss/dh_n over D and 8 sequences, by layer, position",
            "learned_after": f"updates until the curve is within {NEAR} nats of the floor",
        },
        "reach": reach,
        "theory": [expected_accuracy(d, reach, s.tgt_len) for d in distances],
        "floors": [loss_floor(k * s.tgt_len, task) for k in range(s.n_layer + 1)],
        "groups": groups,
    }


def task_of(s: Settings) -> Latch:
    """The task up to the distance where even the whole reach leaves only a guess."""
    return Latch(s.tgt_len, (s.n_layer + 1) * s.tgt_len, sparse=True)


def _trained(way: str, lr: float, seed: int, s: Settings) -> dict:
    task = task_of(s)
    model = new_model(s.n_layer, s.tgt_len, s.tgt_len, seed=seed)
    how = dict(steps=s.steps, batch_size=s.batch_size, lr=lr, warmup=s.steps // 20, seed=seed)
    early = []

    def watch(done: int) -> None:
        if done == s.early:
            early.extend(measure(model, task)["accuracy"])

    losses = np.array(train(model, task, TrainConfig(**how), way == "full", watch))
    n = len(losses) // s.every
    curve = losses[: n * s.every].reshape(n, s.every).mean(axis=1)
    gradient = {w: gradient_norms(model, s, through_memory=w == "full") for w in WAYS}
    return measure(model, task) | {
        "early": early,
        "curve": curve.round(4).tolist(),
        "gradient": gradient,
    }


def gradient_norms(model, s: Settings, through_memory: bool) -> list[list[float]]:
    """Return the norm of dLoss/dh_n, n = 0 ... N, at every position: N + 1 lists of S * T numbers.

    The loss is that of a question N segments after the marker, both in the middle of their
    segment; one sequence for each marker. Norms are over sequences and D.
    """
    task, n = task_of(s), N_MARKER
    place, distance = s.tgt_len // 2, s.n_layer * s.tgt_len
    batch = task.batch(np.arange(n), np.full(n, place), np.full(n, distance))
    used = (s.n_layer + 1) * s.tgt_len  # what comes after the question's segment has no part in it
    pieces = (cut(a[:, :used], s.tgt_len) for a in (batch.tokens, batch.targets, batch.asked / n))
    tokens, targets, upstream = pieces
    upstream = [w if w.any() else None for w in upstream]
    segments = zip(tokens, targets, strict=True)
    hidden = sequence_gradients(model, segments, upstream, through_memory).hidden
    layers = []
    for states in zip(*hidden, strict=True):
        whole = np.concatenate(states, axis=1).astype(np.float64)  # S of (B, T, D) -> (B, S*T, D)
        norms = np.sqrt((whole**2).sum(axis=(0, 2)))
        layers.append([float(f"{x:.4g}") for x in norms])
    return layers


def _described(way: str, lr: float, runs: list[dict], s: Settings) -> dict:
    accuracy = np.array([run["accuracy"] for run in runs])  # (seeds, distances)
    early = np.array([run["early"] for run in runs])
    floor = loss_floor(exact_reach(s.n_layer, s.tgt_len, s.tgt_len), task_of(s))
    final = [statistics.fmean(run["nll"]) for run in runs]
    return {
        "way": way,
        "lr": lr,
        "accuracy": accuracy.mean(axis=0).round(4).tolist(),
        "early": early.mean(axis=0).round(4).tolist(),
        "by_hop": _by_hop(accuracy, s),
        "early_by_hop": _by_hop(early, s),
        "loss": {
            "mean": statistics.fmean(final),
            "sd": statistics.stdev(final) if len(final) > 1 else None,
        },
        "learned_after": [learned_after(run["curve"], floor, s.every) for run in runs],
        "runs": runs,
    }


def _by_hop(accuracy, s: Settings) -> list[dict]:
    """Return the accuracy at distances 1 ... M, M + 1 ... 2 M and so on, over the seeds."""
    hops = accuracy[:, : s.n_layer * s.tgt_len].reshape(-1, s.n_layer, s.tgt_len).mean(axis=2)
    return [{"mean": x.mean(), "min": x.min(), "max": x.max()} for x in hops.T]


def learned_after(curve: list[float], floor: float, every: int) -> int | None:
    """Return the updates until the curve comes within NEAR of the floor; None: it never does."""
    return next(((i + 1) * every for i, loss in enumerate(curve) if loss <= floor + NEAR), None)


def spoken(updates: list) -> str:
    """Return the updates of all seeds in words: `80, 120, never`."""
    return ", ".join("never" if x is None else str(x) for x in updates)


def best(results: dict, way: str) -> dict:
    """Return the group of a way whose learning rate suits it best: lowest mean learning curve.

    (Not the lowest final loss: where two rates arrive at the floor, that would be chance.)
    """
    groups = [g for g in results["groups"] if g["way"] == way]
    return min(groups, key=lambda g: np.mean([run["curve"] for run in g["runs"]]))


def summary(results: dict) -> str:
    """Return the results as a table: accuracy by hop, loss, updates until it is learned."""
    s = results["settings"]
    m, n = s["tgt_len"], s["n_layer"]
    spans = [f"{k * m + 1}-{(k + 1) * m}" for k in range(n)]
    lines = [
        f"accuracy by distance, mean of {s['seeds']} seed(s) (lowest); chance {CHANCE}; loss: nats",
        "",
        f"{'':9}{'lr':>7}{'updates':>9}" + "".join(f"{x:>15}" for x in spans) + f"{'loss':>8}",
    ]
    for g in results["groups"]:
        for updates, key in ((s["early"], "early_by_hop"), (s["steps"], "by_hop")):
            cells = [f"{h['mean']:.3f} ({h['min']:.2f})" for h in g[key]]
            hops = "".join(f"{cell:>15}" for cell in cells)
            lines.append(f"{g['way']:9}{g['lr']:7g}{updates:9}{hops}")
        lines[-1] += f"{g['loss']['mean']:8.3f}; learned after {spoken(g['learned_after'])}"
    floors = ", ".join(f"{x:.2f}" for x in results["floors"])
    lines += ["", f"loss floors with 0 ... {n} hops: {floors}"]
    return "\n".join(lines)
