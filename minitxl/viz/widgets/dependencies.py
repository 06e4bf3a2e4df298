"""How far back one output reaches: the model's dependencies, drawn as in the paper's figure 2.

Which state reads which is asked of the model's own parts: `attention_mask` says what a query sees,
`kept_rows` what the memory holds. Every layer reads in the same pattern, so that following it down
N times from one output finds all tokens that can change it. A test changes them one by one.
"""

from __future__ import annotations

import numpy as np

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_mask
from minitxl.model.network import kept_rows
from minitxl.model.reach import exact_reach
from minitxl.viz.theme import segment_name
from minitxl.viz.widgets.explorers import Explorer, buttons, numbers, slider
from minitxl.viz.widgets.scene import Scene, segment_pair

OUTPUTS = ("first", "middle", "last")  # of the segment's outputs, the one that is followed down
MANY = 2000  # lines; beyond, those that the output does not depend on would be a grey smear
WIDTH, HEIGHT, LEFT, RIGHT = 1040, 560, 86, 1030  # so high that a laptop shows it with its sliders
SHOWN = {"off and on": (False, True), "off": (False,), "on": (True,)}


def reads(*, n_segments: int, tgt_len: int, mem_len: int, same_length: bool = False) -> np.ndarray:
    """Return (L, L) bool, L = n_segments * tgt_len: whether a query reads a key one layer below.

    Row: the query's position in the text, column: the key's. It is the same in every layer.
    """
    config = Config(n_token=1, tgt_len=tgt_len, mem_len=mem_len, same_length=same_length)
    most = config.most_keys if same_length else None
    length = n_segments * tgt_len
    pattern, memory = np.zeros((length, length), bool), np.arange(0)
    for start in range(0, length, tgt_len):
        segment = np.arange(start, start + tgt_len)
        keys = np.concatenate([memory, segment])  # positions of [memory ; segment], (K,)
        lengths = dict(n_query=tgt_len, n_mem=len(memory), max_keys=most)
        pattern[np.ix_(segment, keys)] = ~attention_mask(**lengths, device="cpu", xp=np)
        first, stop = kept_rows(n_mem=len(memory), n_new=tgt_len, config=config)
        memory = keys[first:stop]
    return pattern


def receptive_field(pattern: np.ndarray, query: int, n_layer: int) -> np.ndarray:
    """Return (N+1, L) bool: the states of layer 0 ... N on which the output at `query` depends.

    pattern (L, L): what `reads` returned. Row 0 are the tokens, row N is the output alone.
    """
    if not 0 <= query < len(pattern):
        raise MinitxlError(
            f"query={query} must be 0 ... {len(pattern) - 1}, a position of the text; "
            "for a later one take more segments"
        )
    field = np.zeros((n_layer + 1, len(pattern)), bool)
    field[n_layer, query] = True
    for n in range(n_layer, 0, -1):
        field[n - 1] = pattern[field[n]].any(axis=0)
    return field


def span_scene(
    *, n_layer: int, tgt_len: int, mem_len: int, output: str, recurrence: str, same_length: str
) -> Scene:
    """Layers as rows of dots, positions to the right, a line for everything that is read.

    output: one of OUTPUTS; recurrence: one of SHOWN, the panels from the top; same_length: whether
    with recurrence every query sees mem_len keys, "off" or "on".
    """
    shown = SHOWN[recurrence]
    offset = {"first": 0, "middle": (tgt_len - 1) // 2, "last": tgt_len - 1}[output]
    # one segment more than is reached: so that what is out of reach is seen, too
    n_segments = exact_reach(n_layer, tgt_len, mem_len) // tgt_len + 2
    scene, reached = Scene(WIDTH, HEIGHT), {}
    high = (HEIGHT - 108) / len(shown)
    for place, recurrent in enumerate(shown):
        m, same = (mem_len, same_length == "on") if recurrent else (0, False)
        pattern = reads(n_segments=n_segments, tgt_len=tgt_len, mem_len=m, same_length=same)
        query = (n_segments - 1) * tgt_len + offset
        field = receptive_field(pattern, query, n_layer)
        reached[recurrent] = int(field[0, :query].sum())
        panel = _Panel(scene, 46 + high * place, high - 8, pattern, field, query, tgt_len, m)
        panel.draw(recurrent, names=place == len(shown) - 1)  # columns are the same in all panels
    same = same_length == "on"
    return scene.headed(*_words(n_layer, tgt_len, mem_len, offset, output, reached, same))


class _Panel:
    """One model's dots and lines between the heights `top` and `top + high` of a scene."""

    def __init__(self, scene, top, high, pattern, field, query, tgt_len, mem_len) -> None:
        self.scene, self.top, self.pattern, self.field = scene, top, pattern, field
        self.query, self.t, self.m = query, tgt_len, mem_len
        self.n, self.length = len(field) - 1, len(pattern)
        self.start = self.length - tgt_len  # of the current segment
        self.wide = (RIGHT - LEFT) / self.length  # of a position
        self.floor = top + high - 62  # height of the tokens' row; names and reach stand below
        self.step = (self.floor - top - 42) / self.n  # between two layers
        self.radius = min(7.6, 0.31 * self.wide)

    def x(self, position):
        return LEFT + (np.asarray(position) + 0.5) * self.wide

    def y(self, layer):
        return self.floor - np.asarray(layer) * self.step

    def draw(self, recurrent: bool, *, names: bool) -> None:
        if self.m:
            left, high = self.x(self.start - self.m - 0.5), self.floor - self.y(self.n - 0.45)
            box = (left, self.y(self.n - 0.7), self.m * self.wide, high)
            self.scene.boxes([box], fill="hidden")
        self._lines()
        self._dots()
        self._marks(recurrent)
        if names:
            self._names()
        self._reach()

    def _lines(self) -> None:
        n, q, k = np.nonzero(np.broadcast_to(self.pattern, (self.n, *self.pattern.shape)))
        n += 1  # the layer that reads
        ends = np.stack([self.x(k), self.y(n - 1), self.x(q), self.y(n)], axis=1).reshape(-1, 2, 2)
        lit, age, width = self.field[n, q], self._age(k), min(1.8, 39 / self.length)
        if len(n) <= MANY:
            self.scene.lines(ends[~lit], stroke="faint", width=width / 2)
        for a in np.unique(age[lit]):
            mine = ends[lit & (age == a)]
            self.scene.lines(mine, stroke=segment_pair(int(a)), width=width, alpha=0.6)

    def _dots(self) -> None:
        layer, at = np.indices(self.field.shape).reshape(2, -1)
        lit, ages, r = self.field.ravel(), self._age(at), self.radius
        # no layer reads the top state, so that it is not kept
        cached = (layer < self.n) & (at >= self.start - self.m) & (at < self.start)
        for a in np.unique(ages):
            for filled in (True, False):
                mine = (ages == a) & (lit == filled)
                look = dict(fill=segment_pair(int(a)) if filled else "paper", width=1.5)
                look["stroke"] = segment_pair(int(a))
                x, y = self.x(at), self.y(layer)
                round_, square = mine & ~cached, mine & cached
                self.scene.dots(zip(x[round_], y[round_], strict=True), r, **look)
                corners = zip(x[square] - r, y[square] - r, strict=True)
                self.scene.boxes([(*corner, 2 * r, 2 * r) for corner in corners], **look)
        place = [(self.x(self.query), self.y(self.n))]
        self.scene.dots(place, 1.8 * r, stroke="ink", width=2.2)

    def _marks(self, recurrent: bool) -> None:
        scene, top = self.scene, self.top
        name = "Transformer-XL: recurrence on" if recurrent else "Vanilla: recurrence off"
        scene.text(16, top + 8, name, bold=True)
        for layer in range(self.n + 1):
            label = "tokens" if layer == 0 else f"layer {layer}"
            style = dict(size=12, colour="muted", anchor="end")
            scene.text(LEFT - 4, self.y(layer), label, **style)
        low = self.floor + 14
        for start in range(0, self.length, self.t):
            ends = [(self.x(start - 0.42), low), (self.x(start + self.t - 0.58), low)]
            scene.lines([ends], stroke=segment_pair(int(self._age(start))), width=5)
            if start:
                edge = start == self.start
                look = dict(stroke="ink", width=3.2) if edge else dict(stroke="muted", width=1)
                high = top if edge else self.y(self.n) - 10
                scene.lines([[(self.x(start - 0.5), low), (self.x(start - 0.5), high)]], **look)
        edge = "memory's edge" if recurrent else "segment's start"
        scene.text(self.x(self.start - 0.5) - 7, top + 8, edge, bold=True, size=12.5, anchor="end")
        if self.m:
            left = self.x(self.start - self.m - 0.5)
            ends = [(left, low), (left, self.y(self.n) - 10)]
            scene.lines([ends], stroke="ink", width=2, dash=(4, 4))

    def _names(self) -> None:
        """Name the segments; where there is no room, the current one and every fifth before it."""
        wide = self.t * self.wide
        for start in range(0, self.length, self.t):
            age = int(self._age(start))
            if wide < 50 and age % 5:
                continue
            name = "this" if age == 0 and wide < 95 else segment_name(age)
            x = self.x(start + self.t / 2 - 0.5)
            style = dict(bold=True, size=12, anchor="middle")
            self.scene.text(x, self.floor + 28, name, colour="ink", **style)

    def _reach(self) -> None:
        """The tokens before the segment's start that are reached, with their number."""
        found, y = np.nonzero(self.field[0, : self.start])[0], self.floor + 48
        last = self.x(self.start - 0.5)
        if not len(found):
            words = "reaches no token before its segment"
            self.scene.text(last - 7, y, words, size=13, anchor="end")
            return
        first = self.x(found[0] - 0.5)
        heads = [[(x + s, y - 4), (x, y), (x + s, y + 4)] for x, s in ((first, 6), (last, -6))]
        self.scene.lines([[(first, y), (last, y)], *heads], stroke="ink", width=1.6)
        words = f"{_tokens(len(found))} before the segment"
        if last - first > 220:
            self.scene.text((first + last) / 2, y, words, size=13, anchor="middle", halo=True)
        else:
            self.scene.text(first - 7, y, words, size=13, anchor="end")

    def _age(self, position):
        return self.length // self.t - 1 - position // self.t


def _words(n_layer, tgt_len, mem_len, offset, output, reached, same) -> tuple[str, str]:
    """Title and note: the count from the picture, and whether it is N M; the rule is asked for."""
    layers = "1 layer" if n_layer == 1 else f"{n_layer} layers"
    if True not in reached:
        title = (
            f"Without memory the {output} output depends on {_tokens(reached[False])} before it: "
            f"{layers}, T = {tgt_len}"
        )
        return title, (
            "No layer reads across a segment's start: the reach is 0, however many layers there "
            "are.\nFilled: what the circled output depends on."
        )
    without = f", without memory on {reached[False]}" if False in reached else ""
    title = (
        f"The {output} output depends on {_tokens(reached[True])} before it{without}: "
        f"{layers}, T = {tgt_len}, M = {mem_len}"
    )
    if same:
        return title, (
            f"Same length: every query sees {_tokens(mem_len)}, its own among them; the left end "
            "moves with the output.\n"
            "Filled: what the circled output depends on. Squares on grey: the states in the memory."
        )
    reach, simple = exact_reach(n_layer, tgt_len, mem_len), n_layer * mem_len
    note = f"The reach is {_tokens(reach)} before the segment"
    note += f"; N M = {simple} falls short." if simple < reach else ", here N M as well."
    own = f" ({reach} + {offset} in its own segment)" if offset else ""
    return title, (
        f"{note}\nFilled: what the circled output depends on{own}. Squares on grey: the states in "
        "the memory."
    )


def _tokens(n: int) -> str:
    return f"{n} token" if n == 1 else f"{n} tokens"


def span_explorer(
    *, n_layer: int = 3, tgt_len: int = 4, mem_len: int = 4, recurrence: str = "off and on"
) -> Explorer:
    """Widget: how far back one output reaches, by layers, segment and memory.

    n_layer 1 ... 4, tgt_len 2 ... 6, mem_len 1 ... 12 is where the sliders begin; recurrence: "off
    and on" (both, one above the other), "off" or "on". The static pictures show M = T and an M
    that is no multiple of T. Raises `MinitxlError` for a value that is no stop of its slider.
    """
    if recurrence not in SHOWN:
        raise MinitxlError(f"recurrence={recurrence!r} must be one of {', '.join(SHOWN)}")
    controls = {
        "tgt_len": numbers("segment T", "tgt_len", tgt_len, 2, 6),
        "mem_len": numbers("memory M", "mem_len", mem_len, 1, 12),
        "n_layer": numbers("layers N", "n_layer", n_layer, 1, 4),
        "output": slider("output followed", list(OUTPUTS), OUTPUTS[0]),
        "recurrence": buttons("recurrence", list(SHOWN), recurrence, "96px"),
        "same_length": buttons("same length", ["off", "on"], "off", "96px"),
    }
    return Explorer(controls, span_scene, states=[{}, {"mem_len": tgt_len + tgt_len // 2}])
