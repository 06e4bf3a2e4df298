"""The picture of the reading-cost experiment, drawn from its stored results alone."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from minitxl.experiments.reading_cost import point_of
from minitxl.viz.theme import SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, *_ = SEGMENT_COLOURS
LOOK = {"window": (ORANGE, "s"), "memory": (BLUE, "o")}


@drawing(8.6, 5.2, top=0.94, bottom=0.02)
def draw_reading_cost(figure, results: dict) -> tuple[str, str]:
    """Draw bits per character against milliseconds for every way of reading.

    results: what `minitxl.experiments.reading_cost.run` returned, as JSON has it.
    """
    ax = figure.add_axes((0.085, 0.225, 0.875, 0.62))
    ax.set_xscale("log")
    for way, (colour, marker) in LOOK.items():
        points = [p for p in results["points"] if p["way"] == way]
        x, y = [p["ms"] for p in points], [p["bpc"] for p in points]
        ax.plot(x, y, "-", color=colour, lw=1.8, marker=marker, ms=6)
        for p in points:
            ax.plot([p["ms_min"], p["ms_max"]], [p["bpc"]] * 2, color=colour, lw=5, alpha=0.3)
            said = f"stride {p['stride']}" if way == "window" else f"M = {p['mem_len']}"
            if way == "window" and p["stride"] == results["window"]:
                said = "fixed chunks"
            above = said.startswith("stride")  # these lie on one line, the others do not
            ax.annotate(
                said, (p["ms" if above else "ms_max"], p["bpc"]), (0, 9) if above else (7, 0),
                textcoords="offset points", ha="center" if above else "left",
                va="baseline" if above else "center", size=9, color=colour,
            )  # fmt: skip
    level_lines(ax)
    ax.margins(0.09, 0.16)
    ax.set_xlabel("ms for each predicted character (log scale)")
    ax.set_ylabel("bits per character")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    texts = (
        ("no memory, a window that moves on", ORANGE, 0.94),
        ("Transformer-XL, segments with a memory", BLUE, 0.87),
    )
    for text, colour, y in texts:
        ax.text(0.985, y, text, transform=ax.transAxes, ha="right", color=colour, weight="bold")
    return _words(results)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s, window = results["settings"], results["window"]
    half = point_of(results, "window", window // 2)
    xl = point_of(results, "memory", results["trained_mem_len"])
    title = (
        f"Half a window at a time: {half['bpc']:.3f} bits in {half['ms']:.3f} ms; "
        f"with a memory: {xl['bpc']:.3f} in {xl['ms']:.3f}"
    )
    note = (
        f"Two small models that were trained alike, one with a memory of "
        f"{results['trained_mem_len']} and one without; segments and window of {window}. "
        f"{s['n_tokens']:,} characters\nof test text, one thread, {s['batch_size']} rows; medians "
        f"of {s['repeats']} repeats, bars from the least to the most. Down and left is better."
    )
    return title, note
