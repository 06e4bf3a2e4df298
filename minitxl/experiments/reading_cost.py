"""Bits against milliseconds: what each way of reading predicts, and what a prediction costs.

A ratio of speeds says nothing where the two ways do not predict the same. So three ways to read the
same text are measured for both, with two shipped models that were trained alike, one with a memory
and one without:
  window    the model without memory, by a window of its length that moves on by a stride: all of
            the length (fixed chunks), half of it (every character has half a window or more) ...
            one character, as the paper's baseline (sec. 4.5)
  memory    Transformer-XL in segments of its length, with memories from short to many times the
            trained one, keys and values kept
Times are of one thread, medians of repeats that take turns.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

from tqdm import tqdm

from minitxl.data.text import load_corpus
from minitxl.experiments.parts import Parts
from minitxl.inference.evaluate import evaluate
from minitxl.inference.sliding import evaluate_sliding
from minitxl.pretrained import load_pretrained

WAYS = {"window": "no memory, by a window", "memory": "Transformer-XL"}


@dataclass(frozen=True)
class Settings:
    """The models, how they are read, and how much."""

    with_memory: str = "tiny-xl"
    without_memory: str = "tiny-xl-alone"
    strides: tuple = (32, 24, 16, 8, 4, 2, 1)
    mem_lens: tuple = (16, 32, 64, 128, 256)
    n_tokens: int = 8_000  # from the start of the test text
    batch_size: int = 4  # rows, or windows, that are read side by side
    repeats: int = 5

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        return cls(strides=(32, 16), mem_lens=(16, 32), n_tokens=600, repeats=3)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Read in every way, `repeats` times in turns; a round is a part."""
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    xl = load_pretrained(s.with_memory, device="cpu").model
    alone = load_pretrained(s.without_memory, device="cpu").model
    tokens = load_corpus("war-and-peace").test
    window = alone.config.tgt_len
    how = dict(batch_size=s.batch_size, max_tokens=s.n_tokens, threads=1)
    ways = {
        ("window", n): lambda n=n: evaluate_sliding(alone, tokens, window, n, **how)
        for n in s.strides
    } | {("memory", n): lambda n=n: evaluate(xl, tokens, mem_len=n, **how) for n in s.mem_lens}

    def once() -> list:
        found = {way: read() for way, read in ways.items()}
        return [[*way, x.bpc, 1e3 * x.seconds / x.n_tokens] for way, x in found.items()]

    rounds = []
    for i in tqdm(range(s.repeats), unit="round", disable=not progress):
        rounds.append(parts.get(f"round {i}", once))
    points = []
    for measured in zip(*rounds, strict=True):
        way, n, bpc, _ = measured[0]
        ms = [x[3] for x in measured]
        name = "stride" if way == "window" else "mem_len"
        spread = {"ms": statistics.median(ms), "ms_min": min(ms), "ms_max": max(ms)}
        points.append({"way": way, name: n, "bpc": bpc} | spread)
    return parts.head("reading-cost") | {
        "units": {
            "ms": "per predicted character, one thread: median, least and most of the repeats",
            "bpc": "bits per character of the same text",
        },
        "window": window,
        "trained_mem_len": xl.config.mem_len,
        "points": points,
    }


def point_of(results: dict, way: str, n: int) -> dict:
    """Return the point of a way with this stride or memory."""
    name = "stride" if way == "window" else "mem_len"
    (found,) = (p for p in results["points"] if p["way"] == way and p[name] == n)
    return found


def summary(results: dict) -> str:
    """Return bits and milliseconds of every way."""
    lines = [f"window {results['window']}; one thread", "", f"{'':36}{'bits':>8}{'ms':>10}"]
    for p in results["points"]:
        n = f"stride {p['stride']}" if p["way"] == "window" else f"M = {p['mem_len']}"
        label = f"{WAYS[p['way']]}, {n}"
        lines.append(
            f"{label:36}{p['bpc']:8.3f}{p['ms']:10.4f}  ({p['ms_min']:.4f} to {p['ms_max']:.4f})"
        )
    return "\n".join(lines)
