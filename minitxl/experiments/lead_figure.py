"""The lead picture: one character of a novel reaching over cached segments."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from minitxl.errors import MinitxlError
from minitxl.viz.passage import Passage
from minitxl.viz.theme import (
    INK,
    Picture,
    new_figure,
    percent,
    segment_colour,
    segment_name,
    spoken,
    strength,
    styled,
)

VISIBLE = 0.01  # links that carry less weight are not drawn


def draw_links(
    symbols, weights: np.ndarray, *, tgt_len: int, query: int, where: str, target: str
) -> Picture:
    """Draw the links from one character to every key that gets at least 1 % of its weight.

    `symbols`: characters of the passage, the current segment last; `weights` (K,) of the character
    at `query` 0 ... tgt_len - 1 over all of them; `where`: layer and head, `target`: the symbol
    that most of the links lead to, both for the caption.
    """
    weights = np.asarray(weights, dtype=np.float64)
    symbols = list(symbols)
    if len(weights) != len(symbols):
        raise MinitxlError(
            f"{len(weights)} weights for {len(symbols)} characters: one each is wanted, read the "
            "passage with a memory as long as all its earlier segments"
        )
    cached = len(symbols) - tgt_len
    me = cached + query
    with styled():
        figure = new_figure(10.4, 4.6)
        ax = figure.add_axes((0.137, 0.115, 0.775, 0.7))
        passage = Passage(
            ax, symbols, tgt_len=tgt_len, size=14.5, gap=0.55, edge_gap=1.35, box_width=2.4
        )
        visible = np.arange(len(symbols)) <= me
        passage.update(strength(weights), visible=visible, query=me)
        for key in np.argsort(weights):
            if weights[key] >= VISIBLE and key != me:
                ax.add_patch(_link(passage, me, int(key), float(weights[key])))
        columns = passage.columns
        for age, top, bottom in passage.rows:
            middle = (top + bottom) / 2
            label = {"color": segment_colour(age), "weight": "bold", "va": "center"}
            ax.text(-0.5, middle, segment_name(age), ha="right", size=11, **label)
            share = weights[passage.age == age].sum()
            ax.text(columns + 0.4, middle, percent(share), size=11, **label)
        edge = passage.edge
        ax.plot([-6.0, columns], [edge, edge], color=INK, lw=2.6, clip_on=False, zorder=6)
        ax.text(-0.5, edge - 0.2, "memory's edge", weight="bold", size=10.5, ha="right")
        title = "One character of the book looks back across the memory's edge"
        figure.text(0.016, 0.915, title, size=15, weight="bold")
        name, beyond = spoken(symbols[me]), percent(weights[:cached].sum())
        note = (
            f"{name[0].upper()}{name[1:]} in {where} looks for {spoken(target)}: {beyond} of its "
            "attention goes to cached segments, no gradient goes back."
        )
        figure.text(0.016, 0.035, note, size=10.5)
    return Picture(figure, f"{title}. {note}")


def _link(passage: Passage, me: int, key: int, weight: float) -> PathPatch:
    """A curve from the reader's cell to a key's, as thick as its weight."""
    (x0, y0), (x1, y1) = passage.centre[me], passage.centre[key]
    same_row = abs(y0 - y1) < 1e-9
    if same_row:  # an arch above the row
        lift = min(0.25 + 0.05 * abs(x0 - x1), 0.6)
        points = [(x0, y0 - 0.5), (x0, y0 - 0.5 - lift), (x1, y1 - 0.5 - lift), (x1, y1 - 0.5)]
    else:
        bend = 0.5 * (y0 - y1)
        points = [(x0, y0 - 0.5), (x0, y0 - 0.5 - bend), (x1, y1 + 0.5 + bend), (x1, y1 + 0.5)]
    return PathPatch(
        Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
        fc="none",
        ec=segment_colour(int(passage.age[key])),
        lw=0.8 + 7.0 * float(strength(weight)),
        alpha=0.35 + 0.5 * float(strength(weight)),
        capstyle="round",
        zorder=2.5,
        clip_on=False,
    )
