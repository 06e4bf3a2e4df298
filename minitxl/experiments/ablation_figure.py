"""The picture of the ablation experiment, drawn from its stored results alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.experiments.ablation import difference
from minitxl.viz.by_position import position_bins
from minitxl.viz.theme import FAINT, INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, *_ = SEGMENT_COLOURS
COLOURS = {"xl": BLUE, "shaw": ORANGE, "abs": GREEN}  # by the beginning of an arm's name
MARKS = {"memory": "o", "stride": "D", "chunks": "s"}  # of the readings
READ = {"memory": "\u25cf", "stride": "\u25c7", "chunks": "\u25a1"}  # as the title has them
WIDEST = 0.22  # bits of the differences' axis, either side
FIRST, LAST = 2.18, 2.82  # bits of the axis; what lies beyond is written out
BY_POSITION = ("xl", "xl-alone", "shaw", "shaw-alone", "abs", "abs-naive", "abs-alone")
SURE = 0.05  # Holm's p below it counts


def colour_of(member: str) -> str:
    """The colour of an arm's encoding."""
    return COLOURS[member.split("-")[0]]


@drawing(10.4, 7.6, top=0.955, bottom=0.014)
def draw_ablation(figure, results: dict) -> tuple[str, str]:
    """Draw every seed of every arm by reading, bits by position, and all paired differences.

    results: what `minitxl.experiments.ablation.run` returned, as JSON has it.
    """
    _arms(figure.add_axes((0.232, 0.545, 0.19, 0.34)), results["cells"])
    _by_position(figure.add_axes((0.075, 0.135, 0.34, 0.3)), results["cells"])
    ax = figure.add_axes((0.745, 0.135, 0.24, 0.75))
    _differences(ax, results["differences"])
    ax.set_title("Bits more, paired by seed", pad=8, x=-0.3)
    return _words(results)


@drawing(10.4, 4.8, top=0.95, bottom=0.024)
def draw_chosen(figure, results: dict, questions: Mapping[str, str]) -> tuple[str, str]:
    """Draw some of the differences, and bits by position.

    questions: of a difference of the results -> the words that stand beside it.
    """
    found = {d["question"]: d for d in results["differences"]}
    chosen = [found[question] | {"question": said} for question, said in questions.items()]
    ax = figure.add_axes((0.285, 0.235, 0.25, 0.585))
    _differences(ax, chosen)
    ax.set_title("Bits more, paired by seed", pad=8, x=-1.07)
    _by_position(figure.add_axes((0.625, 0.235, 0.36, 0.585)), results["cells"])
    return _words(results)


PARTS = {"chosen": draw_chosen}


def _arms(ax, cells: list[dict]) -> None:
    """A row for each arm: a dot for each seed and reading."""
    for y, cell in enumerate(cells):
        ax.axhline(y, color=FAINT, lw=0.6, zorder=0)
        colour = colour_of(cell["member"])
        beyond = []
        for reading, bpc in cell["bpc"].items():
            # The reading with memory is filled; without one both are open.
            look = dict(mfc=colour if reading == "memory" else "none", mec=colour, ms=4.6, mew=1)
            ax.plot(bpc, [y] * len(bpc), MARKS[reading], alpha=0.8, **look)
            if np.mean(bpc) > LAST:
                beyond.append(f"{READ[reading]} {np.mean(bpc):.2f}")
        if beyond:
            said = dict(color=colour, size=8, va="center", ha="right")
            ax.text(LAST, y, "  ".join(beyond) + " \u2192", **said)
    ax.set_xlim(FIRST, LAST)
    ax.set_yticks(range(len(cells)), [cell["label"] for cell in cells], size=8.5)
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title("Every seed: ● memory, ◇ by a window, □ chunks", pad=8, x=0.05)
    ax.set_xlabel("bits per character")


def _by_position(ax, cells: list[dict]) -> None:
    """Bits by position, read as in training, means over seeds: dashed without memory."""
    shown = [c for c in cells if c["loss_on"] == "full" and c["member"] in BY_POSITION]
    t = len(shown[0]["by_position"][0])
    bins = list(pairwise(position_bins(t)))
    centres = [np.sqrt((low + 1) * high) for low, high in bins]
    for cell in shown:
        bits = np.mean(cell["by_position"], axis=0)  # (seeds, T) -> (T,)
        y = [bits[low:high].mean() for low, high in bins]
        line = "-" if cell["recurrence"] else "--"
        width = 1 if cell["member"] == "abs-naive" else 1.8
        ax.plot(centres, y, line, color=colour_of(cell["member"]), lw=width)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator([high for _, high in bins]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    level_lines(ax)
    for at, (text, colour) in enumerate(
        (("Transformer-XL", BLUE), ("Shaw", ORANGE), ("absolute", GREEN))
    ):
        ax.text(0.6, 0.93 - 0.09 * at, text, transform=ax.transAxes, ha="right", color=colour,
                weight="bold", size=9)  # fmt: skip
    ax.text(0.98, 0.93, "dashed: no memory", transform=ax.transAxes, ha="right", size=9,
            color=MUTED)  # fmt: skip
    ax.set_xlabel("characters of its own segment that it sees (log scale)")
    ax.set_ylabel("bits per character")
    ax.set_title("By position, read as in training", pad=8)


def _differences(ax, differences: list[dict]) -> None:
    """A row for each comparison, with its interval; in ink where Holm's p is small."""
    for y, d in enumerate(differences):
        low, high = d["interval"] or (d["mean"], d["mean"])
        sure = d["p_holm"] is not None and d["p_holm"] < SURE
        look = dict(color=INK if sure else MUTED)
        if abs(d["mean"]) > WIDEST:
            side = 1 if d["mean"] > 0 else -1
            said = f"{d['mean']:+.2f} \u2192" if side > 0 else f"\u2190 {d['mean']:+.2f}"
            where = dict(ha="right" if side > 0 else "left", va="center", size=8.5)
            ax.text(side * WIDEST, y, said, weight="bold" if sure else "normal", **where, **look)
            continue
        ax.plot([low, high], [y, y], "-", lw=2.2 if sure else 1.1, **look)
        ax.plot([d["mean"]], [y], "o", ms=5 if sure else 3.6, **look)
    ax.axvline(0, color=MUTED, lw=0.8, zorder=0)
    ax.set_xlim(-WIDEST, WIDEST)
    ax.xaxis.set_major_locator(FixedLocator((-0.2, -0.1, 0, 0.1, 0.2)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
    ax.set_yticks(range(len(differences)), [d["question"] for d in differences], size=8.5)
    for label, d in zip(ax.get_yticklabels(), differences, strict=True):
        label.set_color(INK if (d["p_holm"] or 0) < SURE else MUTED)
    ax.set_ylim(len(differences) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("bits per character (above 0: it costs)")


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    chunks, stride = (
        difference(results, f"XL: no recurrence, {x}")["mean"] for x in ("in chunks", "by a window")
    )
    title = (
        f"Recurrence is worth {chunks:.3f} bits against fixed chunks, {stride:.3f} against a "
        "window moved by half"
    )
    note = (
        f"{s['n_layer']} layers, D = {s['d_model']}, segments and memory of {s['tgt_len']}, "
        f"{s['steps']:,} steps of {s['batch_size']} x {s['tgt_len']} characters, {s['seeds']} "
        f"seeds, rates chosen on others; {results['cells'][0]['n_predicted']:,} characters of test "
        f"text.\nIntervals: 95 %; bold: Holm's p below {SURE:g} over all "
        f"{len(results['differences'])} comparisons. Thin line: absolute positions, naive "
        "cache."
    )
    return title, note
