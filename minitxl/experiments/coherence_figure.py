"""The picture of the coherence experiment, drawn from its stored results alone."""

from __future__ import annotations

import numpy as np

from minitxl.experiments.coherence import BOOK, known
from minitxl.experiments.intervals import spread
from minitxl.viz.theme import INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, *_ = SEGMENT_COLOURS
PANELS = {
    "Quotations that are closed": (("quotations", BLUE, "o"),),
    "Names that come back": (("names", BLUE, "o"), ("names_of_another", ORANGE, "s")),
    "Runs of 8 characters again": (("repetition", BLUE, "o"),),
}


@drawing(10.4, 4.2, top=0.925, bottom=0.02)
def draw_coherence(figure, results: dict) -> tuple[str, str]:
    """Draw each count against the memory, every sample faint, and the book's own beside them.

    results: what `minitxl.experiments.coherence.run` returned, as JSON has it.
    """
    writers = results["writers"]
    for i, (title, counts) in enumerate(PANELS.items()):
        ax = figure.add_axes((0.06 + 0.32 * i, 0.25, 0.28, 0.55))
        for n, (count, colour, mark) in enumerate(counts):
            shift = 0.16 * (n - (len(counts) - 1) / 2)
            for at, writer in enumerate(writers):
                values = known(writer, count)
                found = spread(values)
                ax.plot([at + shift] * len(values), values, mark, color=colour, ms=3, alpha=0.2)
                low, high = found["interval"] or (found["mean"], found["mean"])
                ax.plot([at + shift] * 2, [low, high], "-", color=colour, lw=2)
                ax.plot([at + shift], [found["mean"]], mark, color=colour, ms=6)
        ax.axvline(0.5, color=MUTED, lw=0.8)
        names = ["book" if w["writer"] == BOOK else w["writer"].split()[-1] for w in writers]
        ax.set_xticks(range(len(writers)), names)
        ax.set_ylim(*((-0.03, 1.19) if i < 2 else (0, None)))
        ax.set_title(title, pad=8)
        ax.set_xlabel("written with a memory of")
        level_lines(ax)
        if len(counts) > 1:
            for y, (text, colour) in zip(
                (0.93, 0.86), (("in its own sample", BLUE), ("in another", ORANGE)), strict=True
            ):
                ax.text(0.98, y, text, transform=ax.transAxes, ha="right", color=colour, size=9,
                        weight="bold")  # fmt: skip
    figure.axes[0].set_ylabel("share", color=INK)
    return _words(results)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    closed = {w["writer"]: np.mean(known(w, "quotations")) for w in results["writers"]}
    first, *_, last = (f"memory {m}" for m in s["mem_lens"])
    title = (
        f"Quotations are closed in {closed[first]:.0%} of the paragraphs without memory, "
        f"{closed[last]:.0%} with {s['mem_lens'][-1]}; the book: {closed[BOOK]:.0%}"
    )
    note = (
        f"{s['samples']} samples of {s['length']:,} characters of the shipped model, temperature "
        f"{s['temperature']:g}; points: samples, bars: 95 % intervals of their means.\nNames of a "
        "sample's first half that come back in the second half of the same sample, or of another "
        "one: what commonness brings about alone."
    )
    return title, note
