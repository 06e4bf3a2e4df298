"""What the live component is given: weights, vocabulary, passages and the colours of the theme."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.inference.units import bits
from minitxl.storage.checkpoint import serialize
from minitxl.storage.model_arrays import params_of
from minitxl.viz.in_browser.gradient import gradient_numbers
from minitxl.viz.reading import Reading
from minitxl.viz.theme import HIDDEN, INK, MUTED, PAPER, SEGMENT_COLOURS, printable, spoken

# The theme's colours, and for a dark page the same hues, lightened until they read on dark paper.
THEMES = (
    {"paper": PAPER, "ink": INK, "hidden": HIDDEN, "muted": MUTED, "segments": SEGMENT_COLOURS},
    {
        "paper": "#16191D",
        "ink": "#ECEAE4",
        "hidden": "#22262B",
        "muted": "#A9AFB7",
        "segments": ("#FF8A3C", "#4F97FA", "#3ED9A8", "#D57FC0", "#E3CB55", "#AAB4C0"),
    },
)
PICTURED = 192  # tokens of the memory that the picture without a kernel shows, or three segments
LENGTHS = (8, 16, 32, 48, 64, 96, 128)  # of a segment, to choose from


def why_not(config) -> str:
    """Return "" or why such a model cannot run in a page, as `whyNot` of model.js says."""
    c = config
    if c.attn_type not in (0, 1):
        why = f"attn_type={c.attn_type}, and a page knows types 0 and 1, this paper's and Shaw's"
    elif c.cutoffs or c.div_val != 1:
        why = f"its softmax is adaptive (cutoffs={list(c.cutoffs)}, div_val={c.div_val})"
    elif c.d_embed not in (0, c.d_model):
        why = f"its embedding is projected (d_embed={c.d_embed}, d_model={c.d_model})"
    elif c.ext_len or c.start_mems != "empty":
        why = f"ext_len={c.ext_len}, start_mems={c.start_mems!r}: 0 and 'empty' are known there"
    elif c.memory.kind != "xl":
        why = f"it has a {c.memory.kind} memory, and the paper's alone is known there"
    else:
        return ""
    return (
        f"this model cannot run in a page: {why}; its pictures are viz.Reading and AttentionFigure"
    )


def weights_of(model) -> bytes:
    """The parameters as a safetensors file: each in float16 where that changes nothing."""
    packed = {}
    for name, array in params_of(model).items():
        with np.errstate(over="ignore"):
            half = np.asarray(array).astype(np.float16)
        packed[name] = half if (half == array).all() else np.asarray(array, dtype=np.float32)
    return serialize(packed, {})


def packed(model, vocab, text, tgt_len: int, mem_len: int, start: dict) -> tuple[dict, tuple]:
    """Return what live.js is given, as JSON holds it, and what the picture is drawn from."""
    c = model.config
    symbols = [vocab.decode([token]) for token in range(c.n_token)]
    characters = all(len(s) == 1 for s in symbols)
    titled = [("the passage", text)] if not _pairs(text) else list(text)
    passages, picture = [], None
    for title, one in titled:
        tokens = vocab.encode(one) if isinstance(one, str) else np.asarray(one)
        passage, reading, place = _passage(model, tokens, title, tgt_len, mem_len, start)
        passages.append(passage)
        picture = picture or (reading, [symbols[t] for t in reading.tokens], *place)
    own = {"title": "your own text", "tokens": [], "read": 0, "bits": [], "otherBits": []}
    passages.append(own | {"gradient": None})
    layer, head = picture[2:4]
    data = {
        "config": dataclasses.asdict(c),
        "symbols": symbols,
        "shown": [printable(s) if len(s) == 1 else s for s in symbols],
        "spoken": [spoken(s) if len(s) == 1 else f"“{s}”" for s in symbols],
        "unit": "character" if characters else "token",
        "T": tgt_len,
        "M": mem_len,
        "lengths": sorted({*LENGTHS, tgt_len}),
        "longest": max(512, mem_len),
        "step": 8,
        "passages": passages,
        "start": {"layer": layer, "head": head},
        "lead": _lead(model, characters),
        "colours": THEMES,
    }
    return data, picture


def _pairs(text) -> bool:
    return isinstance(text, (list, tuple)) and all(
        isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str) for x in text
    )


def _passage(model, tokens, title: str, tgt_len: int, mem_len: int, start: dict):
    """One passage, read as far as a token that looks far back, and its gradient there."""
    if len(tokens) < 2 * tgt_len + 1:
        raise MinitxlError(
            f"{title} has {len(tokens)} tokens, two segments of {tgt_len} and the token after them "
            f"are {2 * tgt_len + 1}: give a longer text or a smaller tgt_len"
        )
    start, read = dict(start), start.get("read")
    start.pop("read", None)
    if read is not None and not 1 <= read <= len(tokens):
        raise MinitxlError(f"read={read} must be 1 ... {len(tokens)}, as {title} is long")
    most = max(3, PICTURED // tgt_len)  # segments back
    whole, back = (len(tokens) - 1) // tgt_len, min(most, max(1, -(-mem_len // tgt_len)))
    last = min(back if read is None else (read - 1) // tgt_len, whole - 1)  # segment that is read
    first = max(0, last - back)
    if first == last:
        last += 1
    reading = Reading(model, tokens[first * tgt_len : (last + 1) * tgt_len + 1], tgt_len=tgt_len)
    place = looking_far(reading, min(mem_len, reading.longest_memory), **start)
    if read is None:
        read = last * tgt_len + place["query"] + 1
    else:
        place["query"] = min(max(read - 1 - last * tgt_len, 0), tgt_len - 1)
    edges = [*range(0, read, tgt_len), read]
    segments = [[a, b] for a, b in pairwise(edges)]
    known = read - segments[-1][0] >= 2
    passage = {"title": title, "tokens": np.asarray(tokens).tolist(), "read": read}
    passage["bits"] = _bits(model, tokens[:read], segments, mem_len)
    passage["otherBits"] = _bits(model, tokens[:read], segments, 0)
    passage["gradient"] = (
        gradient_numbers(model, tokens[:read], segments, mem_len) if known else None
    )
    return passage, reading, (place["layer"], place["head"], place["query"])


def _bits(model, tokens, segments, mem_len: int) -> list[float | None]:
    """Bits of each token read in these segments with a memory of `mem_len`; None for the first."""
    model, mems, costs = model.with_options(mem_len=mem_len), None, [None]
    with one_blas_thread():  # one row of text: a second thread costs more than it brings
        for a, b in segments:
            targets = np.append(tokens[a + 1 : b + 1], tokens[:1])[: b - a]  # the last is not used
            nll, mems, _ = model.forward(tokens[None, a:b], targets[None, :], mems)
            costs += [round(float(x), 3) for x in bits(model.backend.to_numpy(nll)[0])]
    return costs[: len(tokens)]


def looking_far(reading: Reading, mem_len: int, *, layer: int | None = None, head=None) -> dict:
    """A state that shows the memory at work: layer and head from 0 (head -1: the mean), query.

    It is the token of the last segment that gives one key, two segments back or more, the most
    weight; one segment back where no more is in memory. `layer` 1 ... and `head` 0 (mean), 1 ...:
    already chosen.
    """
    c = reading.model.config
    for name, value, low, high in (("layer", layer, 1, c.n_layer), ("head", head, 0, c.n_head)):
        if value is not None and not low <= value <= high:
            raise MinitxlError(f"{name}={value} must be {low} ... {high} for this model")
    best = (-1.0, (layer or 1) - 1, (head or 0) - 1, reading.tgt_len // 2)
    for n, p in enumerate(reading.attention(mem_len)):
        cached = p.shape[2] - reading.tgt_len
        far = cached - reading.tgt_len if cached > reading.tgt_len else cached
        if far == 0 or layer not in (None, n + 1):
            continue
        for h, weights in enumerate([p.mean(axis=0), *p]):  # (T, K); 0 is the mean
            if h == head or (head is None and h > 0):
                most = weights[:, :far].max(axis=1)  # (T, K) -> (T,)
                best = max(best, (float(most.max()), n, h - 1, int(most.argmax())))
    return dict(zip(("layer", "head", "query"), best[1:], strict=True))


def _lead(model, characters: bool) -> str:
    c, unit = model.config, "characters" if characters else "tokens"
    return (
        f"A Transformer-XL of {c.n_layer} layers and {model.n_params:,} parameters runs in this "
        f"page. Type, and watch the {unit} slide into its memory."
    )
