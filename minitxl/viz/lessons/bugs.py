"""The bug hunt: curves and attention of a sound model and of broken ones, side by side."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

from minitxl.viz.theme import (
    FAINT,
    INK,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    segment_colour,
    shade,
    strength,
    styled,
    titled,
)

SOUND = dict(color=INK, lw=3.2, alpha=0.35)
MARKERS = "osD^v"


def draw_symptoms(by_segment: dict, by_place: dict, seen: dict, share: dict) -> Picture:
    """Draw what models show; the first of each dictionary's names is the sound one's.

    by_segment: name -> (S,) bits per character since the stream's start; by_place: name -> (T,)
    bits by place in a segment; seen: name -> (T, K) attention weights of the stream's second
    segment; share: name -> how much of the gradient of the keys' weights is the memory's, 0 ... 1.
    """
    names = list(by_segment)
    with styled():
        figure = new_figure(10.4, 6.2)
        panels = (
            ((0.06, 0.545, 0.42, 0.35), by_segment, "segment since the stream's start"),
            ((0.555, 0.545, 0.42, 0.35), by_place, "place in a segment, from the third one on"),
        )
        for box, curves, what in panels:
            ax = figure.add_axes(box)
            for n, name in enumerate(names):
                style = SOUND if n == 0 else dict(color=SEGMENT_COLOURS[n - 1], lw=1.6)
                marker = {} if n == 0 else dict(marker=MARKERS[n - 1], ms=4, markevery=(n % 3, 3))
                x = np.arange(1, len(curves[name]) + 1)
                ax.plot(x, curves[name], label=name, **style, **marker)
            ax.set_xlabel(what)
            ax.set_ylabel("bits per character")
            ax.set_ylim(bottom=0)
            level_lines(ax)
            ax.legend(ncols=6, loc="lower center", fontsize=8, columnspacing=1.0)
        width = 0.93 / len(names)
        for n, name in enumerate(names):
            ax = figure.add_axes((0.06 + n * width, 0.19, width - 0.03, 0.2))
            weights = np.asarray(seen[name])
            t, k = weights.shape
            ages = np.where(np.arange(k) < k - t, 1, 0)
            colours = np.array([to_rgb(segment_colour(int(a))) for a in ages])
            ax.imshow(shade(colours[None], strength(weights * 2)), aspect="auto")
            ax.axvline(k - t - 0.5, color=INK, lw=1.4)
            ax.set_title(name, pad=4)
            ax.set_xticks([0, k - t, k - 1])
            ax.set_yticks([])
            ax.set_xlabel(f"keys\n{share[name]:.0%} of $dW_k$", color=MUTED)
            for spine in ax.spines.values():
                spine.set_visible(True)
                spine.set_color(FAINT)
        title = "One sound model and five broken ones"
        note = (
            "Above: what they pay. Below: where the second segment's queries (rows) look, mean of "
            "all heads and layers;\nblue: memory, orange: segment. Under each: how much of $dW_k$ "
            "comes from the memory's rows."
        )
        return titled(figure, title, note, top=0.945, bottom=0.025, size=10)
