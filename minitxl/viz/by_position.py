"""What the memory buys: bits per character by position in the segment, with and without it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.ticker import NullLocator

from minitxl.errors import MinitxlError
from minitxl.viz.theme import INK, Picture, level_lines, new_figure, segment_colour, styled


def position_bins(tgt_len: int) -> np.ndarray:
    """Edges 0, 1, 2, 4, 8 ... T of bins that double: the first characters stand alone."""
    doubled = 2 ** np.arange(31)  # 2^31 is too much for an integer of 32 bits
    return np.array([0, *doubled[doubled < tgt_len], tgt_len])


def bits_by_position(with_memory: np.ndarray, without: np.ndarray) -> Picture:
    """Draw mean bits by position 0 ... T-1 from two arrays (n_segments, T) of bits per character.

    Lines: means over bins of positions that double in width, with twice their standard error.
    Faint dots: the mean at each single position. The axis counts the characters of its own segment
    that a prediction may use: position i is predicted from i + 1 of them.
    """
    arrays = [np.asarray(a, dtype=np.float64) for a in (with_memory, without)]
    if arrays[0].shape != arrays[1].shape or arrays[0].ndim != 2:
        raise MinitxlError(
            f"with_memory has shape {arrays[0].shape}, without {arrays[1].shape}: both must be "
            "(n_segments, T), from the same text"
        )
    tgt_len = arrays[0].shape[1]
    edges = position_bins(tgt_len)
    seen = np.arange(1, tgt_len + 1)
    colours = (segment_colour(1), segment_colour(0))
    names = ("with memory", "without memory")
    with styled():
        figure = new_figure(10.4, 4.3)
        ax = figure.add_axes((0.075, 0.2, 0.72, 0.64))
        lines = []
        for bits, colour in zip(arrays, colours, strict=True):
            ax.plot(seen, bits.mean(axis=0), ".", color=colour, ms=4, alpha=0.35, mew=0)
            centre, mean, error = [], [], []
            for low, high in pairwise(edges):
                values = bits[:, low:high].mean(axis=1)
                centre.append(np.sqrt((low + 1) * high))
                mean.append(values.mean())
                error.append(2 * values.std() / np.sqrt(len(values)))
            ax.errorbar(centre, mean, error, color=colour, lw=2.4, marker="o", ms=5, capsize=3)
            lines.append((np.array(centre), np.array(mean)))
        ax.fill_between(lines[0][0], lines[0][1], lines[1][1], color=INK, alpha=0.06, lw=0)
        low, high = ax.get_ylim()
        height = [mean[-1] for _, mean in lines]
        middle, apart = sum(height) / 2, max(0.22 * (high - low), height[1] - height[0])
        middle = max(middle, low + apart / 2 + 0.1 * (high - low))  # both labels above the axis
        for y, bits, colour, name in zip(
            (middle - apart / 2, middle + apart / 2), arrays, colours, names, strict=True
        ):
            ax.text(
                tgt_len * 1.2,
                y,
                f"{name}\n{bits.mean():.2f} bits on average",
                color=colour,
                weight="bold",
                va="center",
            )
        ax.set_ylim(low, high)
        ax.set_xscale("log", base=2)
        ax.set_xlim(0.9, tgt_len * 1.08)
        ticks = [int(t) for t in edges[1:]]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        level_lines(ax)
        ax.set_xlabel("characters of its own segment that the prediction may use (log scale)")
        ax.set_ylabel("bits per character")
        title = "Without memory every segment starts blind"
        figure.text(0.016, 0.925, title, size=13, weight="bold")
        gain = arrays[1].mean() - arrays[0].mean()
        first = arrays[1][:, 0].mean() - arrays[0][:, 0].mean()
        note = (
            f"The memory saves {gain:.2f} bits per character on average, {first:.2f} at the first "
            f"of a segment; {arrays[0].size:,} characters; bars: two standard errors, dots: places."
        )
        figure.text(0.016, 0.028, note, size=10)
    return Picture(figure, f"{title}. {note}")
