"""Relative attention over cached segments, drawn from plain arrays.

Positions are relative to the first character of the current segment, as in the model: keys at
0 ... T-1 were just read, keys at -M ... -1 come from the memory, and the memory's edge lies between
-1 and 0. A key is coloured by the segment it comes from, the deeper the more weight it gets.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.colors import to_rgb

from minitxl.errors import MinitxlError
from minitxl.viz.passage import Passage
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    LiveFigure,
    new_figure,
    percent,
    segment_colour,
    segment_name,
    shade,
    spoken,
    strength,
    styled,
)

FLOOR = 1e-4  # smaller weights sit on the lower edge of the logarithmic axis
BAR = 4.2  # length of a share bar that stands for the whole weight, in columns of text


def weight_by_distance(probs: np.ndarray) -> np.ndarray:
    """Mean weight at distance 0 ... K-1, each over the queries that have a key so far back.

    `probs` (T, K): one row per query; key j is i + M - j characters before query i. Returns (K,).
    """
    t, k = probs.shape
    query, key = np.indices((t, k))
    distance = query + (k - t) - key
    seen = distance >= 0
    total = np.bincount(distance[seen], weights=probs[seen], minlength=k)
    return total / np.bincount(distance[seen], minlength=k)


def nearest_first(probs: np.ndarray, query: int) -> np.ndarray:
    """Weights of one query ordered by distance 0, 1, 2 ...: (T, K) -> (query + M + 1,)."""
    t, k = probs.shape
    return probs[query, : query + k - t + 1][::-1]


def distance_bins(n: int) -> np.ndarray:
    """Edges of bins of distances 0 ... n-1: single distances first, then by a quarter octave."""
    edges = np.unique(np.round(2.0 ** np.arange(0, np.log2(max(n, 2)), 0.25)).astype(int))
    return np.array([0, *edges[edges < n], n])


def span(probs: np.ndarray, query: int, share: float = 0.9) -> int:
    """Characters back within which `query` puts `share` of its weight."""
    reached = np.cumsum(nearest_first(probs, query))
    return int(min(np.searchsorted(reached, share), len(reached) - 1))


class AttentionFigure(LiveFigure):
    """What one character attends to, the whole matrix of its head, and weight by distance.

    `symbols`: characters of the passage, oldest first, the current segment last; `tgt_len` of them
    per segment. `update` takes the probabilities (T, K) of one head, or a mean of heads, with
    K = M + T keys of which the first M are memory; M may be any length up to the passage's.
    """

    def __init__(self, symbols, *, tgt_len: int) -> None:
        super().__init__()
        self.symbols = list(symbols)
        self.tgt_len = tgt_len
        self.cached = len(self.symbols) - tgt_len  # the longest memory the passage can show
        self.crowded = self.cached > 5 * tgt_len  # no room for names in full
        with styled():
            self.figure = new_figure(10.4, 6.05)
            self._draw_passage()
            self._draw_matrix()
            self._draw_distance()
            self.title = self.figure.text(0.016, 0.952, "", size=13, weight="bold")
            self.note = self.figure.text(0.016, 0.022, "", size=10)
        self.moving = [
            *self.passage.artists,
            *self.share_bars,
            *self.share_texts,
            self.image,
            self.outside,
            self.edge,
            self.row,
            self.marker,
            self.mean_line,
            self.dots,
            self.start,
            self.title,
            self.note,
        ]

    def _draw_passage(self) -> None:
        ax = self.figure.add_axes((0.116, 0.544, 0.747, 0.347))
        self.passage = Passage(ax, self.symbols, tgt_len=self.tgt_len, size=12)
        columns = self.passage.columns
        self.unit = unit = columns / 64  # of what stands beside the text, whatever its width
        self.share_bars, self.share_texts = [], []
        for age, top, bottom in self.passage.rows:
            middle, colour = (top + bottom) / 2, segment_colour(age)
            label = {"color": colour, "weight": "bold", "va": "center"}
            ax.text(-0.7 * unit, middle, segment_name(age), ha="right", **label)
            (bar,) = ax.plot([], [], color=colour, lw=9, solid_capstyle="butt", clip_on=False)
            self.share_bars.append(bar)
            self.share_texts.append(ax.text(0, middle, "", va="center"))
        ax.text(columns + 0.8 * unit, -0.3, "share of its weight", size=9, color=MUTED, va="bottom")
        self._draw_scale(ax, columns)
        if self.passage.edge is not None:
            edge = self.passage.edge
            ax.plot([-8.6 * unit, columns], [edge, edge], color=INK, lw=2.2, clip_on=False)
            if not self.crowded:
                ax.text(columns + 0.8 * unit, edge, "memory's edge", weight="bold", va="center")

    def _draw_scale(self, ax, columns: int) -> None:
        """Legend of the depth of colour, above the text."""
        ax.text(
            columns - 16.4 * self.unit, -0.3, "weight", size=9, color=MUTED, ha="right", va="bottom"
        )
        ink = np.array(to_rgb(INK))
        for step, weight in enumerate((0.005, 0.02, 0.1, 0.5)):
            fill = shade(ink, strength(weight))
            dark = strength(weight) > 0.5
            ax.text(
                columns + (4.0 * step - 14.0) * self.unit,
                -0.3,
                f"{percent(weight):^8}",
                size=8,
                ha="center",
                va="bottom",
                color=PAPER if dark else INK,
                bbox={"facecolor": fill, "edgecolor": "none", "pad": 2.0},
            )

    def _draw_matrix(self) -> None:
        t, cached = self.tgt_len, self.cached
        ax = self.figure.add_axes((0.075, 0.146, 0.565, 0.274))
        blank = np.ones((t, cached + t, 3))
        self.image = ax.imshow(
            blank, aspect="auto", extent=(-cached - 0.5, t - 0.5, t - 0.5, -0.5), zorder=1
        )
        for age in range(cached // t + 1):
            left = -age * t - 0.5
            colour = segment_colour(age)
            ax.plot([left + t * 0.01, left + t * 0.99], [-2.6, -2.6], color=colour, lw=4)
            name = ("this" if age == 0 else age) if self.crowded else segment_name(age)
            ax.text(left + t / 2, -5.0, name, color=colour, weight="bold", ha="center")
            if age:
                ax.axvline(left, color=FAINT, lw=0.8, zorder=0)
        ax.set_xlim(-cached - 0.5, t - 0.5)
        ax.set_ylim(t - 0.5, -0.5)
        for line in ax.lines:
            line.set_clip_on(False)
        (self.edge,) = ax.plot([-0.5, -0.5], [-6.0, t - 0.5], color=INK, lw=2.2, clip_on=False)
        (self.row,) = ax.plot([], [], color=INK, lw=0.9)
        (self.marker,) = ax.plot([], [], color=INK, marker="<", ms=7, ls="", clip_on=False)
        self.outside = ax.text(0, t / 2, "", color=MUTED, size=9, ha="center", va="center")
        ax.set_xticks([*range(-cached, t, t), t - 1])
        ax.set_yticks([0, t // 2, t - 1])
        ax.set_xlabel("key: position relative to this segment's first character")
        ax.set_ylabel("query: position")

    def _draw_distance(self) -> None:
        ax = self.figure.add_axes((0.722, 0.146, 0.258, 0.274))
        ax.set_title("weight by distance", pad=19)
        ax.set_xscale("symlog", linthresh=1.0, linscale=0.5)
        ax.set_yscale("log")
        ax.set_xlim(-0.15, (self.cached + self.tgt_len) * 1.1)
        ax.set_ylim(FLOOR * 0.8, 1.3)
        ticks = [0, 1, 3, 10, 30, 100, 300, 1000]
        ax.set_xticks([d for d in ticks if d < self.cached + self.tgt_len])
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        ax.xaxis.set_minor_locator(_no_ticks())
        ax.set_yticks([1e-4, 1e-3, 1e-2, 1e-1, 1.0], ["≤ 0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
        ax.yaxis.set_minor_locator(_no_ticks())
        ax.grid(True, color=FAINT, lw=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("distance: characters back")
        self.start = ax.axvline(0, color=INK, lw=2.2)
        self.dots = ax.scatter([], [], s=11, linewidths=0)
        (self.mean_line,) = ax.plot([], [], color=INK, lw=1.3)
        (dot,) = ax.plot([], [], color=segment_colour(0), marker="o", ms=4, ls="")
        ax.legend(
            [dot, self.mean_line],
            ["this character", "mean of the segment"],
            loc="lower left",
            bbox_to_anchor=(-0.05, 0.98),
            ncols=2,
            handlelength=1.0,
            handletextpad=0.5,
            columnspacing=0.9,
            borderpad=0.2,
        )

    def update(self, probs: np.ndarray, query: int, title: str) -> None:
        """Show `probs` (T, K); the character at `query` in 0 ... T-1 is the one that attends."""
        t, k = probs.shape
        m = k - t
        if t != self.tgt_len or m > self.cached:
            raise MinitxlError(
                f"probs has shape {probs.shape}, the figure shows T={self.tgt_len} queries and at "
                f"most {self.cached + self.tgt_len} keys; read the passage with its segments"
            )
        weights = np.zeros(self.cached + t)
        weights[self.cached - m :] = probs[query]
        visible = np.zeros(self.cached + t, bool)
        visible[self.cached - m : self.cached + query + 1] = True
        age = self.passage.age
        self.passage.update(strength(weights), visible=visible, query=self.cached + query)
        rows = zip(self.passage.rows, self.share_bars, self.share_texts, strict=True)
        for (row_age, top, bottom), bar, label in rows:
            share = weights[age == row_age].sum()
            x, middle = self.passage.columns + 0.8 * self.unit, (top + bottom) / 2
            end = x + BAR * self.unit * share
            bar.set_data([x, end], [middle, middle])
            label.set_x(end + 0.6 * self.unit)
            inside = visible[age == row_age].any()
            label.set_text(percent(share) if inside else "not in memory")
            label.set_color(INK if inside else MUTED)
        self._update_matrix(probs, query)
        self._update_distance(probs, query)
        self.title.set_text(title)
        self.note.set_text(self._sentence(probs, query))
        self.caption = f"{title} {self.note.get_text()}"

    def _update_matrix(self, probs, query: int) -> None:
        t, m = self.tgt_len, probs.shape[1] - self.tgt_len
        pixels = np.empty((t, self.cached + t, 3))
        pixels[:] = to_rgb(PAPER)
        pixels[:, self.cached - m :] = shade(self.passage.hues[self.cached - m :], strength(probs))
        pixels[:, self.cached :][np.triu_indices(t, 1)] = to_rgb(HIDDEN)
        pixels[:, : self.cached - m] = to_rgb(HIDDEN)
        self.image.set_data(pixels)
        left, right = -m - 0.5, query + 0.5
        top, bottom = query - 0.5, query + 0.5
        self.row.set_data([left, right, right, left, left], [top, top, bottom, bottom, top])
        self.marker.set_data([t - 0.5 + 0.012 * (self.cached + t)], [query])
        beyond = self.cached - m
        self.outside.set_text("not in memory" if beyond >= 0.15 * (self.cached + t) else "")
        self.outside.set_position(
            (-self.cached + beyond / 2, t * (0.25 if query > t / 2 else 0.75))
        )

    def _update_distance(self, probs, query: int) -> None:
        mean = weight_by_distance(probs)
        edges = distance_bins(len(mean))
        middle = [(low + high - 1) / 2 for low, high in pairwise(edges)]
        binned = [mean[low:high].mean() for low, high in pairwise(edges)]
        self.mean_line.set_data(middle, np.maximum(binned, FLOOR))
        mine = nearest_first(probs, query)
        self.dots.set_offsets(np.stack([np.arange(len(mine)), np.maximum(mine, FLOOR)], axis=1))
        last = self.cached + query
        self.dots.set_facecolors(self.passage.hues[last - len(mine) + 1 : last + 1][::-1])
        self.start.set_xdata([query + 0.5, query + 0.5])

    def _sentence(self, probs, query: int) -> str:
        m = probs.shape[1] - self.tgt_len
        name = spoken(self.symbols[self.cached + query])
        if m == 0:
            seen = "itself only" if query == 0 else f"{query + 1} characters, itself included"
            return f"Position {query}, {name}: without memory it sees {seen}."
        beyond, far = float(probs[query, :m].sum()), span(probs, query)
        return (
            f"Position {query}, {name}: {percent(beyond)} of the weight crosses the memory's edge; "
            f"90 % of all lies within {far} character{'' if far == 1 else 's'}."
        )


def _no_ticks():
    from matplotlib.ticker import NullLocator

    return NullLocator()
