"""What the stopped gradient costs: the same task, learned with the stop and without it.

Transformer-XL takes its memory for a constant (sec. 3.2): the loss of one segment teaches how to
*read* the states that earlier segments left, not what those segments should *write*. The sparse
latch task (`latch.py`) asks for just that: one question in a sequence, up to N segments after the
marker, and no other loss. "stopped" is the model as it is always trained; "full" is
back-propagation through the cached states of all segments. All else is the same: first weights,
batches, updates.

What a segment writes can still become useful by the way: a layer has the same weights for what is
read now and for what will be read later, and inside a segment the gradient does flow. So the
question is how much slower and how much less surely, not whether. Each way has the learning rate
with which it learned soonest on seeds that are not reported; then many seeds tell how the updates
until it is learned are spread. A training ends once it is learned, or after `steps`. Loss floors:
with k of the N layers' hops learned, the marker is seen up to distance k M and then guessed (ln 8).
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass

import numpy as np

from minitxl.config import TrainConfig
from minitxl.experiments.intervals import share_interval
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

WAYS = ("stopped", "full")
NEAR = 0.1  # nats above the floor: so near counts as learned


@dataclass(frozen=True)
class Settings:
    """Size of the model (mem_len = tgt_len) and how it is trained."""

    n_layer: int = 3
    tgt_len: int = 8
    lrs: tuple = (1e-3, 3e-3, 1e-2)
    pilot_seeds: tuple = (100, 101, 102)
    seeds: int = 24
    steps: int = 600
    batch_size: int = 64
    every: int = 20  # updates that a point of the learning curve averages

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works; two layers of short segments learn fast."""
        fast = dict(n_layer=2, tgt_len=4, lrs=(3e-3, 1e-6), steps=80, every=10)
        return cls(**fast, pilot_seeds=(100,), seeds=2)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Choose a rate for each way, then train it with every seed; each training is a part."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    pilots = parts.fill(pilot_jobs(s), progress)
    rates = best_rates(pilots, s)
    done = parts.fill(jobs(rates, s), progress)
    task, reach = task_of(s), exact_reach(s.n_layer, s.tgt_len, s.tgt_len)
    distances = range(1, task.max_distance + 1)
    groups = [
        _described(way, rates[way], [done[f"{way}, seed {seed}"] for seed in range(s.seeds)], s)
        for way in WAYS
    ]
    return parts.head("stop-gradient", done) | {
        "units": {
            "accuracy": "share of right answers at distances 1, 2, ... tokens, of all sequences, "
            "at the end of each training",
            "curve": f"nats per answer, means of {s.every} updates' batches",
            "gradient": "norm of dLoss/dh_n over D and 8 sequences, by layer, position",
            "learned_after": f"updates until the curve is within {NEAR} nats of the floor; null: "
            f"not in {s.steps}",
            "not_yet": "share of the seeds that have not learned after so many updates, with its "
            "95 % interval by Wilson",
        },
        "reach": reach,
        "theory": [expected_accuracy(d, reach, s.tgt_len) for d in distances],
        "floors": [loss_floor(k * s.tgt_len, task) for k in range(s.n_layer + 1)],
        "pilots": [
            {"way": way, "lr": lr, "learned_after": [
                pilots[f"pilot {way}, lr {lr}, seed {seed}"]["learned_after"]
                for seed in s.pilot_seeds
            ]}
            for way in WAYS for lr in s.lrs
        ],
        "groups": groups,
    }  # fmt: skip


def pilot_jobs(s: Settings) -> dict:
    """Name of a part -> the call that computes it: rates on pilot seeds."""
    return {
        f"pilot {way}, lr {lr}, seed {seed}": (trained, way, lr, seed, s)
        for way in WAYS
        for seed in s.pilot_seeds
        for lr in s.lrs
    }


def best_rates(pilots: dict, s: Settings) -> dict:
    """Way -> the rate with the lowest mean of updates until it is learned (never: all of them).

    Of rates alike in this, the one with the lower mean loss over the updates that all have.
    """

    def late(way, lr):
        runs = [pilots[f"pilot {way}, lr {lr}, seed {seed}"] for seed in s.pilot_seeds]
        updates = statistics.fmean(run["learned_after"] or s.steps for run in runs)
        return updates, statistics.fmean(run["curve"][0] for run in runs)

    return {way: min(s.lrs, key=lambda lr: late(way, lr)) for way in WAYS}


def jobs(rates: dict, s: Settings) -> dict:
    """Name of a part -> the call that computes it: the reported runs."""
    return {
        f"{way}, seed {seed}": (trained, way, rates[way], seed, s)
        for seed in range(s.seeds)
        for way in WAYS
    }


def task_of(s: Settings) -> Latch:
    """The task up to the distance where even the whole reach leaves only a guess."""
    return Latch(s.tgt_len, (s.n_layer + 1) * s.tgt_len, sparse=True)


def trained(way: str, lr: float, seed: int, s: Settings, device: str) -> dict:
    """Train until it is learned, or for all the updates there are."""
    task = task_of(s)
    floor = loss_floor(exact_reach(s.n_layer, s.tgt_len, s.tgt_len), task)
    model = new_model(s.n_layer, s.tgt_len, s.tgt_len, seed=seed, device=device)
    how = dict(steps=s.steps, batch_size=s.batch_size, lr=lr, warmup=s.steps // 20, seed=seed)
    curve: list = []

    def watch(done: int, losses: list) -> bool:
        if done % s.every:
            return False
        curve.append(round(statistics.fmean(float(x) for x in losses[-s.every :]), 4))
        return curve[-1] <= floor + NEAR

    train(model, task, TrainConfig(**how), way == "full", watch)
    found = measure(model, task) | {"curve": curve, "device": model.backend.name}
    found["learned_after"] = learned_after(curve, floor, s.every)
    if seed == 0:
        return found | {"gradient": {w: gradient_norms(model, s, w == "full") for w in WAYS}}
    return found


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
        on_host = [model.backend.to_numpy(h) for h in states]
        whole = np.concatenate(on_host, axis=1).astype(np.float64)  # S of (B, T, D) -> (B, S*T, D)
        norms = np.sqrt((whole**2).sum(axis=(0, 2)))
        layers.append([float(f"{x:.4g}") for x in norms])
    return layers


def _described(way: str, lr: float, runs: list[dict], s: Settings) -> dict:
    after = [run["learned_after"] for run in runs]
    accuracy = np.array([run["accuracy"] for run in runs])  # (seeds, distances)
    hops = accuracy[:, : s.n_layer * s.tgt_len].reshape(-1, s.n_layer, s.tgt_len).mean(axis=2)
    return {
        "way": way,
        "lr": lr,
        "learned_after": after,
        "not_yet": [_not_yet(after, n) for n in range(0, s.steps + 1, s.every)],
        "accuracy_by_hop": hops.round(4).tolist(),
        "runs": runs,
    }


def _not_yet(after: list, updates: int) -> dict:
    """Share of the seeds that have not learned after so many updates."""
    left = sum(x is None or x > updates for x in after)
    low_high = share_interval(left, len(after))
    return {"updates": updates, "share": left / len(after), "interval": low_high}


def learned_after(curve: list[float], floor: float, every: int) -> int | None:
    """Return the updates until the curve comes within NEAR of the floor; None: it never does."""
    return next(((i + 1) * every for i, loss in enumerate(curve) if loss <= floor + NEAR), None)


def stalled(group: dict) -> tuple[int, list[float]]:
    """Return how many seeds of a way have not learned at all, and the interval of their share."""
    return sum(x is None for x in group["learned_after"]), group["not_yet"][-1]["interval"]


def median_updates(group: dict) -> float:
    """Return the median of the updates until it is learned, over all seeds (never: infinity)."""
    return statistics.median(x or float("inf") for x in group["learned_after"])


def of_way(results: dict, way: str) -> dict:
    """Return the group of a way."""
    (found,) = (g for g in results["groups"] if g["way"] == way)
    return found


def summary(results: dict) -> str:
    """Return how soon and how surely each way has learned, and where the stalled ones stand."""
    s = results["settings"]
    lines = [f"updates until learned, {s['seeds']} seeds; rates chosen on {s['pilot_seeds']}", ""]
    for g in results["groups"]:
        n, (low, high) = stalled(g)
        known = sorted(x for x in g["learned_after"] if x is not None)
        spread = f"{known[0]} to {known[-1]}" if known else "-"
        lines.append(
            f"{g['way']:9} lr {g['lr']:g}: median {median_updates(g):g}, those that have learned "
            f"{spread}; not in {s['steps']}: {n} of {s['seeds']} [{low:.0%}, {high:.0%}]"
        )
        for i, (after, hops) in enumerate(
            zip(g["learned_after"], g["accuracy_by_hop"], strict=True)
        ):
            if after is None:
                by_hop = ", ".join(f"{x:.2f}" for x in hops)
                lines.append(f"{'':11}seed {i}: accuracy by hop {by_hop} (chance {CHANCE})")
    floors = ", ".join(f"{x:.2f}" for x in results["floors"])
    lines += ["", f"loss floors with 0 ... {s['n_layer']} hops: {floors}"]
    return "\n".join(lines)
