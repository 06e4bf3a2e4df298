"""A longer memory at evaluation than in training: where it helps, and where it hurts.

The paper (sec. 4.2, table 6) evaluates its models with longer attention than they were trained with
and pays less for it: 27.02 -> 26.77 in perplexity; the released scripts evaluate with `clamp_len`
(distances beyond it share one encoding) and `same_length` (every query sees the same number of
keys). Here the members of the group that have a memory read the test text with memories of 0 to 8
times the trained one, in segments of the trained length, and with these options:
  plain         nothing else is changed
  clamp_len     the longest distance told apart is T + M - 1, the longest seen in training
  same_length   every query sees as many keys as the memory is long, itself included
  both          as the released scripts evaluate
Shaw's table has a row for each distance of training and the longest one serves all beyond, so it is
clamped as it is; clamp_len makes no difference there. same_length without memory would hide every
key. Up to the trained memory there is nothing to clamp. These points are left out. With twice the
memory (M = 2 T) and same_length every query sees as many keys as the last one of a segment did in
training, and no distance that it has not seen.
The shipped model, which is larger and was trained for longer, reads with memories of 0 to 8 times
its own. Differences are to the same model's trained memory without options, seed by seed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from tqdm import tqdm

from minitxl.config import SHAW
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.group import ENCODINGS, Shape, trained
from minitxl.experiments.intervals import spread
from minitxl.experiments.parts import Parts
from minitxl.inference.evaluate import evaluate
from minitxl.pretrained import load_pretrained

OPTIONS = ("plain", "clamp_len", "same_length", "both")
SHIPPED = "war-and-peace"
PAPER = {"perplexity": 27.02, "perplexity_with_longer_memory": 26.77}  # table 6, 128 M parameters


@dataclass(frozen=True)
class Settings:
    """The models, the memories and the text."""

    shape: Shape = field(default_factory=Shape)
    seeds: int = 3  # of every member: 0, 1, ...
    factors: tuple = (0, 0.5, 1, 2, 4, 8)  # times the trained memory; 1 must be among them
    n_tokens: int = 64_000  # at most, from the start of the test text
    batch_size: int = 4  # rows of text, read side by side: in each the memory must fill first

    @classmethod
    def quick(cls) -> Settings:
        """Models that have learned next to nothing and a page of text, to see that all works."""
        return cls(shape=Shape.quick(), seeds=1, factors=(0, 1, 2), n_tokens=4000)


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Measure every model with every memory, trained first where need be; a part for each model."""
    s = settings or Settings()
    parts = parts or Parts(dataclasses.asdict(s))
    if 1 not in s.factors:
        raise MinitxlError(f"factors={s.factors} must have 1 among them, the trained memory")
    tokens = load_corpus(s.shape.corpus).test
    todo = [(name, seed) for seed in range(s.seeds) for name in ENCODINGS] + [(SHIPPED, 0)]
    measured = {}
    with tqdm(todo, unit="model", disable=not progress) as bar:
        for name, seed in bar:
            bar.set_description(f"{name}, seed {seed}")

            def measure(name=name, seed=seed):
                if name == SHIPPED:
                    model = load_pretrained(SHIPPED, device="cpu").model
                else:
                    model = trained(name, seed, s.shape, parts.models).model
                return _measure(model, tokens, s)

            measured[name, seed] = parts.get(f"{name}, seed {seed}", measure)
    models = {key: label for key, (label, _) in ENCODINGS.items()} | {SHIPPED: "shipped model"}
    return parts.head("longer-memory") | {
        "units": {
            "mem_len": "characters",
            "bpc": "bits per character of the test text, one for each seed",
            "minus_trained": "bits more than with the trained memory: paired over seeds, with a "
            "95 % interval by Student's t",
        },
        "models": [
            _model(key, label, [m for (name, _), m in measured.items() if name == key])
            for key, label in models.items()
        ],
        "paper": PAPER,
    }


def possible(option: str, attn_type: int, factor: float) -> bool:
    """Whether an option differs from the plain reading, and exists, at factor x trained memory."""
    clamps = attn_type != SHAW and factor > 1
    return {
        "plain": True,
        "clamp_len": clamps,
        "same_length": factor > 0,
        "both": clamps,
    }[option]


def _measure(model, tokens, s: Settings) -> dict:
    """The model's trained lengths, and points: bpc with every memory and option."""
    c = model.config
    longest = c.tgt_len + c.mem_len - 1
    points = []
    for option in OPTIONS:
        how = {"clamp_len": longest} if option in ("clamp_len", "both") else {}
        how |= {"same_length": True} if option in ("same_length", "both") else {}
        for factor in s.factors:
            if possible(option, c.attn_type, factor):
                lengths = {"mem_len": round(factor * c.mem_len)} | how
                sizes = dict(batch_size=s.batch_size, max_tokens=s.n_tokens)
                bpc = evaluate(model, tokens, **sizes, **lengths).bpc
                points.append({"option": option, "factor": factor} | lengths | {"bpc": bpc})
    return {"tgt_len": c.tgt_len, "mem_len": c.mem_len, "points": points}


def _model(key: str, label: str, measured: list[dict]) -> dict:
    """One model's lines, with the numbers of all its seeds."""
    first, *_ = measured
    trained = [_bpc(m, "plain", 1) for m in measured]
    points = []
    for point in first["points"]:
        bpc = [_bpc(m, point["option"], point["factor"]) for m in measured]
        more = [a - b for a, b in zip(bpc, trained, strict=True)]
        points.append(point | {"bpc": bpc, "minus_trained": {"by_seed": more} | spread(more)})
    lengths = {"tgt_len": first["tgt_len"], "trained_mem_len": first["mem_len"]}
    return {"model": key, "label": label} | lengths | {"points": points}


def _bpc(measured: dict, option: str, factor: float) -> float:
    places = {(p["option"], p["factor"]): p["bpc"] for p in measured["points"]}
    return places[option, factor]


def summary(results: dict) -> str:
    """Return a table for each model: bpc with every memory and option, and what hurts."""
    lines = ["bits per character of the test text (means over seeds) with a memory of M characters"]
    for model in results["models"]:
        m = model["trained_mem_len"]
        cells = {(p["option"], p["factor"]): p for p in model["points"]}
        factors = sorted({factor for _, factor in cells})
        n = len(model["points"][0]["bpc"])
        lines += ["", f"{model['label']}: trained with M = {m}, {n} seed(s)"]
        head = "".join(f"{f'M = {round(f * m)}':>11}" for f in factors)
        lines.append(f"  {'':12}{head}")
        for option in OPTIONS:
            found = [cells.get((option, f)) for f in factors]
            if any(found):
                row = (f"{spread(p['bpc'])['mean']:.4f}" if p else "-" for p in found)
                lines.append(f"  {option:12}" + "".join(f"{x:>11}" for x in row))
        lines.append("  " + verdict(model))
    return "\n".join(lines)


def verdict(model: dict) -> str:
    """One sentence: what longer memories cost without options, and what did best."""
    longer = [p for p in model["points"] if p["option"] == "plain" and p["factor"] > 1]
    texts = [f"{p['minus_trained']['mean']:+.4f} at {p['factor']:g}x{_judged(p)}" for p in longer]
    best = min(model["points"], key=lambda p: p["minus_trained"]["mean"])
    return (
        f"plain, against the trained memory: {', '.join(texts) or 'none was tried'}; best: "
        f"{best['option']} at {best['factor']:g}x, {best['minus_trained']['mean']:+.4f}"
    )


def _judged(point: dict) -> str:
    """Whether the interval over seeds leaves 0 out; a single seed has none, so nothing is said."""
    if point["minus_trained"]["interval"] is None:
        return ""
    low, high = point["minus_trained"]["interval"]
    return " (hurts)" if low > 0 else " (helps)" if high < 0 else " (not clear)"
