"""The picture of the RECL experiment, drawn from its stored results alone."""

from __future__ import annotations

from textwrap import fill

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.experiments.recl import LABELS, mean_of, paper_longer
from minitxl.viz.theme import (
    FAINT,
    INK,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
)

ORANGE, BLUE, GREEN, PURPLE, *_ = SEGMENT_COLOURS
LOOK = {  # as in the ablation's picture
    "xl": (BLUE, "o"),
    "shaw": (ORANGE, "s"),
    "xl-alone": (PURPLE, "D"),
    "abs-alone": (GREEN, "^"),
}
IN_PAPER = {"xl": "Transformer-XL 128M"} | {n: LABELS[n] for n in LABELS if n != "xl"}
FLOOR = 3e-4  # smaller gains, zero too, stand on the lower edge of the logarithmic axis
RATIO_MARKS = ("o", "D", "s")


def draw_recl(results: dict) -> Picture:
    """Draw the gain of every step, the lengths that follow, and the paper's beside them.

    results: what `minitxl.experiments.recl.run` returned, as JSON has it. The first delta and, for
    the gains, the first r are drawn.
    """
    with styled():
        figure = new_figure(10.4, 5.4)
        _draw_gains(figure.add_axes((0.08, 0.27, 0.36, 0.55)), results)
        here = figure.add_axes((0.585, 0.27, 0.175, 0.55))
        paper = figure.add_axes((0.805, 0.27, 0.175, 0.55))
        _draw_lengths(here, results)
        _draw_paper(paper, results)
        title, note = _words(results)
        figure.text(0.016, 0.935, title, size=12, weight="bold")
        figure.text(0.016, 0.02, note, size=9, color=MUTED)
    return Picture(figure, f"{title}. {note}")


def _curves(results: dict, name: str, key: str) -> np.ndarray:
    """Gains of a member at the first delta and r: (seeds, steps)."""
    s = results["settings"]
    want = (name, s["deltas"][0], s["ratios"][0])
    rows = [g[key] for g in results["groups"] if (g["member"], g["delta"], g["ratio"]) == want]
    return np.array(rows)


def _draw_gains(ax, results: dict) -> None:
    """The gain of delta more characters after c: mean of the seeds; dotted: the control."""
    s = results["settings"]
    delta = s["deltas"][0]
    x = np.arange(delta, s["longest"], delta)
    top = 0.0
    for name in s["members"]:
        colour, mark = LOOK[name]
        true, null = (_curves(results, name, key) for key in ("gains", "null_gains"))
        top = max(top, true.max(), null.max())
        for row in true:
            ax.plot(x, np.maximum(row, FLOOR), color=colour, lw=0.7, alpha=0.4)
        null = np.maximum(null.mean(axis=0), FLOOR)
        ax.plot(x, null, ":", color=colour, lw=1.4, marker=mark, ms=4, mfc="white")
        mean = np.maximum(true.mean(axis=0), FLOOR)
        ax.plot(x, mean, "-", color=colour, lw=2.2, marker=mark, ms=5)
    ax.set_yscale("log")
    ax.axhline(s["threshold"], color=INK, lw=1.1, ls="--", zorder=0)
    ax.set_xlim(delta - 0.6 * delta, s["longest"])
    ax.set_ylim(FLOOR * 0.8, max(top, s["threshold"]) * 14)
    end = dict(transform=ax.get_yaxis_transform(), size=9, va="bottom", ha="right")
    ax.text(1.0, s["threshold"] * 1.06, f"{s['threshold']:.0%}: the end of RECL", **end)
    for i, name in enumerate(s["members"]):
        colour, mark = LOOK[name]
        y = 0.955 - 0.068 * i
        where = dict(transform=ax.transAxes, clip_on=False)
        ax.plot([0.30, 0.36], [y, y], "-", color=colour, lw=2.2, marker=mark, ms=5, **where)
        text = dict(transform=ax.transAxes, va="center", size=9, color=colour, weight="bold")
        ax.text(0.385, y, LABELS[name], **text)
    y = 0.955 - 0.068 * len(s["members"])
    ax.plot([0.30, 0.36], [y, y], ":", color=MUTED, lw=1.4, transform=ax.transAxes)
    text = dict(transform=ax.transAxes, va="center", size=9, color=MUTED)
    ax.text(0.385, y, "control: text from elsewhere", **text)
    ax.yaxis.set_major_locator(FixedLocator([3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]))
    ax.yaxis.set_minor_locator(NullLocator())
    names = {FLOOR: "≤ 0.03 %"}
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: names.get(y, f"{100 * y:g} %")))
    ax.xaxis.set_major_locator(FixedLocator(x))
    level_lines(ax)
    ax.set_xlabel("c, characters of context before the step")
    ax.set_title(f"Gain from {delta} characters more, hardest {s['ratios'][0]:.0%}", pad=10)


def _draw_lengths(ax, results: dict) -> None:
    """RECL of every member and r: mean and range; hollow: the control's; bar: of content."""
    s = results["settings"]
    delta, top = s["deltas"][0], 0.0
    for row, name in enumerate(s["members"]):
        colour, _ = LOOK[name]
        for i, ratio in enumerate(s["ratios"]):
            m = mean_of(results, name, delta, ratio)
            own, null, content = (m[k] for k in ("recl", "null_recl", "content_recl"))
            y, mark = row + _offset(i), RATIO_MARKS[i % len(RATIO_MARKS)]
            ax.plot([own["min"], own["max"]], [y, y], "-", color=colour, lw=1.6)
            hollow = dict(mfc="none", mec=colour, mew=1.1, zorder=2)
            ax.plot(null["mean"], y, mark, ms=9, **hollow)
            ax.plot(content["mean"], y, "|", color=INK, ms=11, mew=1.6, zorder=4)
            ax.plot(own["mean"], y, mark, color=colour, ms=4.5, zorder=3)
            top = max(top, own["max"], null["max"], content["max"])
    _rows(ax, s, top)
    ax.set_yticks(range(len(s["members"])), [LABELS[n] for n in s["members"]])
    ax.set_xlabel("RECL in characters")
    ax.set_title("Here", pad=10)


def _draw_paper(ax, results: dict) -> None:
    """The paper's RECL of the same kinds of model."""
    s, top = results["settings"], 0.0
    for row, name in enumerate(s["members"]):
        lengths = results["paper"][IN_PAPER[name]]
        for i, ratio in enumerate(s["ratios"]):
            if str(ratio) in lengths:
                x, mark = lengths[str(ratio)], RATIO_MARKS[i % len(RATIO_MARKS)]
                ax.plot(x, row + _offset(i), mark, color=LOOK[name][0], ms=4.5)
                top = max(top, x)
    _rows(ax, s, top or 1.0)
    ax.set_yticks(range(len(s["members"])), [""] * len(s["members"]))
    ax.set_xlabel("RECL in words (table 8)")
    ax.set_title("The paper (128 M)", pad=10)


def _offset(i: int) -> float:
    return 0.24 * (i - 1)


def _rows(ax, s: dict, top: float) -> None:
    ax.set_xlim(0, 1.12 * top)
    ax.set_ylim(len(s["members"]) - 0.5, -0.5)
    ax.grid(True, axis="x", color=FAINT, lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    for row in range(1, len(s["members"])):
        ax.axhline(row - 0.5, color=FAINT, lw=0.8)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    delta, ratio, shape = s["deltas"][0], s["ratios"][0], s["shape"]
    xl = mean_of(results, "xl", delta, ratio)
    paper = paper_longer("Transformer-XL 128M", "vanilla Transformer")
    title = (
        f"RECL: Transformer-XL's is {xl['recl']['longer']:+.0%} against vanilla (paper: "
        f"{paper:+.0%}), but {xl['null_recl']['longer']:+.0%} with text from elsewhere"
    )
    names = zip(("circles", "diamonds", "squares"), s["ratios"], strict=False)
    marks = ", ".join(f"{name} r = {r}" for name, r in names)
    note = (
        f"{shape['n_layer']} layers, D = {shape['d_model']}, T = M = {shape['tgt_len']}, "
        f"characters of War and Peace; {s['positions']:,} positions, {s['seeds']} seeds (thin; "
        f"thick: their mean). Right: {marks}; lines: range of the seeds. Hollow: what RECL makes "
        "of contexts whose far characters are from elsewhere. Bar: as far as the true far "
        f"characters are {s['threshold']:.0%} better than those. No gain of the measure is "
        "negative: it keeps what happens to be better, so noise lengthens it."
    )
    return title, fill(note, 145)
