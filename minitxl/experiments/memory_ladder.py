"""Memory at evaluation against memory in training: a ladder of models that differ in it alone.

The paper (sec. 4.2, table 6) evaluates its models with longer attention than they were trained with
and gains by it. Here Transformer-XLs of three lengths, T = M, are trained on equally many
characters, each from several seeds, and every one reads the test text with memories from none to
many times its own:
  plain      nothing else is changed
  clamp_len  the longest distance told apart is T + M - 1, the longest seen in training
in segments of its own T. Differences are to the same model's trained memory, seed by seed, with
Holm's correction over all of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from minitxl.data.text import load_corpus
from minitxl.experiments.intervals import holm, p_value, spread
from minitxl.experiments.parts import Parts, each_seed
from minitxl.experiments.small import fitted_as
from minitxl.inference.evaluate import evaluate

OPTIONS = ("plain", "clamp_len")


@dataclass(frozen=True)
class Settings:
    """The models, the memories and the text."""

    corpus: str = "war-and-peace"
    lengths: tuple = (32, 64, 128)  # T = M in training
    mem_lens: tuple = (0, 16, 32, 64, 128, 256, 512, 1024)
    seeds: int = 5
    steps: int = 1000
    tokens_per_step: int = 2048
    lr: float = 4e-3
    warmup: int = 100
    n_layer: int = 2
    d_model: int = 96
    n_head: int = 3
    d_inner: int = 384
    n_tokens: int = 64_000  # at most, from the start of the test text
    batch_size: int = 4  # rows of text, read side by side: in each the memory must fill first

    @classmethod
    def quick(cls) -> Settings:
        """Models that have learned next to nothing, to see that all works."""
        sizes = dict(n_layer=1, d_model=8, n_head=2, d_inner=8, lengths=(8, 16))
        few = dict(mem_lens=(0, 8, 16, 32), seeds=2, steps=4, tokens_per_step=64, warmup=2)
        return cls(**sizes, **few, n_tokens=1000)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Train and measure every length and seed; a part each."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    done = parts.fill(jobs(s), progress)
    models = [
        {
            "tgt_len": length,
            "points": _points(length, [done[f"{length}, seed {i}"] for i in range(s.seeds)]),
        }
        for length in s.lengths
    ]
    points = [p for m in models for p in m["points"]]
    tested = [p["minus_trained"] for p in points if p["mem_len"] != p["trained_mem_len"]]
    for entry, p in zip(tested, holm([p_value(x["by_seed"]) for x in tested]), strict=True):
        entry["p_holm"] = p
    return parts.head("memory-ladder", done) | {
        "units": {
            "mem_len": "characters",
            "bpc": "bits per character of the test text, one for each seed",
            "minus_trained": "bits more than with the trained memory: paired over seeds, with a "
            "95 % interval by Student's t, and Holm's p",
        },
        "models": models,
    }


def jobs(s: Settings) -> dict:
    """Name of a part -> the call that computes it."""
    return each_seed(measured, s.lengths, s)


def measured(length: int, seed: int, s: Settings, device: str) -> dict:
    """Train a model with T = M = length, and read the test text with every memory."""
    corpus = load_corpus(s.corpus)
    text = np.roll(corpus.train, -seed * 100_003)  # every seed begins somewhere else
    lengths = dict(tgt_len=length, mem_len=length)
    model, loss = fitted_as(s, text, seed, device, n_token=corpus.vocab.n_token, **lengths)
    points = []
    for mem_len in s.mem_lens:
        for option in OPTIONS if mem_len > length else OPTIONS[:1]:
            clamp = {"clamp_len": 2 * length - 1} if option == "clamp_len" else {}
            sizes = dict(batch_size=s.batch_size, max_tokens=s.n_tokens, threads=1)
            bpc = evaluate(model, corpus.test, mem_len=mem_len, **clamp, **sizes).bpc
            points.append({"option": option, "mem_len": mem_len, "bpc": bpc})
    return {"points": points, "loss": loss, "device": model.backend.name}


def _points(length: int, runs: list[dict]) -> list[dict]:
    """One length's points, with the numbers of all seeds."""
    trained = [next(p["bpc"] for p in run["points"] if p["mem_len"] == length) for run in runs]
    found = []
    for i, point in enumerate(runs[0]["points"]):
        bpc = [run["points"][i]["bpc"] for run in runs]
        more = [a - b for a, b in zip(bpc, trained, strict=True)]
        entry = {"option": point["option"], "mem_len": point["mem_len"], "trained_mem_len": length}
        found.append(entry | {"bpc": bpc, "minus_trained": {"by_seed": more} | spread(more)})
    return found


def summary(results: dict) -> str:
    """Return a table for each length: what another memory costs against the trained one."""
    lines = ["bits more than with the trained memory, with 95 % intervals and Holm's p"]
    for model in results["models"]:
        length = model["tgt_len"]
        lines += ["", f"trained with T = M = {length}"]
        for p in model["points"]:
            more = p["minus_trained"]
            mean = spread(p["bpc"])["mean"]
            line = f"  M = {p['mem_len']:5}  {p['option']:10} bpc {mean:.4f}  {more['mean']:+.4f}"
            if more["interval"] is not None:
                line += " [{:+.4f}, {:+.4f}]".format(*more["interval"])
            if more.get("p_holm") is not None:
                line += f"  p {more['p_holm']:.3f}"
            lines.append(line)
    return "\n".join(lines)
