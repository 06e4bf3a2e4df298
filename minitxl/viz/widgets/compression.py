"""What a compressed memory keeps of a text: its rows as the groups that they stand for.

The model is any relative one: a mean, a maximum or a choice has no parameters, so that the weights
of a model that was trained with the paper's memory can be read with this one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.config import Memory
from minitxl.errors import MinitxlError
from minitxl.model.attention import Inspection
from minitxl.model.family.memories.compressive import make_forward
from minitxl.model.family.memories.losses import queries, read_forward
from minitxl.model.params import layer_weights
from minitxl.model.transformer_xl import TransformerXL
from minitxl.viz.widgets.explorers import Explorer, numbers, slider
from minitxl.viz.widgets.scene import Scene, segment_pair

RATES = (1, 2, 4, 8)
KEPT = {"mean": "mean", "maximum": "max", "every c-th": "every", "random": "random"}
COARSE, FINE, NOW = segment_pair(2), segment_pair(1), segment_pair(0)
WIDTH, PER_LINE, CELL, LINE = 1040, 72, 14, 30  # of the text: characters, pixels
LEFT, TOP = 16, 96


class Read(NamedTuple):
    """The last segment of a text, after one way to remember."""

    groups: list[tuple[int, int]]  # (first, stop): the tokens that each key stands for
    n_coarse: int
    probs: np.ndarray  # (N, K): attention of the last query, the mean of the heads


class CompressedText:
    """A text read by one model: a fine memory of n_fine states, a coarse one of n_coarse rows.

    tokens (n,): as many whole segments of tgt_len as there are.
    """

    def __init__(
        self, model: TransformerXL, tokens, *, tgt_len: int, n_fine: int, n_coarse: int
    ) -> None:
        self.model, self.tgt_len = model, tgt_len
        self.n_fine, self.n_coarse = n_fine, n_coarse
        n = len(tokens) // tgt_len * tgt_len
        if n < tgt_len + n_fine + n_coarse:
            raise MinitxlError(
                f"{len(tokens)} tokens are too few for {n_fine} states, {n_coarse} rows and a "
                f"segment of {tgt_len}"
            )
        self.tokens = np.asarray(tokens[:n], dtype=np.int32)
        self.read = lru_cache(maxsize=None)(self._read)
        self.gaps = lru_cache(maxsize=None)(self._gaps)
        self._states = lru_cache(maxsize=None)(self._exact_states)

    def _segments(self):
        return [self.tokens[i : i + self.tgt_len][None] for i in
                range(0, len(self.tokens), self.tgt_len)]  # fmt: skip

    def _read(self, rate: int, compress: str) -> Read:
        """Read all segments; look at the last query."""
        kept = Memory(kind="compressive", n_coarse=self.n_coarse, rate=rate, compress=compress)
        config = self.model.config.replace(tgt_len=self.tgt_len, mem_len=self.n_fine, memory=kept)
        model = TransformerXL(config, device=self.model.backend, params=self.model.params)
        mems, seen = None, Inspection()
        *before, last = self._segments()
        with one_blas_thread():
            for tokens in before:
                _, mems = model.predict(tokens, mems, last=1)
            model.predict(last, mems, inspect=seen, last=1)
        born = mems[0].born.tolist()  # first tokens of the coarse rows, then of the fine ones
        size = 1 if compress == "random" else rate
        groups = [(first, first + size) for first in born[:-1]]
        if compress == "every":
            groups = [(stop - 1, stop) for _, stop in groups]
        groups += [(at, at + 1) for at in range(born[-1], len(self.tokens))]
        probs = np.stack([p[0, :, -1, :].mean(axis=0) for p in seen.probs])
        return Read(groups, len(born) - 1, probs)

    def _exact_states(self) -> list[np.ndarray]:
        """The inputs of every layer for all tokens, (1, n, D), by a memory that drops nothing."""
        model = self.model.with_options(mem_len=len(self.tokens), tgt_len=self.tgt_len)
        mems, seen = None, []
        with one_blas_thread():
            for tokens in self._segments():
                look = Inspection()
                _, mems = model.predict(tokens, mems, inspect=look, last=1)
                seen.append(look.hidden)
        n_layer = self.model.config.n_layer
        return [np.concatenate([h[n] for h in seen], axis=1) for n in range(n_layer)]

    def _gaps(self, layer: int) -> dict[str, list[float]]:
        """Way to compress -> for every rate how far the reading of the coarse rows is off.

        |attn(h, old) - attn(h, new)| / |attn(h, old)| by content, for the last segment's queries h
        and the n_coarse times rate states that stand before the fine memory.
        """
        c, xp = self.model.config, np
        states = self._states()[layer]
        w = layer_weights(self.model.params, layer)
        now = states.shape[1] - self.tgt_len
        h, found = states[:, now:], {}
        for name, how in KEPT.items():
            if how == "random":
                continue
            gaps = []
            for rate in RATES:
                stop = now - self.n_fine
                old = states[:, max(0, stop - self.n_coarse * rate) : stop]
                old = old[:, old.shape[1] % rate :]
                blocks = old.reshape(1, -1, rate, c.d_model)
                new, _ = make_forward(blocks, None, how=how, xp=xp)
                q = queries(h, w, c, xp=xp)
                exact, _ = read_forward(q, old, w, c, xp=xp)
                coarse, _ = read_forward(q, new, w, c, xp=xp)
                gaps.append(float(np.linalg.norm(coarse - exact) / np.linalg.norm(exact)))
            found[name] = gaps
        return found


def compression_scene(
    text: CompressedText, letters: list[str], *, rate: int, kept: str, layer: int
) -> Scene:
    """The text with the weights of the last query, and what survives of what was compressed."""
    read = text.read(rate, KEPT[kept])
    n_line = -(-len(letters) // PER_LINE)
    scene = Scene(WIDTH, TOP + n_line * LINE + 306)
    weights = read.probs[layer - 1]
    _legend(scene, read, rate, kept)

    def place(at):
        return LEFT + at % PER_LINE * CELL, TOP + at // PER_LINE * LINE

    covered = np.zeros(len(letters), bool)
    for n, (first, stop) in enumerate(read.groups):
        covered[first:stop] = True
        colour = COARSE if n < read.n_coarse else FINE
        colour = NOW if first >= len(letters) - text.tgt_len else colour
        strength = float(np.sqrt(weights[n] / weights.max()))
        for a, b in _runs(first, stop):  # a group may go on in the next line
            x, y = place(a)
            box = [(x + 1, y, (b - a) * CELL - 2, LINE - 5)]
            scene.boxes(box, fill=colour, alpha=round(0.75 * strength, 2))
            scene.boxes(box, stroke=colour, width=1.2)
    for at, letter in enumerate(letters):
        x, y = place(at)
        style = dict(size=14, anchor="middle", colour="ink" if covered[at] else "muted")
        scene.text(x + CELL / 2, y + (LINE - 5) / 2, letter, **style)

    top = TOP + n_line * LINE + 26
    _chart(scene, text.gaps(layer - 1), rate, kept, top)
    _shares(scene, read, weights, len(letters) - text.tgt_len, top)
    span = len(letters) - read.groups[0][0] - text.tgt_len
    title = f"{text.n_fine} states and {read.n_coarse} coarse rows reach back {span} characters"
    if kept == "random":
        title = f"{text.n_fine} states, and {read.n_coarse} of all before them, drawn at random"
    note = (
        f"Colour: what the last character of the segment reads in layer {layer}, mean of the heads."
        "\nPale letters without a box are lost. The model was never trained for this memory."
    )
    return scene.headed(title, note)


def _runs(first: int, stop: int):
    """Cut (first, stop) at the ends of lines."""
    while first < stop:
        end = min(stop, (first // PER_LINE + 1) * PER_LINE)
        yield first, end
        first = end


def _legend(scene: Scene, read: Read, rate: int, kept: str) -> None:
    words = {"every c-th": f"the last of {rate}", "random": "a random sample"}
    coarse = words.get(kept, f"{kept} of {rate}")
    x = LEFT
    for colour, words in (
        (COARSE, f"coarse memory: {coarse}"),
        (FINE, "fine memory"),
        (NOW, "this segment"),
    ):
        scene.boxes([(x, 56, 16, 16)], fill=colour, alpha=0.6)
        scene.boxes([(x, 56, 16, 16)], stroke=colour, width=1.2)
        scene.text(x + 24, 64, words, size=14)
        x += 60 + 8 * len(words)


def _chart(scene: Scene, gaps: dict, rate: int, kept: str, top: float) -> None:
    """Lines of the gap against the rate."""
    left, right, bottom, height = LEFT + 62, 560, top + 194, 140
    scene.text(LEFT, top + 8, "How far off is what is read from the coarse rows?", bold=True)
    scene.text(LEFT, top + 30, "|from the rows - from the states| / |from the states|", size=12.5,
               colour="muted")  # fmt: skip
    most = max(max(values) for values in gaps.values())
    scale = height / max(1.0, most)
    for y in (0.0, 0.5, 1.0):
        at = bottom - scale * y
        scene.lines([[(left, at), (right, at)]], stroke="faint", width=1)
        scene.text(left - 8, at, f"{y:.0%}", size=12.5, colour="muted", anchor="end")
    xs = [left + 24 + (right - left - 150) * n / (len(RATES) - 1) for n in range(len(RATES))]
    for x, c in zip(xs, RATES, strict=True):
        scene.text(x, bottom + 16, f"c = {c}", size=12.5, colour="muted", anchor="middle")
    colours = dict(zip(gaps, (segment_pair(2), segment_pair(3), segment_pair(4)), strict=True))
    ends = []
    for name, values in gaps.items():
        points = [(x, bottom - scale * v) for x, v in zip(xs, values, strict=True)]
        chosen = name == kept
        scene.lines([points], stroke=colours[name], width=3 if chosen else 1.6)
        scene.dots(points, 3.5, fill=colours[name])
        if chosen:
            scene.dots([points[RATES.index(rate)]], 7, stroke="ink", width=2)
        ends.append((points[-1][1], name))
    below = -1e9
    for y, name in sorted(ends):
        below = max(y, below + 17)
        style = dict(size=13, bold=name == kept, colour=colours[name])
        scene.text(xs[-1] + 14, below, name, **style)


def _shares(scene: Scene, read: Read, weights, now: int, top: float) -> None:
    """How the last query's attention is shared out."""
    left, wide = 640, 380
    scene.text(left, top + 8, "Where its attention goes", bold=True)
    starts = np.array([first for first, _ in read.groups])
    coarse = np.arange(len(starts)) < read.n_coarse
    own = starts >= now
    rows = (
        ("coarse memory", coarse, COARSE),
        ("fine memory", ~coarse & ~own, FINE),
        ("this segment", own, NOW),
    )
    for n, (name, where, colour) in enumerate(rows):
        y, share = top + 34 + 50 * n, float(weights[where].sum())
        scene.text(left, y + 6, f"{name}, {int(where.sum())} keys", size=13)
        scene.boxes([(left, y + 17, wide, 14)], stroke="faint", width=1)
        scene.boxes([(left, y + 17, wide * share, 14)], fill=colour)
        scene.text(left + wide, y + 6, f"{share:.1%}", size=13, anchor="end", bold=True)


def compression_explorer(
    model,
    vocab,
    tokens,
    *,
    tgt_len: int = 32,
    n_fine: int = 32,
    n_coarse: int = 32,
    rate: int = 4,
    layer: int = 3,
) -> Explorer:
    """Widget: a text in a fine and a coarse memory, and what the coarse rows still tell.

    tokens (n,): read in segments of tgt_len, the last one is the present. n_fine: states kept
    as they are, n_coarse: rows of states that left. rate 1, 2, 4 or 8 and layer 1 ... N: where the
    sliders begin. Raises `MinitxlError` for others, and for a model without relative encoding.
    """
    if rate not in RATES:
        raise MinitxlError(f"rate={rate} must be one of {', '.join(map(str, RATES))}")
    text = CompressedText(model, tokens, tgt_len=tgt_len, n_fine=n_fine, n_coarse=n_coarse)
    letters = [vocab.decode([int(t)]).replace("\n", "↵") for t in text.tokens]
    controls = {
        "rate": slider("rate c", [(f"{c} to 1", c) for c in RATES], rate),
        "layer": numbers("layer", "layer", layer, 1, model.config.n_layer),
        "kept": slider("of c states keep", [(name, name) for name in KEPT], "mean"),
    }

    def draw(**state) -> Scene:
        return compression_scene(text, letters, **state)

    states = [{"rate": 1}, {"rate": 4}, {"rate": 4, "kept": "every c-th"}]
    return Explorer(controls, draw, states=states)
