"""What do the heads of a trained model look at, how far away, and by which of the four terms?

The shipped model reads held-out text as it was trained, with segments of T and a memory of M. For
every head, over all queries:
  weight by distance   mean weight at distance d = i - j, 0 is the character itself; over the
                       queries that have a key so far away (the memory's edge moves with the query)
  mean distance        sum of d times weight, mean over the queries
  90% span             the distance within which 90% of the weight of all queries falls
  memory share         the weight on keys of earlier segments; an even spread would give `even`
  keys                 exp of the mean entropy: to how many equal keys the weight amounts
The score is a sum of four terms (sec. 3.3): (a) content to content, (b) content to position, (c)
content bias, (d) position bias. A term alone gives the weights softmax(term); `overlap` is how much
of them lies where the head's own weights lie, mean of sum_j min(p_j, p'_j). And a model that is
read with some terms only shows what it loses without the others. It was not trained so: that is
how much it leans on a term, not how well a model could do without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from minitxl.config import RELATIVE
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.parts import Parts
from minitxl.inference.evaluate import evaluate
from minitxl.model.attention import Inspection
from minitxl.model.ops import softmax_forward
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import load_pretrained

TERMS = "abcd"
SUBSETS = ("a", "b", "c", "d", "ac", "bd")  # ac: all of content, bd: all of position
KEPT = ("abcd", "bcd", "acd", "abd", "abc", "ac", "bd")  # with which terms the text is read


@dataclass(frozen=True)
class Settings:
    """Which model, and how much text."""

    model: str = "war-and-peace"
    rows: int = 8  # places of the held-out text, spread evenly
    segments: int = 6  # read at each place, after those that fill the memory
    tokens: int = 40_000  # read with some terms only

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that all works."""
        return cls(rows=2, segments=1, tokens=1500)


# --- some of the four terms only ----------------------------------------------------------------


def with_terms(model: TransformerXL, terms: str) -> TransformerXL:
    """Return the model with only some of the four terms in its scores, such as "acd".

    It has heads of twice the width. In the first half of a head queries meet the keys, in the
    second the positions: with q = [q ; q], k = [k ; 0], r = [0 ; r], u = [u ; 0] and v = [0 ; v]
    every score is what it was, and each term can be taken out by zeros of its own. (k and r are
    times sqrt(2), for the scores are divided by the root of the width.) Raises MinitxlError for a
    model of another encoding.
    """
    c = model.config
    if c.attn_type != RELATIVE:
        raise MinitxlError(
            f"attn_type={c.attn_type} has no four terms; take a model with attn_type={RELATIVE}"
        )
    wide = TransformerXL(c.replace(d_head=2 * c.d_head), device=model.backend)
    xp, root = model.backend.xp, 2.0**0.5

    def pair(x, first: float, second: float, axis: int):
        """Each head's part of x, times two numbers, side by side along the axis of the heads."""
        shape = list(x.shape)
        shape[axis : axis + 1] = [c.n_head, shape[axis] // c.n_head]
        x = xp.reshape(x, tuple(shape))  # (..., H*Dh, ...) -> (..., H, Dh, ...)
        x = xp.concat([x * first, x * second], axis=axis + 1)  # -> (..., H, 2*Dh, ...)
        shape[axis : axis + 2] = [2 * shape[axis] * shape[axis + 1]]
        return xp.reshape(x, tuple(shape))

    a, b, u, v = (float(t in terms) for t in "abcd")
    how = {
        "w_q": (a, b, 1),
        "w_k": (root, 0.0, 1),
        "w_r": (0.0, root, 1),
        "w_v": (1.0, 0.0, 1),
        "w_o": (1.0, 0.0, 0),
    }
    for name, x in model.params.items():
        kind = name.rpartition(".")[2]
        if kind in how:
            wide.params[name] = pair(x, *how[kind])
        elif kind == "r_w_bias":
            wide.params[name] = xp.concat([x * u, x * 0.0], axis=1)  # (H, Dh) -> (H, 2*Dh)
        elif kind == "r_r_bias":
            wide.params[name] = xp.concat([x * 0.0, x * v], axis=1)
        else:
            wide.params[name] = x
    return wide


# --- looking at the heads -----------------------------------------------------------------------


def by_distance(probs) -> np.ndarray:
    """Sum up weights by distance: (..., T, K) -> (..., K); column 0 is the query's own key."""
    *_, t, k = probs.shape
    flipped = probs[..., ::-1]  # of query i, column k - (i + M) - 1 is distance 0
    total = np.zeros((*probs.shape[:-2], k))
    for i in range(t):
        n = i + k - t + 1  # keys that query i can see
        total[..., :n] += flipped[..., i, k - n :]
    return total


def _softmax(scores, hidden) -> np.ndarray:
    return softmax_forward(np.where(hidden, -np.inf, scores), xp=np)[0]


def look(model: TransformerXL, tokens, segments: int) -> dict:
    """Read tokens (B, L), the last `segments` segments with a look; return sums over the queries.

    Of every layer (N, ...): weight (N, H, K) by distance, memory and entropy (N, H), by subset of
    the terms overlap (N, H) and alone (N, K), the mean over heads by distance. n: queries.
    """
    t, n_mem = model.config.tgt_len, model.config.mem_len
    n_fill = tokens.shape[1] // t - segments
    mems, total, n = None, {}, 0
    for at in range(n_fill + segments):
        inspect = Inspection() if at >= n_fill else None
        _, mems = model.predict(tokens[:, at * t : (at + 1) * t], mems, inspect=inspect, last=1)
        if inspect is None:
            continue
        n += tokens.shape[0] * t
        found = [
            _look_at_layer(p, terms, mask, n_mem)
            for p, terms, mask in zip(inspect.probs, inspect.terms, inspect.mask, strict=True)
        ]
        for key in found[0]:
            total[key] = total.get(key, 0.0) + np.stack([layer[key] for layer in found])
    return total | {"n": n}


def _look_at_layer(p, terms: dict, hidden, n_mem: int) -> dict:
    """One layer's sums over the queries of one segment; p (B, H, T, K)."""
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(p > 0.0, -p * np.log(p), 0.0)
    sums = {
        "weight": by_distance(p.sum(axis=0)),  # (B, H, T, K) -> (H, K)
        "memory": p[..., :n_mem].sum(axis=(0, 2, 3)),  # -> (H,)
        "entropy": surprise.sum(axis=(0, 2, 3)),
    }
    for subset in SUBSETS:
        alone = _softmax(sum(np.asarray(terms[x]) for x in subset), np.asarray(hidden))
        sums[f"overlap {subset}"] = np.minimum(p, alone).sum(axis=(0, 2, 3))
        sums[f"alone {subset}"] = by_distance(alone.sum(axis=0).mean(axis=0))  # -> (K,)
    return sums


def span(weight, share: float = 0.9) -> int:
    """The distance within which `share` of the weight falls; weight (K,) by distance."""
    reached = np.cumsum(weight)
    return int(np.searchsorted(reached, share * reached[-1]))


def _describe(s: dict, t: int, n_mem: int) -> dict:
    """From the sums to what is kept: a list of heads, and each layer's terms alone."""
    n, k = s["n"], s["weight"].shape[-1]
    seeing = np.minimum(1.0, (k - np.arange(k)) / t)  # share of the queries with a key at d
    mean = s["weight"] / n
    heads = [
        {
            "layer": layer + 1,
            "head": head + 1,
            "mean_distance": float(mean[layer, head] @ np.arange(k)),
            "span": span(mean[layer, head]),
            "memory_share": float(s["memory"][layer, head] / n),
            "keys": float(np.exp(s["entropy"][layer, head] / n)),
            "overlap": {x: float(s[f"overlap {x}"][layer, head] / n) for x in SUBSETS},
            "weight": _digits(mean[layer, head] / seeing),
        }
        for layer, head in np.ndindex(mean.shape[:2])
    ]
    alone = {x: [_digits(row / n / seeing) for row in s[f"alone {x}"]] for x in SUBSETS}
    return {"n_query": n, "heads": heads, "alone": alone}


def _digits(values) -> list[float]:
    """Three digits are more than a picture shows."""
    return [float(f"{x:.3g}") for x in values]


def striking(heads: list[dict]) -> dict[str, dict]:
    """The heads that stand out, by number: what for -> head."""
    content = [h["overlap"]["ac"] - h["overlap"]["bd"] for h in heads]
    by = {
        "previous character": [h["weight"][1] for h in heads],
        "farthest": [h["mean_distance"] for h in heads],
        "broadest": [h["keys"] for h in heads],
        "nearest": [-h["mean_distance"] for h in heads],
        "most by content": content,
        "most by position": [-x for x in content],
    }
    return {what: heads[int(np.argmax(values))] for what, values in by.items()}


# --- the experiment -----------------------------------------------------------------------------


def run(
    settings: Settings | None = None, parts: Parts | None = None, progress: bool = False
) -> dict:
    """Look at all heads, then read with some of the terms; return what was found.

    Raises MinitxlError for a text that is too short for the rows.
    """
    s = settings or Settings()
    parts = parts or Parts(asdict(s))
    loaded = load_pretrained(s.model, device="cpu")
    model, c = loaded.model, loaded.model.config
    text = np.asarray(load_corpus(loaded.info["data"]).test)
    length = (-(-c.mem_len // c.tgt_len) + s.segments) * c.tgt_len
    if s.rows * length > len(text):
        raise MinitxlError(
            f"rows={s.rows} of {length} characters are more than the text's {len(text)}; "
            "take fewer rows or segments"
        )

    def heads() -> dict:
        starts = np.arange(s.rows) * (len(text) // s.rows)
        tokens = text[starts[:, None] + np.arange(length)]
        return _describe(look(model, tokens, s.segments), c.tgt_len, c.mem_len)

    def bpc(terms: str) -> float:
        return evaluate(with_terms(model, terms), text, batch_size=8, max_tokens=s.tokens).bpc

    with tqdm(total=1 + len(KEPT), disable=not progress) as bar:
        found = parts.get("heads", heads)
        bar.update()
        kept = {}
        for terms in KEPT:
            kept[terms] = parts.get(f"terms {terms}", lambda terms=terms: bpc(terms))
            bar.update()
    keys = 1 + np.arange(c.tgt_len) + c.mem_len  # that each query sees
    return parts.head("attention") | {
        "units": {
            "mean_distance, span": "characters",
            "weight, alone": "mean weight at distance 0, 1, 2 ... characters",
            "memory_share, even, overlap": "share of the weight",
            "keys": "number of equal keys with the same entropy",
            "bpc": "bits per character, read with some of the terms",
        },
        "tgt_len": c.tgt_len,
        "mem_len": c.mem_len,
        **found,
        "even": float(np.mean(c.mem_len / keys)),
        "bpc": kept,
    }


def summary(results: dict) -> str:
    """Return the spans by layer and head, the striking heads, and the cost of each term."""
    heads = results["heads"]
    lines = [f"{results['n_query']:,} queries; an even spread: {results['even']:.0%} in memory", ""]
    lines.append(
        f"{'layer':5} {'head':>5} {'mean dist.':>11} {'90% span':>9} {'memory':>7} {'keys':>6}"
    )
    lines[-1] += "   overlap with content, position alone"
    for h in heads:
        lines.append(
            f"{h['layer']:5} {h['head']:5} {h['mean_distance']:11.1f} {h['span']:9} "
            f"{h['memory_share']:7.1%} {h['keys']:6.1f}   "
            f"{h['overlap']['ac']:.2f}, {h['overlap']['bd']:.2f}"
        )
    lines.append("")
    for what, h in striking(heads).items():
        lines.append(f"{what:20} layer {h['layer']}, head {h['head']}")
    lines += ["", "bits per character with these terms only:"]
    whole = results["bpc"]["abcd"]
    lines += [f"  {terms:5} {x:.3f} ({x - whole:+.3f})" for terms, x in results["bpc"].items()]
    return "\n".join(lines)
