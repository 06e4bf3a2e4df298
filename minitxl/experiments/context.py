"""How far does a model really look? What a name costs, against the distance to its last mention.

The text (`codes.py`) has names whose second letter only an earlier mention tells. Every model reads
the same targets of held-out text three times:
  true      with the history as it is
  foreign   with all before the last mention, and the mention itself, taken from another place
  renamed   with the name's earlier mentions in this piece called otherwise, all else as it is
The gain at a distance is what is paid more when the mention is gone. Foreign text may also mislead,
with the same first letter before another second; a renamed mention cannot, so that its gain is at
most about ln 26: it is the one that counts here.

How far the gain carries is said by the half-distance: gains are made to fall with the distance (the
nearest curve that never rises, by least squares), and where they are below half of what they are
under 16 characters, there it lies. A model that has not learned to copy has one too, which says
nothing. So a run counts as learned where a name whose mention lies within half the ceiling costs
less than a nat; the half-distance of every run is told, learned or not.

Ceilings: a model without recurrence sees T - 1 characters before its last input at most, if the
window slides on by one character for each; read in fixed segments it sees half of that on average.
With recurrence and fixed segments the average query has T / 2 + M before it in each layer. The
percentage between the two is so a choice of M / T, which is why three of them are trained.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minitxl.config import RELATIVE, SINUSOID
from minitxl.data.text import load_corpus
from minitxl.experiments.codes import Coded, coded_text
from minitxl.experiments.intervals import spread
from minitxl.experiments.parts import Parts, each_seed
from minitxl.experiments.small import fitted_as
from minitxl.model.reach import exact_reach

HISTORIES = ("true", "foreign", "renamed")
NEAR = 16  # characters: gains under it are the full gain
LEARNED = 1.0  # nats at most
LONG = "xl-112"  # the arm that is read with a longer memory, too
EDGES = (2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768)


class Arm(NamedTuple):
    """One kind of model."""

    label: str
    tgt_len: int
    mem_len: int
    attn_type: int = RELATIVE


ARMS = {
    "xl-112": Arm("Transformer-XL, M = 112", 16, 112),
    "xl-48": Arm("Transformer-XL, M = 48", 16, 48),
    "relative-128": Arm("relative positions, window of 128", 128, 0),
    "vanilla-128": Arm("vanilla, window of 128", 128, 0, SINUSOID),
    "vanilla-16": Arm("vanilla, window of 16", 16, 0, SINUSOID),
    "xl-16": Arm("Transformer-XL, M = T", 16, 16),
    "xl-alone": Arm("relative positions, window of 16", 16, 0),
}


@dataclass(frozen=True)
class Settings:
    """The models, their training, and the targets."""

    arms: tuple = tuple(ARMS)
    seeds: int = 5
    steps: int = 6000
    tokens_per_step: int = 512
    lr: float = 2e-3
    warmup: int = 100
    n_layer: int = 2
    d_model: int = 64
    n_head: int = 2
    d_inner: int = 256
    init_std: float = 0.1  # so small a model else stands still for long before it begins to copy
    longer: int = 448  # the longer memory
    n_char: int = 1_000_000  # of held-out text, in which the targets are
    n_target: int = 100  # at most, for each stretch of distances

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works: it learns next to nothing."""
        sizes = dict(d_model=16, d_inner=16, n_layer=2)
        few = dict(seeds=1, steps=4, tokens_per_step=256, longer=160)
        return cls(**sizes, **few, n_char=60_000, n_target=3)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Train and measure every arm with every seed (a part each); return gains and distances."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    done = parts.fill(each_seed(measured, s.arms, s), progress)
    arms = []
    for name in s.arms:
        runs = [done[f"{name}, seed {seed}"] for seed in range(s.seeds)]
        readings = [
            _described([run["readings"][key] for run in runs]) for key in runs[0]["readings"]
        ]
        arm = {"arm": name, **ARMS[name]._asdict(), "readings": readings}
        arms.append(arm | {"loss": [run["loss"] for run in runs]})
    return parts.head("context", done) | {
        "units": {
            "edges": "characters to the last mention; stretch i is edges[i] <= distance < [i + 1]",
            "nll": "nats of a name's second letter, by history, run and stretch",
            "half_distance": "characters, by the gain over renamed mentions, for each run",
            "half_distance_foreign": "the same by the gain over foreign history",
            "learned": f"true history costs under {LEARNED} nat up to half the ceiling, by run",
            "ceiling": "characters before the average query that it can see in one layer",
            "loss": "nats per character in training, means of stretches of it, for each run",
        },
        "edges": list(EDGES),
        "arms": arms,
    }


# --- one run ------------------------------------------------------------------------------------


def measured(name: str, seed: int, s: Settings, device: str) -> dict:
    """Train an arm, and read the targets in every way that it can be read."""
    arm, corpus = ARMS[name], load_corpus()
    n_char = s.steps * s.tokens_per_step + s.tokens_per_step // arm.tgt_len
    model, loss = fitted_as(
        s, coded_text(corpus, "train", n_char, seed).ids, seed, device,
        n_token=corpus.vocab.n_token, attn_type=arm.attn_type, tgt_len=arm.tgt_len,
        mem_len=arm.mem_len, init_std=s.init_std,
    )  # fmt: skip
    targets = chosen(s)
    readings = {}
    for key, (mem_len, slides) in ways(name, s).items():
        read = model.with_options(mem_len=mem_len)
        losses = {h: losses_of(read, targets, h, slides) for h in HISTORIES}
        ceiling = arm.tgt_len - 1 if slides else arm.tgt_len / 2 + mem_len
        readings[key] = {"reading": key, "mem_len": mem_len, "slides": slides, "ceiling": ceiling}
        readings[key] |= found_in(losses, targets.distance, ceiling)
    return {"device": model.backend.name, "loss": loss, "readings": readings}


def ways(name: str, s: Settings) -> dict:
    """How an arm is read: name -> (mem_len, whether the window slides by one character)."""
    mem_len = ARMS[name].mem_len
    if not mem_len:
        return {"fixed": (0, False), "sliding": (0, True)}
    longer = {"longer memory": (s.longer, False)} if name == LONG else {}
    return {"memory": (mem_len, False)} | longer


def chosen(s: Settings) -> Coded:
    """The targets: the same for all runs, for each stretch of distances as many as there are, at
    most n_target, from places of the held-out text with enough before and after them."""
    text = coded_text(load_corpus(), "test", s.n_char, 0)
    rng, at = np.random.default_rng(0), []
    margin = reach_of(s.longer, s) + 2 * max(ARMS[name].tgt_len for name in ARMS)
    enough = (text.place > margin) & (text.place < len(text.ids) - margin)
    for low, high in pairwise(EDGES):
        here = np.flatnonzero(enough & (text.distance >= low) & (text.distance < high))
        at.append(rng.permutation(here)[: s.n_target])
    at = np.sort(np.concatenate(at))
    return Coded(text.ids, *(column[at] for column in text[1:]))


def reach_of(mem_len: int, s: Settings) -> int:
    """Characters before a segment of 16 that can change it."""
    return exact_reach(s.n_layer, 16, mem_len)


def losses_of(model, targets: Coded, history: str, slides: bool) -> np.ndarray:
    """Return the loss (nats) of every target (N,) after a history of one of HISTORIES.

    The target is the one after the last input of its segment if the window slides; else its place
    in the segment is uniform. What can reach the segment is read before, from an empty memory.
    """
    c = model.config
    n, t = len(targets.place), c.tgt_len
    before = -(-exact_reach(c.n_layer, t, c.mem_len) // t) * t
    offset = np.full(n, t - 1) if slides else np.random.default_rng(1).integers(0, t, n)
    first = targets.place - 1 - offset - before  # of what is read, (N,)
    at = first[:, None] + np.arange(before + t)  # (N, L) places in the text
    ids = targets.ids[at].astype(np.int32)
    gone = at <= (targets.place - targets.distance)[:, None]
    if history == "foreign":
        # The same places before another target, one far away in the text.
        other = np.roll(targets.place, n // 2) - targets.place
        ids = np.where(gone, targets.ids[at + other[:, None]], ids)
    elif history == "renamed":
        gone &= at >= targets.start[:, None]
        for back, free in ((1, 0), (0, 1)):  # no other name of the piece has one of the letters
            letter = targets.ids[targets.place - back][:, None]
            ids = np.where(gone & (ids == letter), targets.free[:, free][:, None], ids)
    want = np.zeros((n, t), dtype=np.int32)
    want[np.arange(n), offset] = targets.ids[targets.place]
    losses = []
    rows = 256 if model.backend.name == "cpu" else n
    for top in range(0, n, rows):
        some, mems = slice(top, top + rows), None
        for start in range(0, before, t):
            _, mems = model.score(ids[some, start : start + t], want[some], mems)
        nll, _ = model.score(ids[some, before:], want[some], mems)
        nll = model.backend.to_numpy(nll)  # (rows, T)
        losses.append(nll[np.arange(len(nll)), offset[some]])
    return np.concatenate(losses).astype(np.float64)


# --- what follows from the losses ---------------------------------------------------------------


def found_in(losses: dict, distance: np.ndarray, ceiling: float) -> dict:
    """Means by stretch, half-distances and whether it has learned, from losses (N,) by history."""
    stretch = np.digitize(distance, EDGES) - 1
    places = range(len(EDGES) - 1)
    means = {
        h: [round(float(x[stretch == i].mean()), 4) if (stretch == i).any() else None
            for i in places]
        for h, x in losses.items()
    }  # fmt: skip
    gains = {h: losses[h] - losses["true"] for h in HISTORIES[1:]}
    inside = losses["true"][distance <= ceiling / 2]
    return {
        "nll": means,
        "near_gain": {h: round(float(g[distance < NEAR].mean()), 4) for h, g in gains.items()},
        "half_distance": half_distance(distance, gains["renamed"]),
        "half_distance_foreign": half_distance(distance, gains["foreign"]),
        "learned": bool(inside.mean() < LEARNED),
    }


def half_distance(distance, gain) -> int | None:
    """Return the first distance from which the gain, made to fall, is below half of that under 16.

    None: it is not below it at any distance that was measured.
    """
    order = np.argsort(distance, kind="stable")
    fall = falling(gain[order])
    below = np.flatnonzero(fall < gain[distance < NEAR].mean() / 2)
    return int(distance[order][below[0]]) if len(below) else None


def falling(y) -> np.ndarray:
    """Return the never rising numbers nearest to y (N,) by least squares (pooled neighbours)."""
    blocks: list = []  # (mean, count)
    for value in y:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] < mean:
            other, n = blocks.pop()
            mean, count = (mean * count + other * n) / (count + n), count + n
        blocks.append((mean, count))
    means, counts = zip(*blocks, strict=True)
    return np.repeat(means, counts)


def _described(runs: list[dict]) -> dict:
    """One way of reading, with the numbers of all runs."""
    first, *_ = runs
    halves = [run["half_distance"] for run in runs]
    known = [x for x, run in zip(halves, runs, strict=True) if run["learned"] and x is not None]
    fixed = {key: first[key] for key in ("reading", "mem_len", "slides", "ceiling")}
    names = ("near_gain", "half_distance", "half_distance_foreign", "learned")
    return fixed | {
        "nll": {h: [run["nll"][h] for run in runs] for h in HISTORIES},
        **{key: [run[key] for run in runs] for key in names},
        "of_learned": spread(known) if known else None,
    }


def summary(results: dict) -> str:
    """Return a table: ceiling, learned, half-distance of every run, gains near and far."""
    lines = [
        "half-distance in characters, every run (in brackets: not learned); gain in nats over "
        "renamed mentions",
        "",
        f"{'arm':34}{'read':>15}{'ceiling':>9}{'learned':>9}  half-distances",
    ]
    for arm in results["arms"]:
        for r in arm["readings"]:
            cells = [
                f"{x or '>'}" if learned else f"({x or '>'})"
                for x, learned in zip(r["half_distance"], r["learned"], strict=True)
            ]
            near = statistics.fmean(x["renamed"] for x in r["near_gain"])
            lines.append(
                f"{arm['label']:34}{r['reading']:>15}{r['ceiling']:9.0f}"
                f"{sum(r['learned']):>5} of {len(r['learned'])}  {', '.join(cells)}"
                f"; gain under {NEAR}: {near:.2f}"
            )
    lines += ["", f"ln 26 = {math.log(26):.2f}"]
    return "\n".join(lines)
