"""How far back one output reaches: the model's dependencies, drawn as in the paper's figure 2.

Which state reads which is asked of the model's own parts: `attention_mask` says what a query sees,
`kept_rows` what the memory holds. Every layer reads in the same pattern, so that following it down
N times from one output finds all tokens that can change it. A test changes them one by one.
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_mask
from minitxl.model.network import kept_rows
from minitxl.model.reach import exact_reach
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    LiveFigure,
    encode,
    new_figure,
    segment_colour,
    segment_name,
    styled,
)
from minitxl.viz.widgets.explorers import Explorer, _buttons, _ipywidgets, _looks, _slider

OUTPUTS = ("first", "middle", "last")  # of the segment's outputs, the one that is followed down
MANY = 2000  # lines; beyond, those that the output does not depend on would be a grey smear
SHOWN = {"off and on": (False, True), "off": (False,), "on": (True,)}


def reads(*, n_segments: int, tgt_len: int, mem_len: int) -> np.ndarray:
    """Return (L, L) bool, L = n_segments * tgt_len: whether a query reads a key one layer below.

    Row: the query's position in the text, column: the key's. It is the same in every layer.
    """
    config = Config(n_token=1, tgt_len=tgt_len, mem_len=mem_len)
    length = n_segments * tgt_len
    pattern, memory = np.zeros((length, length), bool), np.arange(0)
    for start in range(0, length, tgt_len):
        segment = np.arange(start, start + tgt_len)
        keys = np.concatenate([memory, segment])  # positions of [memory ; segment], (K,)
        lengths = dict(n_query=tgt_len, n_mem=len(memory), max_keys=None)
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


class DependencyFigure(LiveFigure):
    """Layers as rows of dots, positions to the right, a line for everything that is read."""

    def __init__(self) -> None:
        super().__init__()
        with styled():
            self.figure = new_figure(10.4, 6.5)

    def png(self) -> bytes:
        """PNG bytes of the present state: another model has other dots, so all is drawn anew."""
        with styled():
            self.figure.canvas.draw()
        return encode(self.figure)

    def update(
        self, *, n_layer: int, tgt_len: int, mem_len: int, output: str, shown: tuple[bool, ...]
    ) -> None:
        """Draw a model's panels; shown: for each, from the top, whether it has its memory."""
        offset = {"first": 0, "middle": (tgt_len - 1) // 2, "last": tgt_len - 1}[output]
        # one segment more than is reached: so that what is out of reach is seen, too
        n_segments = exact_reach(n_layer, tgt_len, mem_len) // tgt_len + 2
        shape = dict(n_segments=n_segments, tgt_len=tgt_len)
        self.figure.clear()
        reached = {}
        with styled():
            height = 0.795 / len(shown)
            for place, recurrent in enumerate(shown):
                bottom = 0.12 + height * (len(shown) - 1 - place)
                ax = self.figure.add_axes((0.082, bottom, 0.908, height - 0.02))
                m = mem_len if recurrent else 0
                pattern = reads(**shape, mem_len=m)
                query = (n_segments - 1) * tgt_len + offset
                field = receptive_field(pattern, query, n_layer)
                reached[recurrent] = int(field[0, :query].sum())
                panel = _Panel(ax, pattern, field, query, tgt_len, m, recurrent)
                panel.draw(names=place == len(shown) - 1)  # columns are the same in all panels
            title, note = _words(n_layer, tgt_len, mem_len, offset, output, reached)
            self.figure.text(0.016, 0.95, title, size=13, weight="bold")
            self.figure.text(0.016, 0.022, note, size=10, linespacing=1.45)
        self.caption = f"{title}. {note}".replace("\n", " ")


class _Panel:
    """One model's dots and lines on an axes: x in tokens, y in layers."""

    def __init__(self, ax, pattern, field, query, tgt_len, mem_len, recurrent) -> None:
        self.ax, self.pattern, self.field, self.query = ax, pattern, field, query
        self.t, self.m, self.recurrent = tgt_len, mem_len, recurrent
        self.n = len(field) - 1
        self.length = len(pattern)
        self.start = self.length - tgt_len  # of the current segment
        # all is measured in layers; a panel's height is (N + above + below) of them
        inches = ax.get_position().height * ax.figure.get_figheight()
        self.unit = (self.n + 0.5) / (inches - 0.95)  # layers per inch
        ax.set_xlim(-0.8, self.length - 0.2)
        ax.set_ylim(-0.56 * self.unit - 0.25, self.n + 0.25 + 0.39 * self.unit)
        ax.axis("off")

    def draw(self, *, names: bool) -> None:
        self._lines()
        self._dots()
        self._marks(names)

    def _lines(self) -> None:
        n, q, k = np.nonzero(np.broadcast_to(self.pattern, (self.n, *self.pattern.shape)))
        n += 1  # the layer that reads
        nothing = np.full(len(n), np.nan)  # ends a line: so all of one colour are one quick path
        x, y = np.stack([k, q, nothing], axis=1), np.stack([n - 1, n, nothing], axis=1)
        lit = self.field[n, q]
        width = min(1.3, 28 / self.length)
        if len(n) <= MANY:
            self.ax.plot(x[~lit].ravel(), y[~lit].ravel(), color=FAINT, lw=width / 2, zorder=1)
        age = self._age(k)
        for a in np.unique(age[lit]):
            mine = lit & (age == a)
            style = dict(color=segment_colour(int(a)), lw=width, alpha=0.6, zorder=2)
            self.ax.plot(x[mine].ravel(), y[mine].ravel(), **style)

    def _dots(self) -> None:
        width = self.ax.get_position().width * self.ax.figure.get_figwidth() * 72
        size = min(11.0, 0.62 * width / self.length)  # points
        layer, at = np.indices(self.field.shape).reshape(2, -1)
        colours = np.array([to_rgb(segment_colour(int(a))) for a in self._age(at)])
        fill = np.where(self.field.reshape(-1, 1), colours, to_rgb(PAPER))
        # no layer reads the top state, so that it is not kept
        cached = (layer < self.n) & (at >= self.start - self.m) & (at < self.start)
        for mine, shape in ((cached, "s"), (~cached, "o")):
            style = dict(fc=fill[mine], ec=colours[mine], marker=shape, s=size**2, lw=1.1, zorder=3)
            self.ax.scatter(at[mine], layer[mine], **style)
        self.ax.scatter(
            [self.query], [self.n], s=(1.75 * size) ** 2, fc="none", ec=INK, lw=1.6, zorder=4
        )

    def _marks(self, names: bool) -> None:
        ax, n, unit = self.ax, self.n, self.unit
        name = "Transformer-XL: recurrence on" if self.recurrent else "Vanilla: recurrence off"
        top = n + 0.25 + 0.19 * unit
        high = ax.get_position().y1
        ax.figure.text(0.016, high, name, size=10.5, weight="bold", va="top")
        for layer in range(n + 1):
            label = "tokens" if layer == 0 else f"layer {layer}"
            style = dict(size=8.5, color=MUTED, ha="right", va="center")
            ax.text(-0.004, layer, label, transform=ax.get_yaxis_transform(), **style)
        low = -0.25 - 0.05 * unit
        for start in range(0, self.length, self.t):
            a = int(self._age(start))
            line = dict(color=segment_colour(a), solid_capstyle="butt")
            ax.plot([start - 0.42, start + self.t - 0.58], [low, low], lw=3.5, **line)
            if start:
                edge = start == self.start
                style = dict(color=INK, lw=2.4) if edge else dict(color=MUTED, lw=0.8)
                ends = [low, top if edge else n + 0.25]
                ax.plot([start - 0.5] * 2, ends, zorder=1.5 + edge, **style)
        edge = "memory's edge" if self.recurrent else "segment's start"
        beside = dict(xytext=(-5, 0), textcoords="offset points", ha="right")
        at = self.start - 0.5
        ax.annotate(edge, (at, top), weight="bold", va="top", size=9, **beside)
        if names:
            self._names(low)
        if self.m:
            left = self.start - self.m - 0.5
            band = Rectangle((left, -0.25), self.m, n - 0.4, fc=HIDDEN, lw=0, zorder=0)
            ax.add_patch(band)
            ax.plot([left, left], [low, n + 0.25], color=INK, lw=1.4, ls=(0, (2, 2)), zorder=2)
        self._reach(low)

    def _names(self, low: float) -> None:
        """Name the segments; where there is no room, the current one and every fifth before it."""
        inches = self.ax.get_position().width * self.ax.figure.get_figwidth()
        wide = self.t * inches / self.length  # inches of a segment
        for start in range(0, self.length, self.t):
            age = int(self._age(start))
            if wide < 0.5 and age % 5:
                continue
            name = "this" if age == 0 and wide < 0.95 else segment_name(age)
            style = dict(color=segment_colour(age), weight="bold", size=8.5)
            x = start + self.t / 2 - 0.5
            self.ax.text(x, low - 0.05 * self.unit, name, ha="center", va="top", **style)

    def _reach(self, low: float) -> None:
        """The tokens before the segment's start that are reached, with their number."""
        found = np.nonzero(self.field[0, : self.start])[0]
        y = low - 0.34 * self.unit
        if not len(found):
            text = "reaches no token before its segment"
            beside = dict(xytext=(-5, 0), textcoords="offset points", ha="right")
            self.ax.annotate(text, (self.start - 0.5, y), size=9.5, va="center", **beside)
            return
        first, last = found[0] - 0.5, self.start - 0.5
        arrow = dict(arrowstyle="<|-|>", color=INK, lw=1.2, shrinkA=0, shrinkB=0)
        self.ax.annotate("", (first, y), (last, y), arrowprops=arrow)
        text = f"{_tokens(len(found))} before the segment"
        box = dict(facecolor=PAPER, edgecolor="none", pad=1.5)
        inches = self.ax.get_position().width * self.ax.figure.get_figwidth()
        fits = (last - first) * inches / self.length > 2.2
        x, side = ((first + last) / 2, "center") if fits else (first - 0.3, "right")
        self.ax.text(x, y, text, size=9.5, ha=side, va="center", bbox=box)

    def _age(self, position):
        return self.length // self.t - 1 - position // self.t


def _words(n_layer, tgt_len, mem_len, offset, output, reached) -> tuple[str, str]:
    """Title and note: the count from the picture beside the formula with its numbers filled in."""
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
    reach, simple = exact_reach(n_layer, tgt_len, mem_len), n_layer * mem_len
    note = (
        f"reach = (N - 1) T ⌈M/T⌉ + M = ({n_layer} - 1) · {tgt_len} · ⌈{mem_len}/{tgt_len}⌉ + "
        f"{mem_len} = {n_layer - 1} · {tgt_len} · {-(-mem_len // tgt_len)} + {mem_len} = "
        f"{_tokens(reach)} before the segment"
    )
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
    widgets = _ipywidgets()
    stops = dict(tgt_len=(2, 6), mem_len=(1, 12), n_layer=(1, 4))
    given = dict(tgt_len=tgt_len, mem_len=mem_len, n_layer=n_layer)
    for name, (low, high) in stops.items():
        if not low <= given[name] <= high:
            raise MinitxlError(f"{name}={given[name]} must be {low} ... {high}, its slider's ends")
    if recurrence not in SHOWN:
        raise MinitxlError(f"recurrence={recurrence!r} must be one of {', '.join(SHOWN)}")
    labels = dict(tgt_len="segment T", mem_len="memory M", n_layer="layers N")
    controls = {
        name: widgets.IntSlider(
            min=low, max=high, value=given[name], description=labels[name], **_looks(widgets)
        )
        for name, (low, high) in stops.items()
    }
    controls["output"] = _slider(widgets, "output followed", list(OUTPUTS), OUTPUTS[0])
    controls["recurrence"] = _buttons(widgets, "recurrence", list(SHOWN), recurrence, "96px")
    figure = DependencyFigure()

    def draw(*, recurrence: str, **shape) -> None:
        figure.update(**shape, shown=SHOWN[recurrence])

    return Explorer(figure, controls, draw, states=[{}, {"mem_len": tgt_len + tgt_len // 2}])
