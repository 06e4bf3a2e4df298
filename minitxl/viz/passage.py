"""Text as a picture: characters in rows, one segment below the other, each in a cell with colour.

The characters are drawn as glyph outlines in one collection, not as text objects: hundreds of them
redraw in a few milliseconds and need no font when saved as SVG.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.collections import Collection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from minitxl.errors import MinitxlError
from minitxl.viz.theme import HIDDEN, INK, MUTED, PAPER, printable, segment_colour, shade

_MONO = FontProperties(family="DejaVu Sans Mono")
_ADVANCE = 0.602  # width of a DejaVu Sans Mono character, in font sizes


@lru_cache(maxsize=1024)
def _glyph(symbol: str) -> Path:
    """Outline of one character at size 1, its left edge and base line at the origin."""
    return TextPath((0.0, 0.0), symbol, size=1.0, prop=_MONO)


class Passage:
    """Rows of characters on an axes; `update` recolours them.

    `symbols`: the passage's characters, oldest first, ending with the current segment.
    `tgt_len`: characters per segment. `columns`: characters per row; a longer segment is wrapped.
    Rows of one segment touch, segments are `gap` rows apart, the current one `edge_gap`.
    After construction `centre` (n, 2) holds each character's place in data coordinates (1 unit =
    one column, one row; y grows downwards) and `rows` the (age, first row, last row) of segments.
    """

    def __init__(
        self, ax, symbols, *, tgt_len, columns=64, size=11.0, gap=0.18, edge_gap=0.75, box_width=1.8
    ):
        self.symbols = list(symbols)
        n = len(self.symbols)
        if tgt_len < 1 or n % tgt_len:
            raise MinitxlError(
                f"{n} characters are not whole segments of {tgt_len}; cut the passage"
            )
        self.tgt_len = tgt_len
        self.columns = min(columns, tgt_len)
        n_segments = n // tgt_len
        lines = -(-tgt_len // self.columns)  # rows per segment
        self.age = n_segments - 1 - np.arange(n) // tgt_len
        within = np.arange(n) % tgt_len
        shift = gap * (n_segments - 1 - self.age) + np.where(self.age == 0, edge_gap - gap, 0.0)
        if n_segments == 1:
            shift = np.zeros(n)
        top = (n_segments - 1 - self.age) * lines + within // self.columns + shift
        self.centre = np.stack([within % self.columns + 0.5, top + 0.5], axis=1)
        self.rows = []
        for age in range(n_segments - 1, -1, -1):
            mine = self.centre[self.age == age, 1]
            self.rows.append((age, mine.min() - 0.5, mine.max() + 0.5))
        self.edge = (self.rows[-2][2] + self.rows[-1][1]) / 2 if n_segments > 1 else None
        self.height = self.rows[-1][2]

        self.hues = np.array([to_rgb(segment_colour(age)) for age in self.age])
        left, high = self.centre[:, 0] - 0.5, self.centre[:, 1] - 0.5
        corners = np.stack(
            [
                np.stack([left, high], 1),
                np.stack([left + 1, high], 1),
                np.stack([left + 1, high + 1], 1),
                np.stack([left, high + 1], 1),
            ],
            axis=1,
        )  # (n, 4, 2)
        self.cells = PolyCollection(corners, linewidths=0.5, edgecolors=PAPER, zorder=2)
        # glyph units -> inches -> pixels: centred on the cell, base line a third of the size below
        outline = Affine2D().translate(-_ADVANCE / 2, -0.34).scale(size / 72.0)
        self.glyphs = Collection(
            offsets=self.centre, offset_transform=ax.transData, linewidths=0, zorder=3
        )
        self.glyphs.set_paths([_glyph(printable(s)) for s in self.symbols])
        self.glyphs.set_transform(outline + ax.figure.dpi_scale_trans)
        (self.box,) = ax.plot([], [], color=INK, lw=box_width, zorder=4, solid_joinstyle="miter")
        ax.add_collection(self.cells)
        ax.add_collection(self.glyphs)
        ax.set_xlim(0, self.columns)
        ax.set_ylim(self.height, 0)
        ax.axis("off")
        for artist in (self.cells, self.glyphs, self.box):
            artist.set_clip_on(False)
        self.update(np.zeros(n))

    @property
    def artists(self) -> list:
        """What `update` changes, in drawing order."""
        return [self.cells, self.glyphs, self.box]

    def update(self, depth, *, visible=None, query=None) -> None:
        """Colour the cells by `depth` (n,) in 0..1; grey out what is not `visible` (n,) bool.

        `query`: index of the character to draw a box around.
        """
        depth = np.asarray(depth, dtype=np.float64)
        visible = np.ones(len(depth), bool) if visible is None else np.asarray(visible, bool)
        fill = shade(self.hues, depth)
        fill[~visible] = to_rgb(HIDDEN)
        self.cells.set_facecolors(fill)
        luminance = fill @ np.array([0.30, 0.59, 0.11])
        ink = np.where(luminance[:, None] < 0.52, np.ones(3), np.array(to_rgb(INK)))
        spaces = np.array([s.isspace() for s in self.symbols])
        ink[spaces & (luminance >= 0.52)] = to_rgb(MUTED)
        ink[~visible] = to_rgb("#B4B0A6")
        self.glyphs.set_facecolors(ink)
        if query is None:
            self.box.set_data([], [])
        else:
            x, y = self.centre[query]
            self.box.set_data(
                [x - 0.5, x + 0.5, x + 0.5, x - 0.5, x - 0.5],
                [y - 0.5, y - 0.5, y + 0.5, y + 0.5, y - 0.5],
            )
