"""The picture of the memory-budget experiment, drawn from its stored results alone."""

from __future__ import annotations

import statistics

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.experiments.memory_arms import ARMS, BEYOND, DENSE, PAST, UP_TO_16
from minitxl.experiments.memory_budget import LEAD, cell_of, recall_of, winners
from minitxl.viz.theme import HIDDEN, INK, PAPER, SEGMENT_COLOURS, drawing, level_lines, shade

ORANGE, BLUE, GREEN, PURPLE, BROWN, _ = SEGMENT_COLOURS
LOOK = {  # rival -> colour, letter, name
    "xl": (BLUE, "X", "XL: the last M states"),
    "every": (BROWN, "E", "evicted but for every 4th"),
    "mean": (GREEN, "C", "compressive, mean"),
    "delta+": (ORANGE, "D", "matrix, delta rule"),
    "level": ("#B9B6AE", "=", "no clear winner"),
    "nobody": (HIDDEN, "", "nobody answers 25 %"),
}
EDGES_FROM = 9  # lags below are of the own segment alone
FAMILY = {"xl": BLUE, "eviction": BROWN, "compressive": GREEN, "matrix": ORANGE, "all": PURPLE}
MARKS = {"conv": "s", "random": "s", "sum+": "^", "sum": "v", "delta": "D"}
SAID = {  # arm -> its name, and where it stands beside its last point
    "xl": ("XL", (6, 8)), "every": ("evicted", (6, -8)), "mean": ("compressive", (6, 0)),
    "delta+": ("matrix, delta or sum +", (6, 4)), "delta": ("delta, stopped", (6, -1)),
    "sum": ("sum, stopped", (6, 0)), "xl-all": ("XL, all kept", (-72, -8)),
}  # fmt: skip
THROUGH = ("delta", "sum", "xl", "mean")


@drawing(10.4, 7.6, top=0.958, bottom=0.014)
def draw_memory_budget(figure, results: dict) -> tuple[str, str]:
    """Draw who wins where, recall against bytes and work, and stopped against through.

    results: what `minitxl.experiments.memory_budget.run` returned, as JSON has it.
    """
    _maps(figure, results, bottom=0.6, height=0.29)
    _key(figure.add_axes((0.05, 0.487, 0.945, 0.035)), results)
    for i, axis in enumerate(("bytes", "flops")):
        ax = figure.add_axes((0.077 + 0.315 * i, 0.17, 0.285, 0.25))
        _against(ax, results, axis)
        if i:
            ax.tick_params(labelleft=False)
            ax.set_ylabel("")
    _through(figure.add_axes((0.765, 0.17, 0.22, 0.25)), results)
    return _words(results)


@drawing(10.4, 4.6, top=0.94, bottom=0.024)
def draw_maps(figure, results: dict) -> tuple[str, str]:
    """Draw who wins where."""
    _maps(figure, results, bottom=0.345, height=0.46)
    _key(figure.add_axes((0.05, 0.155, 0.945, 0.055)), results)
    title, note = _words(results)
    return title, note.split("\nBelow")[0]


PARTS = {"maps": draw_maps}


def _maps(figure, results: dict, *, bottom: float, height: float) -> None:
    budgets = _budgets(results)
    width = 0.94 / len(budgets)
    for i, d_head in enumerate(budgets):
        ax = figure.add_axes((0.077 + width * i, bottom, width - 0.05, height))
        _map(ax, results, d_head)
        if i:
            ax.set_ylabel("")


def _budgets(results: dict) -> list[int]:
    """Widths of a head that were measured, the widest first."""
    return sorted({cell["d_head"] for cell in results["cells"]}, reverse=True)


def _map(ax, results: dict, d_head: int) -> None:
    """A cell for every bin of lags and number of pairs: who wins it; the deeper, the better."""
    edges, first = np.log2(results["edges"]), np.log2(EDGES_FROM)
    pairs = results["settings"]["task"]["n_pairs"]
    for row, cells in enumerate(winners(results, d_head)):
        for low, high, (name, share) in zip(edges[:-1], edges[1:], cells, strict=True):
            if name is None or low < first:
                continue
            colour, letter, _ = LOOK[name]
            # full colour where all is answered, paper where the winner is at chance
            face = colour if name == "nobody" else shade(np.array(to_rgb(colour)), share)
            box = Rectangle((low, row - 0.5), high - low, 1, fc=face, ec=PAPER, lw=1)
            ax.add_patch(box)
            ink = PAPER if share > 0.75 and name != "level" else INK
            ax.text((low + high) / 2, row, letter, size=7.5, color=ink, ha="center", va="center")
    ax.axvline(np.log2(d_head + 1), color=INK, lw=1.4)
    ax.set_xlim(first, edges[-1])
    ax.set_ylim(-0.5, len(pairs) - 0.5)
    ticks = [x for x in range(16) if first <= x <= edges[-1]]
    ax.set_xticks(ticks, [f"{2**x}" for x in ticks])
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set_xlabel("lag: tokens back (log scale)")
    ax.set_ylabel("pairs shown")
    ax.set_title(f"M = {d_head + 1} states, or d_head = {d_head}", pad=6)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def _key(ax, results: dict) -> None:
    """What the colours and letters of the maps stand for."""
    maps = [winners(results, d_head) for d_head in _budgets(results)]
    names = {name for found in maps for row in found for name, _ in row}
    look = [of for name, of in LOOK.items() if name in names]
    ax.axis("off")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    for at, (colour, letter, name) in enumerate(look):
        x = at / max(len(look), 1)
        ax.add_patch(Rectangle((x, 0.1), 0.02, 0.8, fc=colour, ec="none"))
        ax.text(
            x + 0.01,
            0.48,
            letter,
            size=8,
            color=PAPER if letter != "=" else INK,
            ha="center",
            va="center",
        )
        ax.text(x + 0.026, 0.48, name, size=9, va="center")


def _against(ax, results: dict, axis: str) -> None:
    """Recall from the memory against what it costs: a dot for each seed, a line for each arm."""
    shown: dict = {}
    for cell in results["cells"]:
        if cell["family"] in FAMILY and (not cell["through"] or cell["family"] == "matrix"):
            shown.setdefault(cell["arm"], []).append(cell)
    for arm, cells in shown.items():
        colour, mark = FAMILY[cells[0]["family"]], MARKS.get(arm, "o")
        cells.sort(key=lambda cell: cell[axis])
        means = []
        for cell in cells:
            shares = [100 * x for x in recall_of(results, cell, PAST).values()]
            means.append(statistics.fmean(shares))
            ax.plot([cell[axis]] * len(shares), shares, mark, color=colour, ms=3.2, alpha=0.55)
        ax.plot([cell[axis] for cell in cells], means, "-", color=colour, lw=1.6)
        if arm in SAID and axis == "bytes":
            ax.annotate(
                SAID[arm][0], (cells[-1][axis], means[-1]), xytext=SAID[arm][1],
                textcoords="offset points", size=8.5, color=colour, weight="bold", va="center",
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    values = sorted({cell[axis] for cells in shown.values() for cell in cells})
    ax.set_xlim(values[0] / 1.5, values[-1] * 1.5)
    unit, first = (1024, 1) if axis == "bytes" else (1000, 25)
    ticks = [unit * first * 2**x for x in range(12)]
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(FixedLocator([x for x in ticks if low <= x <= high]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / unit:.0f}k"))
    ax.set_ylim(0, 104)
    ax.set_xlabel("bytes a layer" if axis == "bytes" else "FLOPs a token")
    ax.set_ylabel("recall, lags from 33 (%)")
    level_lines(ax)


def _through(ax, results: dict) -> None:
    """What the gradient through the memory adds, with its interval, arm by arm."""
    found = {d["question"]: d for d in results["differences"]}
    for row, name in enumerate(THROUGH):
        d = found.get(f"lags from 33: gradient through, {name}")
        if d is None:
            continue
        colour = FAMILY[ARMS[name].family]
        if d["interval"] is not None:
            ax.plot([100 * x for x in d["interval"]], [row, row], "-", color=colour, lw=1.4)
        ax.plot([100 * x for x in d["by_seed"]], [row] * len(d["by_seed"]), "o", color=colour, ms=4)
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(THROUGH)), THROUGH)
    ax.set_ylim(len(THROUGH) - 0.4, -0.6)
    ax.set_xlabel("points of recall more")
    ax.set_title("Gradient let through", pad=6)
    ax.tick_params(axis="y", length=0)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]

    def said(arm: str, lags, pairs) -> str:
        cell = cell_of(results, arm)
        found = recall_of(results, cell, lags, pairs) if cell else {}
        return f"{statistics.fmean(found.values()):.0%}" if found else "?"

    few, many = (
        [said(arm, BEYOND, pairs) for arm in ("delta+", "mean")] for pairs in (UP_TO_16, DENSE)
    )
    title = (
        f"Up to M nothing beats states; beyond, a matrix answers {few[0]} of up to 16 pairs, means "
        f"{few[1]}"
    )
    note = (
        f"2 layers, D = 64, T = {s['task']['tgt_len']}; the memories of a map take the same bytes; "
        f"{s['episodes'] * 2} updates from the same model without memory; {s['seeds']} seeds. A "
        f"letter: it leads\nby {100 * LEAD:.0f} points or more in the mean, and with every seed; "
        f"the deeper the colour, the more it answers. Title: lags from {BEYOND[0]}; of 64 pairs "
        f"and more {many[0]} and {many[1]}.\nBelow: means over lags from 33 and 4 to 128 pairs; "
        "dots are seeds, squares a convolution and random states. +, and right: the gradient flows "
        "through four\nsegments; bars: 95 % intervals of paired differences. XL with all kept is "
        "not of equal bytes."
    )
    return title, note
