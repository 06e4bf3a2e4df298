"""The memories of memory-budget on text: bits per character at equal bytes.

The character model of the context experiment (`context.py`) reads its text, in which the second
letter of a name can only be known from the last mention, with the memories of `memory_arms.py`. All
are trained as Transformer-XL is, segment by segment, the gradient stopped at the memory; so the
arms that let it through are left out. Rates are chosen on a pilot seed, as in memory-budget. Told
are the bits of held-out text, and of its names' second letters alone, by the distance to the last
mention; differences to XL are paired by seed, with Holm's correction.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

from minitxl.data.stream import segments
from minitxl.data.text import load_corpus
from minitxl.experiments.codes import coded_text
from minitxl.experiments.intervals import holm, p_value, spread
from minitxl.experiments.memory_arms import ARMS, best_rates, pilot_jobs
from minitxl.experiments.parts import Parts
from minitxl.experiments.small import fitted_as
from minitxl.inference.plain import PlainReader
from minitxl.inference.units import bits

EDGES = (2, 16, 32, 64, 128, 256, 512)  # characters to the last mention
COPIES = 1.0  # bits of a second letter below which a model has learned to copy it; a guess: 4.7


@dataclass(frozen=True)
class Settings:
    """The model and its training, as in `context.py`, and the budget."""

    arms: tuple = ("none", "xl", "every", "mean", "conv", "linear", "delta")
    seeds: int = 5
    steps: int = 6000
    tokens_per_step: int = 512
    lrs: tuple = (2e-3, 4e-3, 8e-3)
    pilot_seeds: tuple = (100,)
    warmup: int = 100
    n_layer: int = 2
    d_model: int = 64
    n_head: int = 2  # of 32: a budget of 33 states a layer
    d_inner: int = 256
    init_std: float = 0.1
    tgt_len: int = 16
    n_char: int = 200_000  # of held-out text
    batch_size: int = 8  # rows of it, read side by side

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works: it learns next to nothing."""
        sizes = dict(d_model=16, d_inner=16)
        return cls(**sizes, seeds=2, steps=4, tokens_per_step=64, n_char=4000, batch_size=2)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Choose each arm's rate, then train and measure it with every seed; a part each."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    pilots = parts.fill(pilot_jobs(piloted, s), progress)
    rates = best_rates(pilots, s)
    jobs = {
        f"{name}, seed {seed}": (measured, name, rates[name], seed, s)
        for seed in range(s.seeds)
        for name in s.arms
    }
    done = parts.fill(jobs, progress)
    runs = {name: [done[f"{name}, seed {seed}"] for seed in range(s.seeds)] for name in s.arms}
    arms = [
        {"arm": name, "label": ARMS[name].label, "lr": rates[name]}
        | {key: [run[key] for run in runs[name]] for key in ("bpc", "names", "loss")}
        for name in s.arms
    ]
    for arm in arms:
        pairs = zip(runs[arm["arm"]], runs["xl"], strict=True)
        by_seed = [run["bpc"] - xl["bpc"] for run, xl in pairs]
        arm["minus_xl"] = {"by_seed": by_seed} | spread(by_seed)
    others = [arm["minus_xl"] for arm in arms if arm["arm"] != "xl"]
    for entry, p in zip(others, holm([p_value(x["by_seed"]) for x in others]), strict=True):
        entry["p_holm"] = p
    return parts.head("memory-text", done) | {
        "units": {
            "bpc": "bits per character of held-out text, by seed",
            "names": "bits of a name's second letter, by seed and distance to its last mention; "
            "stretch i is edges[i] <= distance < edges[i + 1]",
            "minus_xl": "bits per character more than XL's: paired, 95 % interval, Holm's p",
            "loss": "nats per character in training, means of stretches of it, by seed",
            "pilots": "the same at the end of the training, on seeds that are not reported",
        },
        "edges": list(EDGES),
        "pilots": pilots,
        "arms": arms,
    }


def trained(name: str, lr: float, seed: int, s: Settings, device: str):
    """Return an arm's trained model, and its loss: means (nats) of stretches of the training."""
    corpus = load_corpus()
    n_char = s.steps * s.tokens_per_step + s.tokens_per_step // s.tgt_len
    return fitted_as(
        s, coded_text(corpus, "train", n_char, seed).ids, seed, device, lr=lr,
        n_token=corpus.vocab.n_token, tgt_len=s.tgt_len, init_std=s.init_std,
        **ARMS[name].sizes(s.d_model // s.n_head),
    )  # fmt: skip


def piloted(name: str, lr: float, seed: int, s: Settings, device: str) -> float:
    """Return the loss at the end of a training."""
    return trained(name, lr, seed, s, device)[1][-1]


def measured(name: str, lr: float, seed: int, s: Settings, device: str) -> dict:
    """Train an arm, and read held-out text."""
    model, loss = trained(name, lr, seed, s, device)
    text = coded_text(load_corpus(), "test", s.n_char, 0)
    reader, parts = PlainReader(model, s.batch_size), []
    for x, y in segments(text.ids, batch_size=s.batch_size, tgt_len=s.tgt_len):
        parts.append(model.backend.to_numpy(reader.score(x, y)))
    # (B, T) each, of rows that are contiguous parts of the text -> the nll of character i + 1 at i
    nll = np.concatenate(parts, axis=1).reshape(-1).astype(np.float64)
    known = text.place <= len(nll)
    paid, distance = nll[text.place[known] - 1], text.distance[known]
    names = [
        round(bits(float(paid[here].mean())), 4) if here.any() else None
        for low, high in pairwise(EDGES)
        for here in [(distance >= low) & (distance < high)]
    ]
    bpc = bits(float(nll.mean()))
    return {"bpc": bpc, "names": names, "loss": loss, "device": model.backend.name}


def learned(names: list) -> bool:
    """Whether a run has learned to copy a name's second letter from a mention that is near."""
    return names[0] < COPIES


def summary(results: dict) -> str:
    """Return every arm's bits, and what it pays more than XL."""
    spans = [f"{low}-{high - 1}" for low, high in pairwise(results["edges"])]
    lines = [
        "bits per character, and of a name's second letter by the distance to its last mention",
        "",
        f"{'arm':36}{'bpc':>8}{'more than XL':>34}" + "".join(f"{x:>9}" for x in spans),
    ]
    for arm in results["arms"]:
        more = arm["minus_xl"]
        line = f"{arm['label']:36}{spread(arm['bpc'])['mean']:8.3f}"
        said = f"{more['mean']:+.3f}"
        if more["interval"] is not None and "p_holm" in more:
            said += " [{:+.3f}, {:+.3f}]".format(*more["interval"]) + f" p {more['p_holm']:.3f}"
        line += f"{said:>34}"
        for column in zip(*arm["names"], strict=True):
            known = [x for x in column if x is not None]
            line += f"{spread(known)['mean']:9.2f}" if known else f"{'-':>9}"
        lines.append(line)
    return "\n".join(lines)
