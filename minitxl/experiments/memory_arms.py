"""The arms of the memory-budget experiment, and what is compared with what."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from minitxl.config import Memory

N_LAYER, D_MODEL = 2, 64
RATE = 4  # c: states that become one


class Arm(NamedTuple):
    """One memory. sizes: d_head -> the fields of Config that make it."""

    label: str
    family: str
    sizes: Callable[[int], dict]
    through: bool = False
    budgets: bool = False  # measured with every d_head, not only with the widest


def _compressive(d_head: int, **options) -> dict:
    fine = RATE * ((d_head + 1) // 8)  # half of the budget, in whole groups
    coarse = d_head + 1 - fine
    return dict(
        mem_len=fine, memory=Memory(kind="compressive", n_coarse=coarse, rate=RATE, **options)
    )


def _matrix(d_head: int, rule: str, feature: str = "unit") -> dict:
    return dict(mem_len=0, memory=Memory(kind="matrix", rule=rule, feature=feature))


ARMS = {
    "xl": Arm("XL: the last M states", "xl", lambda d: dict(mem_len=d + 1), budgets=True),
    "every": Arm(
        "every 4th state kept", "eviction", lambda d: _compressive(d, compress="every"),
        budgets=True,
    ),
    "mean": Arm(
        "compressive, mean", "compressive", lambda d: _compressive(d, compress="mean"),
        budgets=True,
    ),
    "delta+": Arm(
        "matrix, delta, gradient through", "matrix", lambda d: _matrix(d, "delta"), True,
        budgets=True,
    ),
    "delta": Arm("matrix, delta", "matrix", lambda d: _matrix(d, "delta")),
    "sum+": Arm("matrix, sum, gradient through", "matrix", lambda d: _matrix(d, "sum"), True),
    "sum": Arm("matrix, sum", "matrix", lambda d: _matrix(d, "sum")),
    "conv": Arm(
        "compressive, convolution", "compressive",
        lambda d: _compressive(d, compress="conv", loss="attention"),
    ),
    "random": Arm("random states kept", "eviction", lambda d: _compressive(d, compress="random")),
    "xl-all": Arm("XL, everything kept", "all", lambda d: dict(mem_len=512)),
    "xl+": Arm("XL, gradient through", "xl", lambda d: dict(mem_len=d + 1), True),
    "mean+": Arm(
        "compressive, mean, gradient through", "compressive",
        lambda d: _compressive(d, compress="mean"), True,
    ),
    "none": Arm("no memory", "none", lambda d: dict(mem_len=0)),
    "linear": Arm(
        "matrix, sum over its weights", "matrix", lambda d: _matrix(d, "sum", "elu")
    ),
    "tokens+": Arm(
        "memory tokens, gradient through", "tokens",
        lambda d: dict(mem_len=0, memory=Memory(kind="tokens", n_slot=N_LAYER * (d + 1))), True,
    ),
}  # fmt: skip
"""By name. The sum of unit keys grows with the text; on a long one it needs its weights' sum for a
denominator ("linear"). Memory tokens are kept once, not by each layer: so there are N times as
many."""


def rate_of(name: str) -> str:
    """The arm on whose pilots an arm's rate is chosen: the states kept are read alike."""
    kin = {"every": "xl", "random": "xl", "xl-all": "xl", "xl+": "xl", "none": "xl"}
    return (kin | {"mean+": "mean"}).get(name, name)


def pilot_jobs(piloted: Callable, s) -> dict:
    """Name of a part -> piloted(arm, rate, seed, s): rates on seeds that are not reported."""
    return {
        f"pilot {name}, lr {lr}, seed {seed}": (piloted, name, lr, seed, s)
        for name in dict.fromkeys(rate_of(name) for name in s.arms)
        for seed in s.pilot_seeds
        for lr in s.lrs
    }


def best_rates(pilots: dict, s) -> dict:
    """Arm -> the rate with the lowest mean loss over the end of the pilot trainings."""

    def loss(name, lr):
        return statistics.fmean(pilots[f"pilot {name}, lr {lr}, seed {x}"] for x in s.pilot_seeds)

    return {name: min(s.lrs, key=lambda lr: loss(rate_of(name), lr)) for name in s.arms}


# --- what is compared ---------------------------------------------------------------------------

SPARSE, UP_TO_16, DENSE, MANY = (1, 8), (1, 16), (64, 128), (32, 128)  # numbers of pairs
NEAR, MIDDLE, PAST, BEYOND, FAR = (33, 65), (97, 161), (33, 513), (97, 513), (257, 513)  # lags
QUESTIONS = (  # question, two of (arm, d_head or None for the widest, lags, pairs)
    ("up to 8 pairs, lags 97-160: mean, not every 4th",
     ("mean", None, MIDDLE, SPARSE), ("every", None, MIDDLE, SPARSE)),
    ("64 pairs and more, lags 97-160: mean, not every 4th",
     ("mean", None, MIDDLE, DENSE), ("every", None, MIDDLE, DENSE)),
    ("lags 97-160: convolution, not mean",
     ("conv", None, MIDDLE, (1, 128)), ("mean", None, MIDDLE, (1, 128))),
    ("lags from 97: random, not every 4th",
     ("random", None, BEYOND, (1, 128)), ("every", None, BEYOND, (1, 128))),
    ("up to 16 pairs, lags from 97: delta+, not XL",
     ("delta+", None, BEYOND, UP_TO_16), ("xl", None, BEYOND, UP_TO_16)),
    ("up to 16 pairs, lags from 97: delta+, not mean",
     ("delta+", None, BEYOND, UP_TO_16), ("mean", None, BEYOND, UP_TO_16)),
    ("64 pairs and more, lags 97-160: mean, not delta+",
     ("mean", None, MIDDLE, DENSE), ("delta+", None, MIDDLE, DENSE)),
    ("64 pairs and more, lags 33-64: XL, not delta+",
     ("xl", None, NEAR, DENSE), ("delta+", None, NEAR, DENSE)),
    ("64 pairs and more, lags from 97: everything kept, not delta+",
     ("xl-all", None, BEYOND, DENSE), ("delta+", None, BEYOND, DENSE)),
    ("up to 16 pairs: delta+ at lags from 257, not at 97-160",
     ("delta+", None, FAR, UP_TO_16), ("delta+", None, MIDDLE, UP_TO_16)),
    ("32 pairs and more, lags from 33: delta+ with d_head 64, not 16",
     ("delta+", 64, PAST, MANY), ("delta+", 16, PAST, MANY)),
    *((f"lags from 33: gradient through, {name}",
       (f"{name}+", None, PAST, (1, 128)), (name, None, PAST, (1, 128)))
      for name in ("xl", "mean", "sum", "delta")),
    ("lags from 33: delta+, not sum+",
     ("delta+", None, PAST, (1, 128)), ("sum+", None, PAST, (1, 128))),
)  # fmt: skip
