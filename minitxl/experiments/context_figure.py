"""The picture of the context experiment, drawn from its stored results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.viz.theme import FAINT, INK, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, PURPLE, BROWN, GREY = SEGMENT_COLOURS
PANELS = {  # title -> (arm, reading) -> colour, line, name
    "Transformer-XL, segments of 16": {
        ("xl-16", "memory"): (GREEN, "-", "M = 16"),
        ("xl-48", "memory"): (PURPLE, "-", "M = 48"),
        ("xl-112", "memory"): (BLUE, "-", "M = 112"),
        ("xl-112", "longer memory"): (ORANGE, "-", "M = 448 at evaluation"),
    },
    "No memory, a window of 16": {
        ("vanilla-16", "fixed"): (GREY, "--", "vanilla, fixed"),
        ("vanilla-16", "sliding"): (GREY, "-", "vanilla, sliding"),
        ("xl-alone", "fixed"): (BROWN, "--", "relative, fixed"),
        ("xl-alone", "sliding"): (BROWN, "-", "relative, sliding"),
    },
    "No memory, a window of 128": {
        ("vanilla-128", "fixed"): (GREY, "--", "vanilla, fixed"),
        ("vanilla-128", "sliding"): (GREY, "-", "vanilla, sliding"),
        ("relative-128", "fixed"): (BROWN, "--", "relative, fixed"),
        ("relative-128", "sliding"): (BROWN, "-", "relative, sliding"),
    },
}
TICKS = (2, 8, 16, 32, 64, 128, 256, 512)


@drawing(10.4, 7.6, top=0.955, bottom=0.014)
def draw_context(figure, results: dict) -> tuple[str, str]:
    """Draw the gain against the distance, a line a run, and the half-distance of every run.

    results: what `minitxl.experiments.context.run` returned, as JSON has it.
    """
    found = _found(results)
    for i, (title, lines) in enumerate(PANELS.items()):
        ax = figure.add_axes((0.062 + 0.318 * i, 0.595, 0.285, 0.275))
        shown = {key: look for key, look in lines.items() if key in found}
        _gains(ax, results["edges"], {key: (found[key][1], x) for key, x in shown.items()})
        ax.set_title(title, pad=8)
        if i:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel("nats more with the\nmentions renamed")
        ax.set_xlabel("characters to the last mention")
    ax = figure.add_axes((0.262, 0.135, 0.718, 0.35))
    _halves(ax, found)
    ax.set_title(
        "Half-distance of every run (hollow: not learned); upright: its context, on average", pad=8
    )
    title, note = _words(results, found)
    return title, f"{note} Faint: not learned; dashed: in fixed segments."


@drawing(10.4, 4.2, top=0.945, bottom=0.024)
def draw_half_distances(figure, results: dict) -> tuple[str, str]:
    """Draw the half-distance of every run with a memory, or with a window that slides."""
    found = _found(results)
    _halves(
        figure.add_axes((0.262, 0.255, 0.718, 0.61)),
        {key: of for key, of in found.items() if key[1] != "fixed"},
    )
    title, note = _words(results, found)
    dots = (
        "A dot is a run; hollow: it has not learned to copy (a nat or more within half its "
        "context). Upright: T / 2 + M, T - 1 for windows."
    )
    return title, f"{dots}\n{note.splitlines()[-1]}"


PARTS = {"half_distances": draw_half_distances}


def _found(results: dict) -> dict:
    """(arm, reading) -> both, as the results have them."""
    pairs = ((arm, r) for arm in results["arms"] for r in arm["readings"])
    return {(arm["arm"], r["reading"]): (arm, r) for arm, r in pairs}


def _distances(ax) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xlim(2, 800)
    ax.xaxis.set_major_locator(FixedLocator(TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))


def _gains(ax, edges: list, lines: dict) -> None:
    """A line for each run: faint where it has not learned."""
    x = np.sqrt(np.array(edges[:-1]) * (np.array(edges[1:]) - 1))
    _distances(ax)
    for at, (r, (colour, line, name)) in enumerate(lines.values()):
        for true, renamed, learned in zip(
            r["nll"]["true"], r["nll"]["renamed"], r["learned"], strict=True
        ):
            pairs = zip(true, renamed, strict=True)
            gain = [np.nan if a is None else b - a for a, b in pairs]
            ax.plot(x, gain, line, color=colour, lw=1.3, alpha=0.9 if learned else 0.25)
        ax.text(
            0.98, 0.95 - 0.09 * at, name, transform=ax.transAxes, ha="right", va="center",
            color=colour, size=9, weight="bold",
        )  # fmt: skip
    ax.set_ylim(-0.4, 6.6)
    ax.set_yticks(range(6))
    level_lines(ax)


def _halves(ax, found: dict) -> None:
    """A row for each reading: every run's half-distance, hollow where it has not learned."""
    rows = [
        (f"{title.split(',')[0]}: {name}" if "XL" in title else f"{title[11:]}: {name}",
         *found[key], colour)
        for title, lines in PANELS.items()
        for key, (colour, _, name) in lines.items()
        if key in found
    ]  # fmt: skip
    _distances(ax)
    for y, (_, _, r, colour) in enumerate(rows):
        ax.axhline(y, color=FAINT, lw=0.6, zorder=0)
        ax.plot([r["ceiling"]] * 2, [y - 0.36, y + 0.36], color=INK, lw=1.4)
        for i, (x, learned) in enumerate(zip(r["half_distance"], r["learned"], strict=True)):
            place = y + 0.16 * (i - (len(r["learned"]) - 1) / 2)
            look = dict(mfc=colour if learned else "none", mec=colour, mew=1.1)
            ax.plot([min(x or 780, 780)], [place], "o" if x else ">", ms=4.6, **look)
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("characters (log scale)")


def middle(reading: dict) -> float | None:
    """The median half-distance of the runs of a reading that have learned."""
    pairs = zip(reading["half_distance"], reading["learned"], strict=True)
    known = [x for x, learned in pairs if learned and x is not None]
    return float(np.median(known)) if known else None


def _words(results: dict, found: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]

    def said(key: tuple) -> str:
        x = middle(found[key][1]) if key in found else None
        return "?" if x is None else f"{x:.0f}"

    def learned(key: tuple) -> str:
        return f"{sum(found[key][1]['learned'])}" if key in found else "?"

    title = (
        f"A memory of 112 copies from {said(('xl-112', 'memory'))} characters back, one of "
        f"{s['longer']} from {said(('xl-112', 'longer memory'))}; a window of 16 "
        f"from {said(('vanilla-16', 'sliding'))}"
    )
    note = (
        f"{s['n_layer']} layers, D = {s['d_model']}, {s['steps']:,} steps of "
        f"{s['tokens_per_step']} characters, {s['seeds']} seeds; text in which only an earlier "
        "mention tells a name's second letter; test text.\nUpright: T - 1 for a window that slides "
        "by one character, T / 2 on the average of fixed segments, T / 2 + M with a memory of M.\n"
        "Numbers of the title: half-distances, medians of the runs that have learned: "
        f"{learned(('xl-112', 'memory'))} of {s['seeds']} with M = 112."
    )
    return title, note
