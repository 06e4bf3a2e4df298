"""Memories at equal bytes: which one answers, by how far back a pair lies and how many there are.

Every arm is the same small model with another memory, of the same bytes a layer: as much as a
matrix memory of heads d_head wide keeps, d_head + 1 states (M, of width D = H d_head). All learn
the recall task (`recall.py`) with the same texts, the same number of updates, one after every four
segments, and the best of several rates on seeds that are not reported. "+": the gradient flows
through these four segments, otherwise it stops at each segment's memory (sec. 3.2). All begin as
the same model without memory that has learned to answer within a segment: learned from nothing, the
time until a model discovers that differs more than what its memory is worth.

Then each key is asked once, in texts twice as long as those of the training. Recall is told by the
number of pairs and by the lag, for every run; what is compared is paired by seed, with Holm's
correction over all comparisons. A run counts as learned where it answers 95 % of what its own
segment holds (up to 32 pairs), for which no memory is needed.

Registered before the reported runs (T = 32; n_f fine and n_c coarse states, rate c = 4):
  1. XL falls between the lags M and M + T, whatever the number of pairs.
  2. Compressive memories fall at n_f + c n_c; they beat eviction of as many states only where pairs
     are sparse (at most 8 among 128 places), not where every coarse state stands for several.
  3. Matrices are flat in lag (257 and more against 97 to 160) and fall with pairs / d_head: a wider
     head holds more.
  4. The gradient through the memory helps matrices, which must learn what to write; XL and
     compressive memories learn as well without it.
  5. So XL wins at lags up to M; beyond M + T a matrix wins up to about as many pairs as d_head, and
     a compressive memory beyond that, as far as n_f + c n_c.
Memory tokens did not learn across segments in a prototype; they can be had as one more of `arms`,
for who has the time: their rows go through all layers.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from dataclasses import dataclass

import numpy as np

from minitxl.config import Config, TrainConfig
from minitxl.experiments.intervals import holm, p_value, spread
from minitxl.experiments.memory_arms import (
    ARMS,
    D_MODEL,
    FAR,
    MIDDLE,
    N_LAYER,
    NEAR,
    QUESTIONS,
    best_rates,
    pilot_jobs,
    rate_of,
)
from minitxl.experiments.parts import Parts
from minitxl.experiments.recall import EDGES, Recall, measure, new_model, train
from minitxl.model.params import Params
from minitxl.training.cost import forward_flops, memory_bytes

LEARNED = 0.95  # of the questions whose pair stands in their own segment
SEGMENTS = 4  # of an update
RIVALS = ("xl", "every", "mean", "delta+")  # of equal bytes, one of each family
LEAD, WORTH = 0.05, 0.25  # of who wins; of what is worth the name
FEW = 32  # pairs up to which that is asked for


@dataclass(frozen=True)
class Settings:
    """The model's widths, the arms, and how they are trained and measured."""

    d_heads: tuple = (64, 16, 32)  # each a budget of d_head + 1 states a layer
    arms: tuple = tuple(name for name in ARMS if name not in ("linear", "tokens+"))
    task: Recall = dataclasses.field(default_factory=Recall)
    start_updates: int = 150  # of the model without memory that all begin as
    start_lr: float = 1e-2
    lrs: tuple = (2.5e-3, 5e-3, 1e-2, 2e-2)
    pilot_seeds: tuple = (100,)
    pilot_episodes: int = 60
    seeds: int = 5
    episodes: int = 120  # texts of 8 segments in each row, with two updates each
    batch_size: int = 16
    rows: int = 32  # texts with which each number of pairs is measured, more for few pairs

    @classmethod
    def quick(cls) -> Settings:
        """A run of a minute, to see that all works: it learns next to nothing."""
        task = Recall(tgt_len=8, n_key=16, n_value=8, n_filler=4, n_pairs=(2, 4))
        few = dict(start_updates=2, pilot_episodes=1, seeds=2, episodes=2, batch_size=4, rows=4)
        return cls(d_heads=(64, 16), task=task, lrs=(5e-3, 1e-2), **few)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Choose a rate for each arm, train it with every budget and seed (a part each), compare."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    pilots = parts.fill(pilot_jobs(piloted, s), progress)
    rates = best_rates(pilots, s)
    done = parts.fill(jobs(rates, s), progress)
    return report(s, parts, pilots, done)


# --- the trainings ------------------------------------------------------------------------------


def jobs(rates: dict, s: Settings) -> dict:
    """Name of a part -> the call that computes it: the reported runs, budget by budget."""
    widest = max(s.d_heads)
    return {
        f"{name}, d_head {d}, seed {seed}": (measured, name, d, rates[name], seed, s)
        for d in s.d_heads
        for seed in range(s.seeds)
        for name in s.arms
        if d == widest or ARMS[name].budgets
    }


def config_of(name: str, d_head: int, s: Settings) -> Config:
    """The arm's configuration."""
    task = s.task
    return Config(
        n_token=task.n_token, n_layer=N_LAYER, d_model=D_MODEL, n_head=D_MODEL // d_head,
        d_head=d_head, d_inner=2 * D_MODEL, tgt_len=task.tgt_len, pre_lnorm=True, dropout=0.0,
        **ARMS[name].sizes(d_head),
    )  # fmt: skip


@functools.cache
def started(d_head: int, seed: int, s: Settings, device: str) -> Params:
    """Return the parameters of a model without memory that answers what its own segment holds.

    It learns on texts of one segment, as long as those of an update together.
    """
    task = dataclasses.replace(s.task, n_segment=1, n_pairs=_few(s.task))
    model = new_model(config_of("none", d_head, s), task, seed, device)
    rows = s.batch_size * SEGMENTS
    train(model, task, _how(s.start_updates, rows, s.start_lr, seed), SEGMENTS)
    return model.params


def _few(task: Recall) -> tuple:
    """The numbers of pairs for which one segment has room, and half the least."""
    return (task.n_pairs[0] // 2, *(n for n in task.n_pairs if n <= task.tgt_len // 2))


def _how(updates: int, rows: int, lr: float, seed: int) -> TrainConfig:
    return TrainConfig(
        steps=updates, batch_size=rows, lr=lr, warmup=min(20, updates // 5), lr_end=0.05,
        clip=1.0, beta2=0.99, threads=1, seed=seed,
    )  # fmt: skip


def trained(name: str, d_head: int, lr: float, seed: int, episodes: int, s: Settings, device: str):
    """Return a trained model and its loss (nats a question): means of 20 stretches of updates.

    It begins with the parameters of `started`; those of its memory are drawn.
    """
    model = new_model(config_of(name, d_head, s), s.task, seed, device)
    for part, values in started(d_head, seed, s, device).items():
        model.params[part] = values
    updates = episodes * s.task.n_segment // SEGMENTS
    how = _how(updates, s.batch_size, lr, seed)
    losses = train(model, s.task, how, SEGMENTS, ARMS[name].through)
    return model, [round(float(x.mean()), 4) for x in np.array_split(losses, min(20, updates))]


def piloted(name: str, lr: float, seed: int, s: Settings, device: str) -> float:
    """Return the loss at the end of a shorter training."""
    return trained(name, max(s.d_heads), lr, seed, s.pilot_episodes, s, device)[1][-1]


def measured(name: str, d_head: int, lr: float, seed: int, s: Settings, device: str) -> dict:
    """Train; ask every key once in longer texts, which are the same for all."""
    model, loss = trained(name, d_head, lr, seed, s.episodes, s, device)
    counts = [measure(model, task, batch) for task, batch in test_texts(s)]
    return {
        "arm": name,
        "d_head": d_head,
        "seed": seed,
        "lr": lr,
        "asked": [c[0].tolist() for c in counts],
        "right": [c[1].tolist() for c in counts],
        "loss": loss,
        "device": model.backend.name,
    }


@functools.cache
def test_texts(s: Settings) -> list:
    """Return (task, batch) for each number of pairs: twice as many segments as in training."""
    task = s.task
    longer = dataclasses.replace(task, n_segment=2 * task.n_segment)
    found = []
    for n_pair in task.n_pairs:
        rows = max(s.rows, 32 * s.rows // n_pair)  # where few are asked in each
        found.append((longer, longer.ask_once(np.random.default_rng([7, n_pair]), rows, n_pair)))
    return found


# --- what follows -------------------------------------------------------------------------------


def report(s: Settings, parts: Parts, pilots: dict, done: dict) -> dict:
    """Return the results of the runs that are done, by arm and budget, and what is compared."""
    cells: list[dict] = []
    for run in done.values():
        if not any((c["arm"], c["d_head"]) == (run["arm"], run["d_head"]) for c in cells):
            cells.append(_cell(run["arm"], run["d_head"], s))
        (cell,) = (c for c in cells if (c["arm"], c["d_head"]) == (run["arm"], run["d_head"]))
        cell["lr"] = run["lr"]
        shares = np.array(run["right"]) / np.maximum(run["asked"], 1)
        few = [i for i, n in enumerate(s.task.n_pairs) if n <= FEW]
        own = np.array([run["asked"], run["right"]])[:, few, 0].sum(axis=1)
        cell["seeds"].append(run["seed"])
        cell["recall"].append(shares[:, 1:].round(4).tolist())
        cell["own_segment"].append(round(float(own[1] / own[0]), 4))
        cell["loss"].append(run["loss"])
    first = next(iter(done.values()))
    results = parts.head("memory-budget", done) | {
        "units": {
            "bytes": "kept between segments by one layer, for one text, in float32",
            "flops": "of the forward pass, a token, with a full memory",
            "recall": "share of right answers, by seed, number of pairs and bin of lags; bin i is "
            "edges[i] <= lag < edges[i + 1], in tokens",
            "asked": "questions of each bin, by number of pairs; the same for all runs",
            "own_segment": f"share of right answers whose pair stands in their own segment, up to "
            f"{FEW} pairs; {LEARNED} counts as learned",
            "loss": "nats a question in training, means of stretches of it, by seed",
        },
        "edges": list(EDGES),
        "chance": 1 / s.task.n_value,
        "asked": [row[1:] for row in first["asked"]],
        "pilots": [
            {"arm": name, "lr": lr, "loss": [
                pilots[f"pilot {name}, lr {lr}, seed {seed}"] for seed in s.pilot_seeds
            ]}
            for name in dict.fromkeys(rate_of(name) for name in s.arms) for lr in s.lrs
        ],
        "cells": cells,
    }  # fmt: skip
    return results | {"differences": _differences(results)}


def _cell(name: str, d_head: int, s: Settings) -> dict:
    """An arm with a budget, before its runs are added."""
    arm, config, task = ARMS[name], config_of(name, d_head, s), s.task
    flops = forward_flops(config.replace(n_token=task.n_value), rows=1)
    return {
        "arm": name,
        "d_head": d_head,
        "label": arm.label,
        "family": arm.family,
        "through": arm.through,
        "states": d_head + 1,
        "bytes": memory_bytes(config) / N_LAYER,
        "flops": round(sum(flops.values()) / task.tgt_len),
        "seeds": [],
        "recall": [],
        "own_segment": [],
        "loss": [],
    }


def cell_of(results: dict, arm: str, d_head: int | None = None) -> dict | None:
    """Return the cell of an arm with a budget (None: the largest), if it was measured."""
    d_head = d_head or max(results["settings"]["d_heads"])
    found = [c for c in results["cells"] if (c["arm"], c["d_head"]) == (arm, d_head)]
    return found[0] if found else None


def recall_of(results: dict, cell: dict, lags=(1, 513), pairs=(1, 128)) -> dict[int, float]:
    """Seed -> recall, the mean over the bins within these lags and the numbers of pairs.

    lags: first, and one beyond the last; pairs: first and last. Bins without questions are left
    out; the rest have the same weight.
    """
    edges, asked = np.array(results["edges"]), np.array(results["asked"])
    n_pairs = np.array(results["settings"]["task"]["n_pairs"])
    rows = (n_pairs >= pairs[0]) & (n_pairs <= pairs[1])
    bins = (edges[:-1] >= lags[0]) & (edges[1:] <= lags[1])
    where = rows[:, None] & bins[None, :] & (asked > 0)
    if not where.any():
        return {}
    shares = (np.array(recall)[where].mean() for recall in cell["recall"])
    return {seed: float(x) for seed, x in zip(cell["seeds"], shares, strict=True)}


def _differences(results: dict) -> list[dict]:
    """Paired differences of recall, by the seeds that both have."""
    found: list[dict] = []
    for question, one, other in QUESTIONS:
        cells = [(cell_of(results, arm, d_head), where) for arm, d_head, *where in (one, other)]
        if any(cell is None for cell, _ in cells):
            continue
        a, b = (recall_of(results, cell, *where) for cell, where in cells)
        by_seed = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
        if by_seed:
            entry = {"question": question, "by_seed": by_seed} | spread(by_seed)
            found.append(entry | {"p": p_value(by_seed)})
    for entry, p in zip(found, holm([d["p"] for d in found]), strict=True):
        entry["p_holm"] = p
    return found


def winners(results: dict, d_head: int) -> list[list[tuple]]:
    """Return by number of pairs and bin of lags who answers best, of RIVALS, and how often.

    A rival wins with a lead of LEAD or more over the next in the mean, and with some with every
    seed; otherwise it is "level". "nobody": the best answers less than WORTH. None: not asked, or
    not all are measured.
    """
    cells = [cell_of(results, name, d_head) for name in RIVALS]
    asked = np.array(results["asked"])
    if any(cell is None for cell in cells):
        return [[(None, 0.0)] * asked.shape[1] for _ in asked]
    n = min(len(cell["seeds"]) for cell in cells)  # jobs go seed by seed: the first are common
    recall = np.array([cell["recall"][:n] for cell in cells])  # (rivals, seeds, pairs, bins)
    mean = recall.mean(axis=1)
    found = []
    for row in range(asked.shape[0]):
        found.append([])
        for lag in range(asked.shape[1]):
            second, best = mean[:, row, lag].argsort(kind="stable")[-2:]
            share = float(mean[best, row, lag])
            leads = recall[best, :, row, lag] - recall[second, :, row, lag]
            wins = leads.min() > 0 and leads.mean() >= LEAD
            name = RIVALS[best] if wins else "level"
            name = "nobody" if share < WORTH else name
            found[-1].append((name, share) if asked[row, lag] else (None, 0.0))
    return found


def difference(results: dict, question: str) -> dict:
    """The entry of `differences` with this question."""
    (found,) = (d for d in results["differences"] if d["question"] == question)
    return found


def summary(results: dict) -> str:
    """Return every arm's recall by lag, and the paired differences."""
    spans = ((1, 33), NEAR, (65, 97), MIDDLE, (161, 257), FAR)
    lines = [
        "recall in %, mean over 4 to 128 pairs and over the seeds, by lag",
        "",
        f"{'arm':36}{'d_head':>7}{'bytes':>8}{'flops':>9}{'rate':>8}{'learned':>9}"
        + "".join(f"{f'{low}-{high - 1}':>9}" for low, high in spans),
    ]
    for c in results["cells"]:
        learned = f"{sum(x >= LEARNED for x in c['own_segment'])}/{len(c['seeds'])}"
        line = f"{c['label']:36}{c['d_head']:7}{c['bytes']:8.0f}{c['flops']:9,}{c['lr']:8g}"
        line += f"{learned:>9}"
        for lags in spans:
            found = recall_of(results, c, lags)
            line += f"{100 * statistics.fmean(found.values()):9.1f}" if found else f"{'-':>9}"
        lines.append(line)
    lines += ["", "paired differences of recall, 95 % intervals, Holm's p", ""]
    for d in results["differences"]:
        line = f"{d['question']:66}{d['mean']:+.3f}"
        if d["interval"] is not None:
            line += " [{:+.3f}, {:+.3f}]".format(*d["interval"]) + f"  p {d['p_holm']:.3f}"
        lines.append(line)
    return "\n".join(lines)
