"""What recurrence and the encoding are worth: the paper's ablation in miniature, second edition.

The paper (sec. 4.2, table 6) takes recurrence or its relative encoding away from a model of words,
and leaves one cell out: recurrence with absolute positions. Here every encoding of `arms.py` is
trained with a memory and without, and beside them what costs as much memory as the recurrence does:
a model without it, whose segments are longer (table 10: 176 words for 128).

Each arm is trained with three learning rates on pilot seeds, and with the best of them (bits of the
validation text, read as in training) on other seeds, which alone are reported. Seed s of one arm
and of another read the same text from the same place, so that their difference is a paired one.

How a model is read decides what its lack of a memory costs. All of them read the test text
  memory   as in training, with the memory (those that have one)
  chunks   in disjoint segments, each from nothing: the first characters of each are guessed
  stride   by a window of a segment's length that moves on by half of it: each character has half
           a window before it, or more. What is lost to fragmentation is mended, at twice the price
Differences are tested by Student's t over paired seeds, with Holm's correction for all of them.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

import numpy as np

from minitxl.config import Config, TrainConfig
from minitxl.data.stream import segments
from minitxl.data.text import load_corpus
from minitxl.experiments.arms import ARMS, change_of, comparisons
from minitxl.experiments.intervals import holm, p_value, spread
from minitxl.experiments.parts import Parts
from minitxl.experiments.small import fitted
from minitxl.inference.evaluate import evaluate
from minitxl.inference.plain import PlainReader
from minitxl.inference.sliding import evaluate_sliding
from minitxl.inference.units import bits

READINGS = ("memory", "chunks", "stride")


@dataclass(frozen=True)
class Settings:
    """Size and training of every arm, and the text that they are measured on."""

    corpus: str = "war-and-peace"
    arms: tuple = tuple(ARMS)
    seeds: int = 5  # of every arm: 0, 1, ...
    pilot_seeds: tuple = (100, 101)
    lrs: tuple = (2e-3, 4e-3, 8e-3)
    steps: int = 1000
    batch_size: int = 64
    tgt_len: int = 32  # also the memory's length, where there is one
    equal_len: int = 44  # of the segments that take as much memory without recurrence
    n_layer: int = 2
    d_model: int = 96
    n_head: int = 3
    d_inner: int = 384
    warmup: int = 100
    n_tokens: int = 140_000  # at most, from the start of the validation and of the test text

    @classmethod
    def quick(cls) -> Settings:
        """Models that have learned next to nothing, to see that all works."""
        sizes = dict(n_layer=1, d_model=8, n_head=2, d_inner=8, tgt_len=8, equal_len=11)
        few = dict(seeds=2, pilot_seeds=(100,), lrs=(2e-3, 4e-3), steps=6, batch_size=4)
        return cls(**sizes, **few, warmup=2, n_tokens=2000)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Choose the rates, train and measure every arm and seed (a part each), and compare."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    pilots = parts.fill(pilot_jobs(s), progress)
    rates = best_rates(pilots, s)
    done = parts.fill(jobs(rates, s), progress)
    cells = {
        name: _cell(name, rates, [done[f"{name}, seed {seed}"] for seed in range(s.seeds)])
        for name in s.arms
    }
    return parts.head("ablation", done) | {
        "units": {
            "bpc": "bits per character of the test text, by reading, one for each seed",
            "by_position": "as in training: bits at position 0, 1, ... of a segment, by seed",
            "pilots": "bits per character of the validation text, by rate, one for each seed",
            "paper_perplexity": "per word of WikiText-103 (table 6, 10); null: not in the paper",
            "interval": "95 % by Student's t over paired seeds; null: a single seed",
            "p": "two-sided, by Student's t over paired seeds; p_holm: corrected for all of them",
        },
        "pilots": _pilots(pilots, s),
        "cells": list(cells.values()),
        "differences": _differences(cells, s),
    }


# --- what is trained ----------------------------------------------------------------------------


def pilot_jobs(s: Settings) -> dict:
    """Name of a part -> the call that computes it: rates on pilot seeds."""
    return {
        f"pilot {name}, lr {lr}, seed {seed}": (piloted, name, lr, seed, s)
        for seed in s.pilot_seeds
        for name in s.arms
        if ARMS[name].rate_of is None
        for lr in s.lrs
    }


def best_rates(pilots: dict, s: Settings) -> dict:
    """Arm -> its rate, the one with the lowest mean over the pilot seeds."""

    def mean(name, lr):
        parts = (pilots[f"pilot {name}, lr {lr}, seed {seed}"] for seed in s.pilot_seeds)
        return statistics.fmean(part["bpc"] for part in parts)

    asked = {name: ARMS[name].rate_of or name for name in s.arms}
    return {name: min(s.lrs, key=lambda lr: mean(other, lr)) for name, other in asked.items()}


def jobs(rates: dict, s: Settings) -> dict:
    """Name of a part -> the call that computes it: the reported runs."""
    return {
        f"{name}, seed {seed}": (measured, name, rates[name], seed, s)
        for seed in range(s.seeds)
        for name in s.arms
    }


def trained(name: str, lr: float, seed: int, s: Settings, device: str):
    """Return an arm's model and its learning curve."""
    arm, corpus = ARMS[name], load_corpus(s.corpus)
    tgt_len = s.equal_len if arm.longer_segments else s.tgt_len
    config = Config(
        n_token=corpus.vocab.n_token, n_layer=s.n_layer, d_model=s.d_model, n_head=s.n_head,
        d_head=s.d_model // s.n_head, d_inner=s.d_inner, tgt_len=tgt_len,
        mem_len=tgt_len if arm.recurrence else 0, attn_type=arm.attn_type,
        pre_lnorm=True, dropout=0.0,  # the text is read about once
    )  # fmt: skip
    how = TrainConfig(
        steps=s.steps, batch_size=s.batch_size, lr=lr, warmup=s.warmup, seed=seed,
        loss_on=arm.loss_on,
    )  # fmt: skip
    text = np.roll(corpus.train, -seed * 100_003)  # every seed begins somewhere else
    return fitted(config, how, text, device, change_of(name))


def piloted(name: str, lr: float, seed: int, s: Settings, device: str) -> dict:
    """Train with a rate; bits of the validation text, read as in training."""
    model, loss = trained(name, lr, seed, s, device)
    tokens = load_corpus(s.corpus).valid[: s.n_tokens + 1]
    return {"bpc": bits_by_position(model, tokens, s.batch_size)["bpc"], "loss": loss[-1]}


def measured(name: str, lr: float, seed: int, s: Settings, device: str) -> dict:
    """Train, and read the test text in every way."""
    model, loss = trained(name, lr, seed, s, device)
    tokens, t = load_corpus(s.corpus).test[: s.n_tokens + 1], model.config.tgt_len
    as_trained = bits_by_position(model, tokens, s.batch_size)
    bpc = {"memory": as_trained["bpc"]} if model.config.mem_len else {}
    bpc["chunks"] = evaluate(model, tokens, s.batch_size, mem_len=0, threads=1, cached=False).bpc
    bpc["stride"] = evaluate_sliding(model, tokens, t, t // 2, 256, threads=1).bpc
    found = {"bpc": bpc, "by_position": as_trained["by_position"]}
    found["n_predicted"] = as_trained["n_token"]
    return found | {"n_params": model.n_params, "loss": loss, "device": model.backend.name}


def bits_by_position(model, tokens, batch_size: int) -> dict:
    """Read tokens (1-D ids) with the model's own lengths; bits per character by position.

    Returns by_position (T values), bpc of all characters, and n_token, how many were predicted.
    """
    c, back = model.config, model.backend
    reader = PlainReader(model, batch_size)
    total, count = np.zeros(c.tgt_len), np.zeros(c.tgt_len)
    for x, y in segments(tokens, batch_size=batch_size, tgt_len=c.tgt_len):
        nll = back.to_numpy(reader.score(x, y)).astype(np.float64)  # (B, T)
        total[: y.shape[1]] += nll.sum(axis=0)  # (the last segment may be shorter)
        count[: y.shape[1]] += len(y)
    return {
        "by_position": [round(bits(x), 5) for x in total / np.maximum(count, 1)],
        "bpc": bits(total.sum() / count.sum()),
        "n_token": int(count.sum()),
    }


# --- what follows -------------------------------------------------------------------------------


def _pilots(pilots: dict, s: Settings) -> list[dict]:
    return [
        {"member": name, "lr": lr, "bpc": [
            pilots[f"pilot {name}, lr {lr}, seed {seed}"]["bpc"] for seed in s.pilot_seeds
        ]}
        for name in s.arms
        if ARMS[name].rate_of is None
        for lr in s.lrs
    ]  # fmt: skip


def _cell(name: str, rates: dict, runs: list[dict]) -> dict:
    """One arm with its numbers for every seed."""
    arm, first = ARMS[name], runs[0]
    return {
        "member": name,
        "label": arm.label,
        "recurrence": arm.recurrence,
        "loss_on": arm.loss_on,
        "lr": rates[name],
        "n_params": first["n_params"],
        "n_predicted": first["n_predicted"],
        "paper_perplexity": arm.paper,
        "bpc": {key: [run["bpc"][key] for run in runs] for key in first["bpc"]},
        "by_position": [run["by_position"] for run in runs],
        "loss": [run["loss"] for run in runs],
    }


def _differences(cells: dict, s: Settings) -> list[dict]:
    """Paired differences of bits, seed by seed; above 0: it costs bits."""
    found = []
    for question, terms in comparisons(s.arms):
        by_seed = [
            sum(sign * cells[name]["bpc"][reading][seed] for sign, name, reading in terms)
            for seed in range(s.seeds)
        ]
        entry = {"question": question, "terms": terms, "by_seed": by_seed} | spread(by_seed)
        found.append(entry | {"p": p_value(by_seed)})
    for entry, p in zip(found, holm([d["p"] for d in found]), strict=True):
        entry["p_holm"] = p
    return found


def difference(results: dict, question: str) -> dict:
    """The entry of `differences` with this question."""
    (found,) = (d for d in results["differences"] if d["question"] == question)
    return found


def summary(results: dict) -> str:
    """Return the arms and the paired differences as two tables."""
    n = results["settings"]["seeds"]
    lines = [
        f"bits per character of {results['cells'][0]['n_predicted']:,} test characters, means of "
        f"{n} seed(s) +- standard deviation",
        "",
        f"{'arm':38}{'rate':>8}" + "".join(f"{x:>18}" for x in READINGS) + f"{'paper, ppl':>12}",
    ]
    for cell in results["cells"]:
        line = f"{cell['label']:38}{cell['lr']:8g}"
        for key in READINGS:
            found = spread(cell["bpc"][key]) if key in cell["bpc"] else None
            sd = f" +- {found['sd']:.3f}" if found and found["sd"] is not None else ""
            line += (f"{found['mean']:.3f}{sd}" if found else "-").rjust(18)
        ppl = cell["paper_perplexity"]
        lines.append(line + ("-" if ppl is None else f"{ppl:.2f}").rjust(12))
    lines += ["", "paired differences (above 0: it costs bits), 95 % intervals, Holm's p", ""]
    for d in results["differences"]:
        line = f"{d['question']:66}{d['mean']:+.3f}"
        if d["interval"] is not None:
            line += " [{:+.3f}, {:+.3f}]".format(*d["interval"]) + f"  p {d['p_holm']:.3f}"
        lines.append(line)
    return "\n".join(lines)
