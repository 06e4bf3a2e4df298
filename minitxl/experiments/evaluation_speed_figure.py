"""The picture of the evaluation-speed experiment, drawn from its stored results alone."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.experiments.evaluation_speed import best_at_longest
from minitxl.viz.theme import INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, PURPLE, *_ = SEGMENT_COLOURS
# Method -> label, colour, line. Each line is labelled where it ends: never colour alone.
VANILLA = {
    "window": ("sliding window", ORANGE, "-"),
    "half-window": ("stride of half a window", PURPLE, "--"),
    "chunks": ("fixed chunks", PURPLE, "-"),
}
XL = {"xl": ("re-projected", BLUE), "xl-cached": ("cached", GREEN)}
MARKERS = ("o", "s", "^", "D", "v", "P")  # of the segment lengths


@drawing(10.4, 5.1, top=0.94, bottom=0.018)
def draw_evaluation_speed(figure, results: dict) -> tuple[str, str]:
    """Draw time per token and speed-up against attention length, the paper's points beside them.

    results: what `minitxl.experiments.evaluation_speed.run` returned, as JSON has it.
    """
    lengths, segments = (results["settings"][f"{x}_lens"] for x in ("attention", "segment"))
    shortest, longest = segments[0], segments[-1]
    left = figure.add_axes((0.067, 0.235, 0.262, 0.61))
    right = figure.add_axes((0.593, 0.235, 0.262, 0.61))
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
    ends = []
    for method, (label, colour, line) in VANILLA.items():
        x, y = _line(results["points"], method, None)
        if method == "window":  # the faster of the two kinds at each length
            other = _line(results["points"], "window-absolute", None)[1]
            y = np.minimum(y, other)
        left.plot(x, y, line, color=colour, lw=2.2, marker="o", ms=4.5)
        ends.append((y[-1], label, colour))
    for method, (label, colour) in XL.items():
        for n in (shortest, longest):
            x, y = _line(results["points"], method, n)
            mark = MARKERS[segments.index(n) % len(MARKERS)]
            left.plot(x, y, "-", color=colour, lw=2.2, marker=mark, ms=4.5)
            ends.append((y[-1], f"XL {label}, S = {n}", colour))
    _label_ends(left, ends)
    left.set_ylabel("ms per token (log scale)")
    left.set_title("Time per predicted token", pad=10)

    ends = []
    for n in segments:
        x, y = _line(results["speedups"], "xl-cached", n, "speedup")
        mark = MARKERS[segments.index(n) % len(MARKERS)]
        right.plot(x, y, "-", color=GREEN, lw=2.2, marker=mark, ms=4.5)
        ends.append((y[-1], f"S = {n}: {y[-1]:,.0f}", GREEN))
    x, y = _line(results["flop_model"], value="speedup")
    right.plot(x, y, "--", color=MUTED, lw=1.6, zorder=1)
    ends.append((y[-1], f"by FLOPs: {y[-1]:,.0f}", MUTED))
    paper = [p for p in results["paper"] if p["attention_len"] in lengths]
    if paper:
        x, y = _line(paper, value="speedup")
        right.plot(x, y, "*", color=INK, ms=12, mec="white", mew=0.7, zorder=5)
        ends.append((y[-1], f"the paper: {y[-1]:,.0f}", INK))
    _label_ends(right, ends)
    right.set_ylabel("speed-up (log scale)")
    right.set_title("XL cached: times faster than the window", pad=10)

    for ax in (left, right):
        ax.set_xlabel("attention length in tokens (log scale)")
        ax.set_xlim(lengths[0] * 0.87, lengths[-1] * 1.12)
        ax.xaxis.set_major_locator(FixedLocator(_ticks(lengths)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        level_lines(ax)
    return _words(results)


def _line(points, method=None, segment_len=None, value="ms"):
    """The points of one line as arrays: attention length, value."""
    chosen = [
        (p["attention_len"], p[value])
        for p in points
        if method is None or (p["method"], p["segment_len"]) == (method, segment_len)
    ]
    x, y = np.array(sorted(chosen)).T
    return x, y


def _ticks(lengths) -> list:
    """The lengths that have room for a label, the longest among them."""
    ticks = []
    for length in sorted(lengths, reverse=True):
        if not ticks or ticks[-1] >= 1.7 * length:
            ticks.append(length)
    return ticks


def _label_ends(ax, ends) -> None:
    """Name every line beside its last point, pushed apart where two would overlap."""
    ends = sorted(ends, key=lambda end: end[0])
    low, high = (np.log10(v) for v in ax.get_ylim())
    ends_at = np.array([(np.log10(y) - low) / (high - low) for y, _, _ in ends])
    at, gap = ends_at.copy(), 0.062  # of the axis' height
    for _ in range(200):  # neighbours that are too near push each other away
        for i in range(len(at) - 1):
            short = max(0.0, gap - (at[i + 1] - at[i]))
            at[i : i + 2] += -short / 2, short / 2
        at[-1] = min(at[-1], 1.0)  # none above the axis
    for y, place, (_, label, colour) in zip(ends_at, at, ends, strict=True):
        line = dict(color=colour, lw=0.8, alpha=0.7, clip_on=False, transform=ax.transAxes)
        ax.plot([0.985, 1.035], [y, place], **line)
        text = dict(color=colour, weight="bold", size=9, va="center", transform=ax.transAxes)
        ax.text(1.05, place, label, **text)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s, best = results["settings"], best_at_longest(results)
    cpu = results["machine"]["cpu"].replace("(R)", "").replace("(TM)", "")
    cpu = textwrap.shorten(cpu, 20, placeholder=" ...")  # what the line has room for
    title = (
        f"With its memory kept, XL predicts a token {best['speedup']:,.0f} times faster "
        f"than a window of {best['attention_len']:,} moved by one"
    )
    note = (
        f"{s['n_layer']} layers, D = {s['d_model']}, float32, the same weights and text; "
        f"{cpu}, {results['machine']['threads']} cores; medians of "
        f"{s['repeats']}. XL: memory and a segment of S tokens together are the\nattention "
        "length. Sliding window: the fastest of several, read anew for every token. The paper's "
        "stars: other models, on a GPU, S not stated.\nWhat each way predicts is another "
        "question: see reading_cost."
    )
    return title, note
