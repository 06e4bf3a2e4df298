"""Attention with numbers to check by eye, checks that are blind, and what trains W_k."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter

from minitxl.errors import MinitxlError
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    shade,
    styled,
    titled,
)

ORANGE, BLUE, *_ = SEGMENT_COLOURS
SMALLEST = 1e-17  # where an error of exactly 0 stands on a logarithmic axis


def draw_ledger(forward: list, backward: list, n_mem: int) -> Picture:
    """Draw what happens to every key in a forward and a backward pass, one row for each step.

    forward, backward: (name, equation, values (K,)), in the order they are computed; None among
    the values: no such number, the gradient is stopped. n_mem: how many of the K keys are memory.
    """
    n_key = len(forward[0][2])
    if any(len(values) != n_key for _, _, values in (*forward, *backward)):
        raise MinitxlError(f"every row of the ledger needs {n_key} values, one for each key")
    rows = len(forward) + len(backward)
    height = 1.25 + 0.43 * (rows + 1.6)
    with styled():
        figure = new_figure(10.4, height)
        ax = figure.add_axes((0.0, 0.62 / height, 1.0, 0.43 * (rows + 1.6) / height))
        ax.set_xlim(0, 10.4)
        ax.set_ylim(rows + 1.5, -0.1)
        ax.axis("off")
        left, wide = 5.3, min(1.25, 4.7 / n_key)
        y = 0.0
        for title, part, colour in (("forward", forward, BLUE), ("backward", backward, ORANGE)):
            ax.text(0.17, y + 0.55, title, color=colour, weight="bold", size=11, va="center")
            numbers = [abs(v) for _, _, values in part for v in values if v is not None]
            top = max(numbers)
            for name, equation, values in part:
                ax.text(1.35, y + 0.5, name, size=11.5, va="center")
                ax.text(2.15, y + 0.5, equation, size=10, va="center", color=MUTED)
                for j, value in enumerate(values):
                    _cell(ax, left + j * wide, y, wide, value, colour, top)
                y += 1
            y += 0.65
        edge = left + n_mem * wide
        ax.plot([edge, edge], [-0.05, y - 0.6], color=INK, lw=2.6)
        for j in range(n_key):
            name = f"cached {j + 1}" if j < n_mem else f"segment {j - n_mem + 1}"
            ax.text(left + (j + 0.5) * wide, y - 0.3, name, ha="center", size=9.5, va="center")
        title = "One query, three keys: what every key gives, and what it gets back"
        note = (
            "Black line: the memory's edge. Hatched: here the gradient is stopped. Above that, the "
            "cached rows take part in everything."
        )
        return titled(figure, title, note, top=1 - 0.38 / height, bottom=0.2 / height, size=10)


def _cell(ax, x, y, wide, value, colour, top) -> None:
    corners = ([x, x + wide, x + wide, x], [y + 0.06, y + 0.06, y + 0.94, y + 0.94])
    if value is None:
        ax.fill(*corners, fc=HIDDEN, ec=MUTED, hatch="////", lw=0.6)
        return
    depth = 0.55 * np.sqrt(abs(value) / top)
    ax.fill(*corners, fc=shade(np.array(to_rgb(colour)), depth), ec=MUTED, lw=0.6)
    text = "0" if value == 0 else f"{value:.3f}".replace("-", "\u2212")
    ax.text(x + wide / 2, y + 0.5, text, ha="center", va="center", size=10.5)


def draw_checks(rows: list[tuple[str, float, float]], passes: float) -> Picture:
    """Draw how far each version of a backward pass is from the derivative, by two upstreams.

    rows: (version, error by an upstream of ones, by a random one); passes: below this
    error a checker lets it pass.
    """
    height = 1.75 + 0.42 * len(rows)
    with styled():
        figure = new_figure(10.4, height)
        ax = figure.add_axes((0.25, 0.68 / height, 0.71, 0.42 * len(rows) / height))
        ax.axvspan(SMALLEST / 10, passes, color=FAINT, alpha=0.45, lw=0)
        for i, (_, *errors) in enumerate(rows):
            ones, drawn = (max(e, SMALLEST) for e in errors)
            ax.plot(ones, i, "s", color=ORANGE, ms=9, mfc="none", mew=2)
            ax.plot(drawn, i, "o", color=BLUE, ms=8)
        ax.set_xscale("log")
        ax.set_xlim(SMALLEST / 10, 30)
        ticks = [SMALLEST, 1e-12, 1e-9, passes, 1e-3, 1]
        ax.set_xticks(ticks)
        names = {SMALLEST: "0"}
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: names.get(x, f"$10^{{{round(np.log10(x))}}}$"))
        )
        ax.minorticks_off()
        ax.set_yticks(range(len(rows)), [name for name, *_ in rows], size=10)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        level_lines(ax)
        ax.set_xlabel(
            "error of the gradient along a random direction (log scale); grey: passes the check"
        )
        key = dict(transform=figure.transFigure, clip_on=False)
        at = 1 - 0.82 / height
        ax.plot([0.26], [at], "s", color=ORANGE, ms=9, mfc="none", mew=2, **key)
        figure.text(0.273, at, "upstream of ones", color=ORANGE, weight="bold", va="center")
        ax.plot([0.45], [at], "o", color=BLUE, ms=8, **key)
        figure.text(0.463, at, "random upstream", color=BLUE, weight="bold", va="center")
        fooled = sum(o < passes <= d for _, o, d in rows)
        title = f"An upstream of ones lets {fooled} of {len(rows) - 1} wrong versions pass"
        figure.text(0.016, 1 - 0.4 / height, title, size=13, weight="bold")
    return Picture(figure, f"{title}; a random upstream sees every one of them.")


def draw_memory_rows(shares: dict[str, np.ndarray]) -> Picture:
    """Draw, layer by layer, how much of a weight's gradient comes from the memory's rows.

    shares: name of a weight -> (N,) the length of the memory's part over the sum of both lengths.
    """
    n_layer = len(next(iter(shares.values())))
    with styled():
        figure = new_figure(10.4, 3.9)
        ax = figure.add_axes((0.075, 0.2, 0.9, 0.62))
        width = 0.8 / len(shares)
        for k, ((name, values), colour) in enumerate(
            zip(shares.items(), (BLUE, ORANGE), strict=True)
        ):
            x = np.arange(n_layer) + (k - (len(shares) - 1) / 2) * width
            hatch = None if k == 0 else "//"
            ax.bar(x, 100 * values, width * 0.92, color=colour, alpha=0.85, hatch=hatch, lw=0)
            for at, value in zip(x, values, strict=True):
                ax.text(at, 100 * value + 1.5, f"{value:.0%}", ha="center", size=9.5)
            ax.text(x[0], 4, name, ha="center", size=11, color="white", weight="bold")
        ax.axhline(50, color=MUTED, lw=1.0, ls=":")
        ax.set_ylim(0, 100)
        ax.set_xticks(range(n_layer), [f"layer {n + 1}" for n in range(n_layer)])
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel("from the memory's rows, %")
        low = min(v.min() for v in shares.values())
        high = max(v.max() for v in shares.values())
        title = f"{low:.0%} to {high:.0%} of these gradients come from the memory's rows"
        note = (
            "|memory's part| / (|memory's part| + |segment's part|) of one segment's gradient; "
            "dotted: half. Nothing flows into the memory itself."
        )
        return titled(figure, title, note, top=0.92, bottom=0.035, size=10)
