"""The picture of the memory-text experiment, drawn from its stored results alone."""

from __future__ import annotations

import statistics
from itertools import pairwise

from minitxl.experiments.memory_text import learned
from minitxl.viz.theme import HIDDEN, INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, PURPLE, BROWN, _ = SEGMENT_COLOURS
LOOK = {  # arm -> colour, mark, line, name
    "none": (MUTED, "x", ":", "none"),
    "xl": (BLUE, "o", "-", "XL"),
    "every": (BROWN, "s", "-", "every 4th"),
    "mean": (GREEN, "^", "-", "mean"),
    "conv": (GREEN, "v", "--", "convolution"),
    "linear": (ORANGE, "P", ":", "matrix, sum"),
    "delta": (ORANGE, "D", "-", "matrix, delta"),
}


@drawing(10.4, 4.6, top=0.94, bottom=0.02)
def draw_memory_text(figure, results: dict) -> tuple[str, str]:
    """Draw what a name's second letter costs by distance, and the bits of all text, every seed.

    results: what `minitxl.experiments.memory_text.run` returned, as JSON has it.
    """
    _by_distance(figure.add_axes((0.07, 0.26, 0.5, 0.56)), results)
    _whole_text(figure.add_axes((0.755, 0.26, 0.23, 0.56)), results)
    return _words(results)


def _by_distance(ax, results: dict) -> None:
    """Faint: every run. Strong: the mean of an arm's runs that have learned to copy."""
    spans = list(pairwise(results["edges"]))
    x = range(len(spans))
    states = results["settings"]["d_model"] // results["settings"]["n_head"] + 1
    within = sum(high <= states - 1 for _, high in spans)  # stretches that XL's memory holds whole
    ax.axvspan(within - 0.5, len(spans) - 0.4, color=HIDDEN, lw=0, zorder=0)
    for arm in results["arms"]:
        colour, mark, line, name = LOOK[arm["arm"]]
        for row in arm["names"]:
            ax.plot(x, row, line, color=colour, lw=0.7, alpha=0.35)
        rows = [row for row in arm["names"] if learned(row)]
        if rows:
            means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
            ax.plot(x, means, line, marker=mark, ms=5, color=colour, lw=2, label=name)
    ax.set_xticks(x, [f"{low}-{high - 1}" for low, high in spans])
    ax.set_xlim(-0.4, len(spans) - 0.6)
    ax.set_ylim(0, None)
    ax.set_xlabel(f"characters to the last mention (grey: beyond the last {states} states)")
    ax.set_ylabel("bits of a name's 2nd letter")
    ax.set_title("What the last mention tells", pad=8)
    level_lines(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=8.5, handlelength=2.6)


def _whole_text(ax, results: dict) -> None:
    arms = results["arms"][::-1]
    xl = next(arm for arm in arms if arm["arm"] == "xl")
    for y, arm in enumerate(arms):
        colour, mark, *_ = LOOK[arm["arm"]]
        ax.plot(arm["bpc"], [y] * len(arm["bpc"]), mark, color=colour, ms=5.5, alpha=0.75)
        ax.plot([statistics.median(arm["bpc"])] * 2, [y - 0.32, y + 0.32], color=INK, lw=1.6)
    ax.axvline(statistics.median(xl["bpc"]), color=MUTED, lw=0.8, zorder=0)
    names = [
        f"{LOOK[a['arm']][3]} ({sum(map(learned, a['names']))} of {len(a['names'])})" for a in arms
    ]
    ax.set_yticks(range(len(arms)), names)
    ax.set_xlabel("bits per character")
    ax.set_title("All of the text, and how many learned", pad=8, loc="right")
    ax.grid(axis="x", color=HIDDEN, lw=0.8)
    ax.set_axisbelow(True)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    arms = {arm["arm"]: statistics.median(arm["bpc"]) for arm in results["arms"]}
    others = {name: bpc for name, bpc in arms.items() if name != "xl"}
    best = min(others, key=lambda name: others[name])
    p = next(arm["minus_xl"]["p_holm"] for arm in results["arms"] if arm["arm"] == best)
    title = (
        f"Text at equal bytes: XL pays {arms['xl']:.3f} bits in the median, "
        f"the best other ({LOOK[best][3]}) {others[best]:.3f}, p = {p:.2f}"
    )
    note = (
        f"{s['n_layer']} layers, D = {s['d_model']}, {s['steps']:,} steps of "
        f"{s['tokens_per_step']} characters, {s['seeds']} seeds (faint lines, marks). Strong "
        "lines: means of the runs that have learned to copy;\nupright strokes: medians of all. "
        "Held-out text, in which only an earlier mention tells a name's second letter: a guess "
        "costs 4.7 bits."
    )
    return title, note
