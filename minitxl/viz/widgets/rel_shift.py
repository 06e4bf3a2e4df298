"""The rel-shift trick step by step, and its adjoint running backwards (paper app. B).

What stands in a cell is found by sending labels through `ops.rel_shift_forward` and
`ops.rel_shift_backward`. The steps between are those of the released code: a column of zeros in
front, another view of the same numbers, one row less. `ops` puts the zeros behind and so leaves out
T - 1 numbers in place of T: the same result, and the last steps drawn here are `ops`' own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from matplotlib.collections import Collection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_mask
from minitxl.model.ops import rel_shift_backward, rel_shift_forward
from minitxl.viz.theme import (
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    LiveFigure,
    encode,
    new_figure,
    shade,
    styled,
)
from minitxl.viz.widgets.explorers import Explorer, _buttons, _ipywidgets, _looks, _slider

N_STEP = 6
LOW, HIGH = 2, 6  # ends of the sliders of T and M
ZERO = 0  # the label of a padded zero, and of a gradient that is exactly 0
DIRECTIONS = {"forward": False, "adjoint": True}
FONT = FontProperties(family="DejaVu Sans")


class Step(NamedTuple):
    """One picture of the numbers."""

    labels: np.ndarray  # of the cells: 1 + i K + c for query i and distance K-1-c, or ZERO
    kind: str  # "distance", "padded", "view", "cut" or "key": what rows and columns mean
    hidden: bool  # whether the mask lies over it


def steps(tgt_len: int, mem_len: int, *, backward: bool = False) -> list[Step]:
    """Return the six steps of the shift for T queries and K = M + T keys, as arrays of labels.

    Forward they go from scores by distance (T, K) to masked scores by key (T, K), backward from the
    gradient by key to the gradient by distance. A label is the same in both directions: that of the
    score (i, c) before the shift, which belongs to query i and distance K-1-c.
    """
    t, k = tgt_len, mem_len + tgt_len
    by_distance = 1 + np.arange(t * k).reshape(t, k)
    by_key, _ = rel_shift_forward(by_distance, xp=np)
    if backward:
        by_key = np.where(hidden_keys(t, mem_len), ZERO, by_key)  # there the softmax sends back 0
        by_distance = rel_shift_backward(by_key, xp=np)
    cut = by_key.reshape(k, t)  # (T, K) -> (K, T): the same numbers in the same order
    if backward:
        view = np.concatenate([np.full((1, t), ZERO), cut])  # (K, T) -> (K+1, T)
        padded = view.reshape(t, k + 1)  # (K+1, T) -> (T, K+1)
    else:
        padded = np.concatenate([np.full((t, 1), ZERO), by_distance], axis=1)  # -> (T, K+1)
        view = padded.reshape(k + 1, t)  # (T, K+1) -> (K+1, T)
    forward = [
        Step(by_distance, "distance", False),
        Step(padded, "padded", False),
        Step(view, "view", False),
        Step(cut, "cut", False),
        Step(by_key, "key", False),
        Step(by_key, "key", True),
    ]
    return forward[::-1] if backward else forward


def hidden_keys(tgt_len: int, mem_len: int) -> np.ndarray:
    """Return (T, K) bool: True where the causal mask hides a key."""
    lengths = dict(n_query=tgt_len, n_mem=mem_len, max_keys=None)
    return attention_mask(**lengths, device="cpu", xp=np)


def meaning(label, tgt_len: int, mem_len: int):
    """Return query i, distance d, and whether a key stands that far back (d <= i + M) of labels."""
    k = mem_len + tgt_len
    query, column = np.divmod(np.asarray(label) - 1, k)
    distance = k - 1 - column
    return query, distance, distance <= query + mem_len


class RelShiftFigure(LiveFigure):
    """The numbers before a step on the left, after it on the right."""

    def __init__(self) -> None:
        super().__init__()
        with styled():
            self.figure = new_figure(10.4, 4.9)

    def png(self) -> bytes:
        """PNG bytes of the present state: another T or M has other cells, so all is drawn anew."""
        with styled():
            self.figure.canvas.draw()
        return encode(self.figure)

    def update(self, *, tgt_len: int, mem_len: int, step: int, backward: bool) -> None:
        """Show step 1 ... 6 for T queries and a memory of M."""
        if not 1 <= step <= N_STEP:
            raise MinitxlError(f"step={step} must be 1 ... {N_STEP}")
        known = steps(tgt_len, mem_len, backward=backward)
        shape = (tgt_len, mem_len, backward)
        title, note, operation = _words(tgt_len, mem_len, step, backward, known)
        self.figure.clear()
        with styled():
            if step > 1:
                dropped = known[step - 2].kind == ("padded" if backward else "view")
                crossed = dropped and known[step - 1].kind == ("distance" if backward else "cut")
                self._matrix(0.03, known[step - 2], *shape, crossed=crossed, earlier=True)
                self._arrow(operation)
                self._matrix(0.535, known[step - 1], *shape)
            else:
                self._matrix(0.28, known[0], *shape)
            self.figure.text(0.016, 0.935, title, size=13, weight="bold")
            self.figure.text(0.016, 0.03, note, size=10, linespacing=1.45)
        self.caption = f"{title}. {note}".replace("\n", " ")

    def _arrow(self, operation: str) -> None:
        ax = self.figure.add_axes((0.462, 0.35, 0.076, 0.3))
        ax.axis("off")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        style = dict(arrowstyle="-|>", color=INK, lw=1.8, shrinkA=0, shrinkB=0, mutation_scale=16)
        ax.annotate("", (0.98, 0.5), (0.02, 0.5), arrowprops=style)
        ax.text(0.5, 0.58, operation, size=9.5, weight="bold", ha="center", va="bottom")

    def _matrix(self, left, step: Step, t, m, backward, *, crossed=False, earlier=False) -> None:
        """Cells with their labels; crossed: strike out what the next step leaves out."""
        wide, high = 0.42, 0.70
        rows, columns = step.labels.shape
        width, height = self.figure.get_size_inches()
        # cells are squares; there is room left for the names outside
        size = min(wide * width / (columns + 1.2), high * height / (rows + 2.1), 0.48)
        w, h = (columns + 1.2) * size / width, (rows + 2.1) * size / height
        ax = self.figure.add_axes((left + (wide - w) / 2, 0.175 + (high - h) / 2, w, h))
        ax.set_xlim(-1.1, columns + 0.1)
        ax.set_ylim(rows + 0.6, -1.5)
        ax.axis("off")
        self._cells(ax, step, t, m, backward, size)
        self._outside(ax, step, t, m, backward)
        if crossed:
            x, y = (
                ([0.5, 0.5], [0.1, rows - 0.1]) if backward else ([0.1, columns - 0.1], [0.5] * 2)
            )
            ax.plot(x, y, color=INK, lw=2.2, zorder=5)
        if earlier:
            shade_ = dict(fc=PAPER, alpha=0.25, lw=0, zorder=6)
            ax.fill([0, columns, columns, 0], [0, 0, rows, rows], **shade_)

    def _cells(self, ax, step: Step, t, m, backward, size: float) -> None:
        labels = step.labels.ravel()
        row, column = np.indices(step.labels.shape).reshape(2, -1)
        query, distance, exists = meaning(labels, t, m)
        zero = labels == ZERO
        covered = np.zeros(len(labels), bool)
        if step.hidden:
            covered = hidden_keys(t, m).ravel()
        hues = np.array([to_rgb(c) for c in SEGMENT_COLOURS])[query % len(SEGMENT_COLOURS)]
        fill = shade(hues, np.full(len(labels), 0.30))
        fill[zero] = to_rgb(PAPER)
        fill[covered] = to_rgb(HIDDEN)
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + np.stack([column, row], 1)[:, None]
        style = dict(edgecolors=MUTED, linewidths=0.6)
        ax.add_collection(PolyCollection(corners, facecolors=fill, **style, zorder=2))
        far = ~exists & ~zero & ~covered
        hatch = dict(hatch="////", facecolors="none", linewidths=0, zorder=2.5)
        ax.add_collection(PolyCollection(corners[far], edgecolors="#8F8B80", **hatch))
        big, small = [], []
        for n in range(len(labels)):
            masked = covered[n] and not backward
            big.append("-∞" if masked else "0" if zero[n] else str(distance[n]))
            filler = "zero" if backward else "pad"
            small.append("" if masked else filler if zero[n] else f"q{query[n]}")
        centre = np.stack([column + 0.5, row + 0.5], axis=1)
        points = 72 * size
        _write(ax, centre - 0.06, big, min(12.5, 0.42 * points))
        _write(ax, centre + np.array([0.45, 0.31]), small, min(7.5, 0.25 * points), right=True)

    def _outside(self, ax, step: Step, t: int, m: int, backward: bool) -> None:
        """Names of rows and columns, the shape, and a line around what the mask hides."""
        rows, columns = step.labels.shape
        names = {"padded": "T, K+1", "view": "K+1, T", "cut": "K, T"}
        shape = f"({names.get(step.kind, 'T, K')}) = ({rows}, {columns})"
        kept = dict(size=9.5, color=MUTED, ha="center", va="bottom")
        if step.kind == "key":
            for j in range(columns):
                ax.text(j + 0.5, -0.12, f"{j - m}".replace("-", "\u2212"), size=8.5, ha="center")
            ax.plot([m, m], [-0.75, rows], color=INK, lw=2.4, zorder=4)
            stairs = [(m + i + 1, i + down) for i in range(t - 1) for down in (0, 1)]
            x, y = zip(*stairs, (columns, t - 1), (columns, 0), (m + 1, 0), strict=True)
            ax.plot(x, y, color=INK, lw=1.8, ls=(0, (3, 1.5)), zorder=4)
            name = "exactly 0" if backward else "hidden" if step.hidden else "garbage"
            style = dict(size=9, ha="right", va="top", weight="bold")
            ax.text(columns, rows + 0.1, f"dashed: {name}", **style)
            ax.text(-0.12, -0.12, "key", size=8.5, color=MUTED, ha="right")
        if rows == t and step.kind != "cut":
            for i in range(rows):
                style = dict(size=9, ha="right", va="center", weight="bold")
                ax.text(-0.15, i + 0.5, f"q{i}", color=SEGMENT_COLOURS[i], **style)
        said = {"distance": "by distance", "key": "by key"}.get(step.kind, "")
        if step.hidden:
            said += ", masked"
        ax.text(columns / 2, -0.95, f"{said}  {shape}".strip(), **kept)


@lru_cache(maxsize=256)
def _outline(text: str, right: bool) -> Path:
    """Outline of a short text at size 1; the origin is in its middle, or at its right end."""
    path = TextPath((0.0, 0.0), text, size=1.0, prop=FONT)
    box = path.get_extents()
    x = box.x1 if right else (box.x0 + box.x1) / 2
    return path.transformed(Affine2D().translate(-x, -0.36))


def _write(ax, places, texts, size: float, right: bool = False) -> None:
    """Write texts at places (n, 2), all in one collection: a hundred cost a few milliseconds."""
    some = [i for i, text in enumerate(texts) if text]
    if some:
        glyphs = Collection(
            offsets=places[some], offset_transform=ax.transData, linewidths=0, zorder=3
        )
        glyphs.set_paths([_outline(texts[i], right) for i in some])
        glyphs.set_transform(Affine2D().scale(size / 72.0) + ax.figure.dpi_scale_trans)
        glyphs.set_facecolor(INK)
        ax.add_collection(glyphs, autolim=False)


def _words(t: int, m: int, step: int, backward: bool, known: list[Step]) -> tuple[str, str, str]:
    """Title, note and name of the operation of a step."""
    k = m + t
    hidden = hidden_keys(t, m)
    if backward:
        left = int((known[-1].labels == ZERO).sum())
        x, y = np.random.default_rng(0).normal(size=(2, t, k))
        one = float((rel_shift_forward(x, xp=np)[0] * y).sum())
        other = float((x * rel_shift_backward(y, xp=np)).sum())
        words = [
            (
                "Gradient by key, as the softmax sends it back",
                "A cell stands for d loss / d score of its query and distance. "
                f"{hidden.sum()} are hidden: their probability is 0,\n"
                "so their gradient is exactly 0.",
                "",
            ),
            (
                "Undo the mask: it was added, so the gradient passes unchanged",
                "Nothing but zeros comes back from where the garbage was: it cannot teach anything."
                "\nA number's path from here on is its path forward, walked in reverse.",
                "undo\nmask",
            ),
            (
                f"View as (K, T): the same {t * k} numbers in rows of {t}",
                "The forward pass viewed (K, T) as (T, K); the adjoint of a view is the view back."
                "\nNo number moves in the computer.",
                "view",
            ),
            (
                "Put back the row that was dropped, as zeros",
                f"These {t} numbers were never read, so the loss does not depend on them: their "
                "gradient is\nexactly 0. The adjoint of leaving out is padding with zeros.",
                "add\nrow",
            ),
            (
                f"View as (T, K+1): rows of {k + 1} again",
                "The first column is that of the padded zeros. Each distance stands in one column "
                "again,\nas it did before the shift.",
                "view",
            ),
            (
                "Leave out the padded column: the gradient by distance",
                f"Each column is one distance: summed over queries it trains r_d. {left} cells are "
                f"exactly 0: no key\nstood there. For random x, y: ⟨shift x, y⟩ = {one:.6f} = "
                f"⟨x, adjoint y⟩ = {other:.6f}.",
                "drop\ncolumn",
            ),
        ]
    else:
        zeros = int((known[4].labels[hidden] == ZERO).sum())
        garbage = int(hidden.sum()) - zeros
        words = [
            (
                "Scores by distance: one product with all distances, for every query alike",
                "A cell shows its distance d = K - 1 - c, the same in a column; the score there is "
                "(q + v) · r_d.\nHatched: farther back than this query has keys.",
                "",
            ),
            (
                "Pad a column of zeros in front",
                f"(T, K) becomes (T, K+1) = ({t}, {k + 1}): every row begins with one 0.\n"
                "A query's stretch, its 0 and its scores, is now K + 1 numbers long: "
                "that is the trick.",
                "pad",
            ),
            (
                f"View as (K+1, T): the same {t * (k + 1)} numbers in rows of {t}",
                "Read row by row, nothing has moved in the computer: only the line breaks are "
                f"elsewhere.\nA query's stretch goes on over several rows; it is {k + 1} numbers "
                "long.",
                "view",
            ),
            (
                "Drop the first row",
                f"Gone are {t} numbers: one 0 and {_count(t - 1, 'score')} of q0, farther back "
                f"than it has keys.\n{t * k} numbers are left, as many as at the start.",
                "drop\nrow",
            ),
            (
                "View back as (T, K): column j is now key j",
                "Rows are K long, stretches K + 1: row i begins T - 1 - i scores into its own, so "
                "that key j has distance\ni + M - j. Behind its end: garbage, "
                f"{_count(zeros, 'zero')} and {_count(garbage, 'score')} of the next row's query.",
                "view",
            ),
            (
                "Mask: the garbage is exactly what lies in the future",
                f"{hidden.sum()} cells with j > i + M become -∞, their probability exactly 0. "
                "Without the mask scores of the next row's\nquery would leak in. "
                "Black line: the memory's edge.",
                "mask",
            ),
        ]
    title, note, operation = words[step - 1]
    way = "Adjoint, step" if backward else "Step"
    return f"{way} {step} of {N_STEP}. {title}", note, operation


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def rel_shift_explorer(*, tgt_len: int = 3, mem_len: int = 3, step: int = 1) -> Explorer:
    """Widget: the rel-shift of T x K scores step by step, forward and backward.

    tgt_len and mem_len 2 ... 6, step 1 ... 6: where the sliders begin. The static pictures show
    the steps that matter. Raises `MinitxlError` for a value that is no stop of its slider.
    """
    widgets = _ipywidgets()
    for name, value, low, high in (
        ("tgt_len", tgt_len, LOW, HIGH),
        ("mem_len", mem_len, LOW, HIGH),
        ("step", step, 1, N_STEP),
    ):
        if not low <= value <= high:
            raise MinitxlError(f"{name}={value} must be {low} ... {high}, its slider's ends")
    lengths = dict(min=LOW, max=HIGH, **_looks(widgets))
    controls = {
        "step": _slider(widgets, "step", [(str(n), n) for n in range(1, N_STEP + 1)], step),
        "direction": _buttons(
            widgets, "direction", list(DIRECTIONS), next(iter(DIRECTIONS)), "135px"
        ),
        "tgt_len": widgets.IntSlider(value=tgt_len, description="segment T", **lengths),
        "mem_len": widgets.IntSlider(value=mem_len, description="memory M", **lengths),
    }
    figure = RelShiftFigure()

    def draw(*, direction: str, **state) -> None:
        figure.update(**state, backward=DIRECTIONS[direction])

    forward, backward = DIRECTIONS
    states = [{"direction": forward, "step": n} for n in (2, 3, 4, 5, 6)]
    states += [{"direction": backward, "step": n} for n in (4, 6)]
    return Explorer(figure, controls, draw, states=states)
