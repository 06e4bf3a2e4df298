"""What a longer memory costs: from plain numbers."""

from __future__ import annotations

import numpy as np

from minitxl.viz.theme import (
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
    titled,
)

ORANGE, BLUE, GREEN, PURPLE, BROWN, *_ = SEGMENT_COLOURS


def draw_reading_cost(mem_lens, ms, flops, *, segment_len: int) -> Picture:
    """Draw time per token against the memory's length, and what the products are spent on.

    mem_lens (n,); ms (n,): measured; flops: {"attention": (n,), "all else": (n,)} per token.
    """
    mem_lens, ms = np.asarray(mem_lens, dtype=float), np.asarray(ms)
    slope, base = np.polyfit(mem_lens, ms, 1)
    with styled():
        figure = new_figure(10.4, 4.1)
        left = figure.add_axes((0.075, 0.225, 0.39, 0.585))
        left.plot(mem_lens, base + slope * mem_lens, "--", color=MUTED, lw=1.2)
        left.plot(mem_lens, ms, "o", color=ORANGE, ms=7)
        left.set_ylabel("ms per token")
        left.set_title("Measured here; dashed: a straight line", pad=8)
        right = figure.add_axes((0.57, 0.225, 0.3, 0.585))
        for (name, y), colour in zip(flops.items(), (ORANGE, BLUE), strict=True):
            y = np.asarray(y) / 1e6
            right.plot(mem_lens, y, color=colour, lw=2.4)
            style = dict(color=colour, weight="bold", va="center")
            right.text(mem_lens[-1] * 1.03, y[-1], name, **style)
        right.set_ylabel("million FLOPs per token")
        right.set_title("Counted: its products", pad=8)
        for ax in (left, right):
            ax.set_xlim(0, mem_lens[-1] * 1.02)
            ax.set_ylim(0, None)
            ax.set_xlabel("memory M (tokens)")
            level_lines(ax)
        title = "Reading costs a constant, and an attention that grows with the memory"
        note = (
            f"Keys and values kept, segments of {segment_len}, one thread. Line: {base:.2f} ms + "
            f"{1000 * slope:.2f} ms per 1,000 tokens of memory."
        )
        return titled(figure, title, note, top=0.92, bottom=0.035, size=10)
