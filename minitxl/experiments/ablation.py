"""What recurrence, the encoding and the loss are worth: the paper's ablation in miniature.

The paper (sec. 4.2, table 6) takes recurrence or its relative encoding away from a model of words,
and leaves one cell out: recurrence with absolute positions, where position j of the memory's
segment and of this one look the same. Here all twelve cells are trained alike (`group.py`), each
from several seeds; seed s of one cell and of another read the same text in the same order, so that
their difference is a paired one.

The test text is read as in training: in segments of the trained length, with the trained memory
or, without recurrence, each segment from nothing. bpc counts every character; bpc_recent_half
those of the recent half of each segment only, the ones that a loss on half has learned. (Without
recurrence that is also what a window that moves on by half a segment would pay.) By position in
the segment one sees what the paper calls context fragmentation: without recurrence the first
characters are predicted from next to nothing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from minitxl.data.stream import segments
from minitxl.data.text import load_corpus
from minitxl.experiments.group import ENCODINGS, MEMBERS, Shape, trained
from minitxl.experiments.parts import Parts
from minitxl.inference.cached import reader_of
from minitxl.inference.units import bits
from minitxl.training.machine import machine_facts

# Table 6, perplexity of words on WikiText-103, 128 M parameters, evaluated at the trained length.
# Its last row, absolute positions learned for every layer (31.16), has no member here.
PAPER = {
    "xl": 27.02,
    "shaw": 27.94,
    "xl-half": 28.69,
    "xl-alone": 29.59,
    "xl-alone-half": 30.10,
    "shaw-alone": 29.75,
    "shaw-alone-half": 30.50,
    "abs-alone-half": 30.97,
}
MEASURES = ("bpc", "bpc_recent_half")
# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; the last serves for more.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Settings:
    """The group of models, and the text that they are measured on."""

    shape: Shape = field(default_factory=Shape)
    seeds: int = 3  # of every member: 0, 1, ...
    n_tokens: int = 160_000  # at most, from the start of the test text
    batch_size: int = 16  # rows of text that are read side by side

    @classmethod
    def quick(cls) -> Settings:
        """Models that have learned next to nothing, to see that all works."""
        return cls(shape=Shape.quick(), seeds=1, n_tokens=4000)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Train what is not trained yet, measure every member and seed (a part each), and compare."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    tokens = load_corpus(s.shape.corpus).test[: s.n_tokens + 1]
    todo = [(name, seed) for seed in range(s.seeds) for name in MEMBERS]
    measured = {}
    with tqdm(todo, unit="model", disable=not progress) as bar:
        for name, seed in bar:
            bar.set_description(f"{name}, seed {seed}")

            def measure(name=name, seed=seed):
                model = trained(name, seed, s.shape, parts.models).model
                return bits_by_position(model, tokens, s.batch_size)

            measured[name, seed] = parts.get(f"{name}, seed {seed}", measure)
    cells = [_cell(name, [measured[name, seed] for seed in range(s.seeds)]) for name in MEMBERS]
    return {
        "experiment": "ablation",
        "settings": dataclasses.asdict(s),
        "machine": machine_facts(),
        "seconds": parts.seconds,
        "units": {
            **dict.fromkeys(MEASURES, "bits per character of the test text, one for each seed"),
            "by_position": "bits per character at position 0, 1, ... of a segment, for each seed",
            "paper_perplexity": "per word of WikiText-103 (table 6); null: not in the paper",
            "interval": "95 % by Student's t over paired seeds; null: a single seed",
        },
        "n_predicted": measured["xl", 0]["n_token"],
        "cells": cells,
        "differences": _differences({cell["member"]: cell for cell in cells}),
    }


def bits_by_position(model, tokens, batch_size: int) -> dict:
    """Read tokens (1-D ids) with the model's own lengths; bits per character by position.

    Returns by_position (T values), bpc of all characters, bpc_recent_half of positions T/2 and
    later, and n_token, how many characters were predicted.
    """
    c, back = model.config, model.backend
    reader = reader_of(model, batch_size)
    total, count = np.zeros(c.tgt_len), np.zeros(c.tgt_len)
    for x, y in segments(tokens, batch_size=batch_size, tgt_len=c.tgt_len):
        nll = back.to_numpy(reader.score(x, y)).astype(np.float64)  # (B, T)
        total[: y.shape[1]] += nll.sum(axis=0)  # (the last segment may be shorter)
        count[: y.shape[1]] += len(y)
    recent = slice(c.tgt_len // 2, None)
    return {
        "by_position": [bits(x) for x in total / count],
        "bpc": bits(total.sum() / count.sum()),
        "bpc_recent_half": bits(total[recent].sum() / count[recent].sum()),
        "n_token": int(count.sum()),
    }


def spread(values: list) -> dict:
    """Mean, standard deviation over seeds, and the 95 % interval of the mean by Student's t.

    For one value sd and interval are None: nothing is known of its spread.
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return {"mean": mean, "sd": None, "interval": None}
    sd = statistics.stdev(values)
    half = T_QUANTILES[min(n - 1, len(T_QUANTILES)) - 1] * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "interval": [mean - half, mean + half]}


def _cell(name: str, measured: list[dict]) -> dict:
    """One member with its numbers for every seed."""
    member = MEMBERS[name]
    cell = {"member": name, "encoding": member.label, "recurrence": member.recurrence}
    cell |= {"loss_on": member.loss_on, "paper_perplexity": PAPER.get(name)}
    return cell | {key: [m[key] for m in measured] for key in (*MEASURES, "by_position")}


def comparisons() -> list[tuple[str, str, str]]:
    """Return (question, member, reference): what is taken away or put in the other's place."""
    halves, alone = ("", "-half"), ("", "-alone")
    found = [("no recurrence", f"{e}-alone{h}", f"{e}{h}") for h in halves for e in ENCODINGS]
    others = [e for e in ENCODINGS if e != "xl"]
    found += [
        (f"{ENCODINGS[e][0]} encoding", f"{e}{a}{h}", f"xl{a}{h}")
        for h in halves
        for a in alone
        for e in others
    ]
    found += [("loss on half", f"{e}{a}-half", f"{e}{a}") for a in alone for e in ENCODINGS]
    return found


def _differences(cells: dict) -> list[dict]:
    """Paired differences of bits: member minus reference, seed by seed; above 0: it costs bits."""
    found = []
    for question, member, reference in comparisons():
        difference = {"question": question, "member": member, "reference": reference}
        for key in MEASURES:
            pairs = zip(cells[member][key], cells[reference][key], strict=True)
            by_seed = [a - b for a, b in pairs]
            difference[key] = {"by_seed": by_seed} | spread(by_seed)
        found.append(difference)
    return found


def summary(results: dict) -> str:
    """Return the cells and the paired differences as two tables."""
    n = results["settings"]["seeds"]
    lines = [
        f"bits per character of {results['n_predicted']:,} test characters, means of {n} seed(s) "
        "+- standard deviation",
        "",
        f"{'encoding':16}{'recurrence':12}{'loss on':9}{'all':>16}{'recent half':>16}"
        f"{'paper, ppl':>12}",
    ]
    for cell in results["cells"]:
        line = f"{cell['encoding']:16}{'yes' if cell['recurrence'] else 'no':12}"
        line += f"{cell['loss_on']:9}"
        for key in MEASURES:
            found = spread(cell[key])
            sd = "" if found["sd"] is None else f" +- {found['sd']:.3f}"
            line += f"{found['mean']:.3f}{sd}".rjust(16)
        ppl = cell["paper_perplexity"]
        lines.append(line + ("-" if ppl is None else f"{ppl:.2f}").rjust(12))
    lines += ["", "paired differences (above 0: it costs bits), with 95 % intervals", ""]
    lines.append(f"{'':22}{'member':16}{'against':14}{'all':>26}{'recent half':>26}")
    for d in results["differences"]:
        line = f"{d['question']:22}{d['member']:16}{d['reference']:14}"
        for key in MEASURES:
            low_high = d[key]["interval"]
            inside = "" if low_high is None else " [{:+.3f}, {:+.3f}]".format(*low_high)
            line += f"{d[key]['mean']:+.3f}{inside}".rjust(26)
        lines.append(line)
    return "\n".join(lines)
