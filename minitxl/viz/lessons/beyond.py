"""What memory costs, and what a compressed or a matrix memory would change: from plain numbers."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from minitxl.viz.theme import (
    INK,
    MUTED,
    PAPER,
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


def draw_break_evens(*, d_model: int, d_head: int) -> Picture:
    """Draw the two lines that cross: size of two memories, work of attention and of all else.

    For D = d_model, H d_head = D and a feed-forward width of 4 D.
    """
    with styled():
        figure = new_figure(10.4, 4.1)
        left = figure.add_axes((0.08, 0.225, 0.36, 0.585))
        m = np.arange(0, 3 * (d_head + 1) + 1)
        matrix = d_model * (d_head + 1)
        left.plot(m, m * d_model / 1000, color=ORANGE, lw=2.4)
        left.axhline(matrix / 1000, color=BLUE, lw=2.4)
        left.plot([d_head + 1], [matrix / 1000], "o", color=INK, ms=7, zorder=4)
        left.set_xlim(0, m[-1])
        left.set_ylim(0, m[-1] * d_model / 1000)
        left.set_xlabel("memory M (tokens)")
        left.set_ylabel("thousand numbers in one layer")
        left.set_title(f"Size: D = {d_model}, heads of {d_head}", pad=8)
        place = dict(weight="bold", va="center")
        left.text(
            m[-1] * 0.8,
            m[-1] * d_model / 1000 * 0.93,
            "M states, M D",
            color=ORANGE,
            ha="right",
            **place,
        )
        low = matrix / 1000 * 0.84
        left.text(m[-1] * 0.98, low, "matrices, D (d_head + 1)", color=BLUE, ha="right", **place)
        left.annotate(
            f"M = {d_head + 1}",
            (d_head + 1, matrix / 1000),
            (0.06 * m[-1], 2.0 * low),
            arrowprops=dict(arrowstyle="-", color=INK, lw=0.8),
        )
        right = figure.add_axes((0.565, 0.225, 0.3, 0.585))
        k = np.linspace(0, 10, 2)  # in units of D
        for y, colour, name in (
            (6 * k, ORANGE, "attention\n6 K D"),
            (24 + 0 * k, BLUE, "all else\n24 D²"),
        ):
            right.plot(k, y, color=colour, lw=2.4)
            right.text(10.25, y[-1], name, color=colour, **place)
        right.plot([4], [24], "o", color=INK, ms=7, zorder=4)
        right.annotate(
            "K = 4 D", (4, 24), (1.0, 36), arrowprops=dict(arrowstyle="-", color=INK, lw=0.8)
        )
        right.set_xlim(0, 10)
        right.set_ylim(0, 62)
        right.set_xlabel("keys K, in units of D")
        right.set_ylabel("FLOPs per token and layer, in D²")
        right.set_title("Work: feed-forward width 4 D", pad=8)
        title = "A long memory is first a matter of size, then of work"
        note = (
            "Size and products alone: nothing is said of what either memory is good for. Keys and "
            "values of the memory are kept."
        )
        return titled(figure, title, note, top=0.92, bottom=0.035, size=10)


def draw_compression(*, n_fine: int, n_coarse: int, rate: int) -> Picture:
    """Draw how far one layer sees with n_fine + n_coarse slots: as one memory, and compressed.

    The compressed memory has n_fine slots of one token and n_coarse slots of `rate` tokens each.
    """
    slots, span = n_fine + n_coarse, n_fine + rate * n_coarse
    with styled():
        figure = new_figure(10.4, 3.35)
        ax = figure.add_axes((0.225, 0.3, 0.755, 0.5))
        rows = (
            ("Transformer-XL", [(1, slots, BLUE)]),
            ("Compressive Transformer", [(1, n_fine, BLUE), (rate, n_coarse, GREEN)]),
        )
        for y, (name, groups) in enumerate(rows):
            at = 0
            for width, count, colour in groups:
                for _ in range(count):
                    box = Rectangle((-at - width, y - 0.32), width, 0.64, fc=colour, ec=PAPER, lw=1)
                    ax.add_patch(box)
                    at += width
            total = sum(count for _, count, _ in groups)
            text = f"{total} slots, {at} tokens"
            ax.text(-at - 0.012 * span, y, text, ha="right", va="center", weight="bold") if (
                at < 0.8 * span
            ) else ax.text(-at, y - 0.45, text, ha="left", va="bottom", weight="bold")
            ax.text(-1.015 * span, y, name, ha="right", va="center", weight="bold")
        ax.set_xlim(-span, 0)
        ax.set_ylim(1.5, -0.6)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("tokens before the segment, seen by one layer")
        title = f"{rate} : 1 compression: as many slots to attend to, {span / slots:.1f} x the span"
        note = (
            f"Blue: a slot for each token. Green: {rate} tokens that fell out of the memory, as "
            "one slot. Over N layers: N (n_m + c n_cm)."
        )
        return titled(figure, title, note, top=0.9, bottom=0.045, size=10)


def draw_recall(pairs, recall: dict, error: dict, *, width: int) -> Picture:
    """Draw how many of n stored pairs a memory recalls, and the error of the best matrix.

    pairs (n,); recall: way -> (n,) share of the values recalled, with keys of `width`; error: key
    width -> (n / width, error of the best matrix), relative.
    """
    with styled():
        figure = new_figure(10.4, 4.3)
        left = figure.add_axes((0.075, 0.215, 0.345, 0.6))
        looks = zip(recall.items(), (ORANGE, BLUE, GREEN, PURPLE), "osD^", strict=False)
        labels = []
        for (name, y), colour, mark in looks:
            left.plot(pairs, y, "-" + mark, color=colour, lw=2, ms=5)
            labels.append((y[-1], name, colour))
        labels.sort()
        place = -1.0
        for y, name, colour in labels:
            place = max(y, place + 0.085)
            left.text(pairs[-1] * 1.12, place, name, color=colour, weight="bold", va="center")
        left.axvline(width, color=INK, lw=1.2, ls="--")
        left.text(width * 0.94, 0.06, f"key width {width}", ha="right", size=9)
        left.set_ylim(0, 1.06)
        left.set_yticks([0, 0.5, 1])
        left.set_ylabel("share of the pairs recalled")
        left.set_xlabel("stored pairs (log scale)")
        left.set_title("Recall", pad=8)
        right = figure.add_axes((0.645, 0.215, 0.34, 0.6))
        load = np.linspace(1, 8, 200)
        right.plot(load, 1 - 1 / load, color=INK, lw=1.4)
        right.plot([0.1, 1], [0, 0], color=INK, lw=1.4)
        marks = zip(error.items(), (BROWN, PURPLE, BLUE), "osD", strict=False)
        for i, ((d, (x, y)), colour, mark) in enumerate(marks):
            right.plot(x, y, mark, color=colour, ms=6 - i, mec=PAPER, mew=0.5)
            at = 0.92 - 0.09 * i
            right.plot([0.115], [at], mark, color=colour, ms=6)
            right.text(0.135, at, f"width {d}", color=colour, weight="bold", va="center")
        right.text(1.15, 0.07, "line: 1 - d / n", size=9)
        right.set_ylim(-0.03, 1.0)
        right.set_ylabel("error, relative")
        right.set_xlabel("pairs / key width (log scale)")
        right.set_title("The best that any matrix can do", pad=8)
        for ax, ticks in ((left, pairs), (right, (0.125, 0.5, 1, 2, 4, 8))):
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            level_lines(ax)
        title = "Past the width of its keys a matrix memory blurs what it holds, then loses it"
        note = (
            "Random keys and values, nothing is learned. Recalled: nearest of all stored values. "
            "Right: least squares, so no rule of writing beats it."
        )
        return titled(figure, title, note, top=0.925, bottom=0.035, size=10)
