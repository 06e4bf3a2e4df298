"""The picture of the ablation experiment, drawn from its stored results alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.viz.by_position import position_bins
from minitxl.viz.theme import (
    FAINT,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
    titled,
)

ORANGE, BLUE, GREEN, *_ = SEGMENT_COLOURS
LOOK = {"Transformer-XL": (BLUE, "o"), "Shaw": (ORANGE, "s"), "absolute": (GREEN, "^")}
LOSSES = {"full": "on all", "half": "on half"}
ROOM = 1.3  # rows that an encoding's name takes, above its four


def draw_ablation(results: dict) -> Picture:
    """Draw every seed of every cell, and bits by position in the segment with memory and without.

    results: what `minitxl.experiments.ablation.run` returned, as JSON has it.
    """
    with styled():
        figure = new_figure(10.4, 6.3)
        _cells(figure.add_axes((0.185, 0.165, 0.31, 0.685)), results["cells"])
        axes = [figure.add_axes((0.66, y, 0.325, 0.28)) for y in (0.57, 0.165)]
        for ax, loss_on in zip(axes, LOSSES, strict=True):
            _by_position(ax, results["cells"], loss_on)
        axes[0].set_title("Loss on all characters: bits by position", pad=8)
        axes[1].set_title("Loss on the recent half of each segment", pad=8)
        axes[1].set_xlabel("characters of its own segment that it sees (log scale)")
        title, note = _words(results)
        return titled(figure, title, note, top=0.945, bottom=0.018, size=9, color=MUTED)


def _cells(ax, cells: list[dict]) -> None:
    """A row for every cell: a dot for each seed, filled of all characters, open of the recent half.

    The paper's perplexities stand in a column on the right.
    """
    place, ticks = 0.0, []
    for encoding, (colour, marker) in LOOK.items():
        place += ROOM
        heading = dict(color=colour, weight="bold", va="center", transform=ax.get_yaxis_transform())
        ax.text(-0.49, place - 1.0, encoding, **heading)
        dot = dict(color=colour, ms=6, clip_on=False, transform=ax.get_yaxis_transform())
        ax.plot([-0.525], [place - 1.0], marker, **dot)
        for cell in (c for c in cells if c["encoding"] == encoding):
            y = np.full(len(cell["bpc"]), place)
            ax.axhline(place, color=FAINT, lw=0.6, zorder=0)
            ax.plot(cell["bpc"], y, marker, color=colour, ms=6, mew=0, alpha=0.75)
            open_dot = dict(mfc="none", mec=colour, ms=6, mew=1.1)
            ax.plot(cell["bpc_recent_half"], y, marker, **open_dot)
            memory = "memory" if cell["recurrence"] else "no memory"
            ticks.append((place, f"{memory}, loss {LOSSES[cell['loss_on']]}"))
            ppl = cell["paper_perplexity"]
            said = dict(color=MUTED, va="center", ha="right", transform=ax.get_yaxis_transform())
            ax.text(1.19, place, "-" if ppl is None else f"{ppl:.2f}", **said)
            place += 1
    ax.set_ylim(place - 0.4, -0.4)
    ax.set_yticks(*zip(*ticks, strict=True))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("bits per character")
    ax.set_title("All cells, every seed", pad=8)
    above = dict(color=MUTED, size=9, va="bottom", ha="right", transform=ax.transAxes)
    ax.text(1.19, 0.985, "paper's\nperplexity", **above)


def _by_position(ax, cells: list[dict], loss_on: str) -> None:
    """Bits by position, means over seeds: dashed without memory, solid with it.

    Positions stand in bins that double in width: the first characters stand alone.
    """
    chosen = [cell for cell in cells if cell["loss_on"] == loss_on]
    tgt_len = len(chosen[0]["by_position"][0])
    bins = list(pairwise(position_bins(tgt_len)))
    centres = [np.sqrt((low + 1) * high) for low, high in bins]
    for cell in chosen:
        colour, marker = LOOK[cell["encoding"]]
        bits = np.mean(cell["by_position"], axis=0)  # (seeds, T) -> (T,)
        y = [bits[low:high].mean() for low, high in bins]
        line = "-" if cell["recurrence"] else "--"
        ax.plot(centres, y, line, color=colour, lw=1.7, marker=marker, ms=4.5)
    ax.set_ylabel("bits per character")
    ax.set_xscale("log", base=2)
    ax.set_xlim(0.93, tgt_len * 1.07)
    ax.xaxis.set_major_locator(FixedLocator([high for _, high in bins]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    level_lines(ax)
    ax.plot([], [], "--", color=MUTED, label="without memory")
    ax.plot([], [], "-", color=MUTED, label="with memory")
    ax.legend(loc="upper right", handlelength=2.6)
    if loss_on == "half":
        ax.axvspan(0.93, tgt_len // 2 + 0.5, color=FAINT, alpha=0.35, lw=0, zorder=0)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s, shape = results["settings"], results["settings"]["shape"]
    costs = [
        d["bpc"]["mean"]
        for d in results["differences"]
        if d["question"] == "no recurrence" and not d["member"].endswith("half")
    ]
    first = {
        cell["recurrence"]: np.mean(cell["by_position"], axis=0)[0]
        for cell in results["cells"]
        if cell["loss_on"] == "full" and cell["encoding"] == "Transformer-XL"
    }
    title = (
        f"Without memory a character costs {min(costs):.2f} to {max(costs):.2f} bits more; "
        f"the first of a segment {first[False] - first[True]:.2f}"
    )
    note = (
        f"{shape['n_layer']} layers, D = {shape['d_model']}, segments and memory of "
        f"{shape['tgt_len']}, {shape['steps']:,} steps, {s['seeds']} seeds (lines: means); "
        f"{results['n_predicted']:,} characters of test text, read as in training.\n"
        "Filled: all characters; open: the recent half of each segment. Grey: positions whose loss "
        "was never trained. The paper's perplexities\nare of words (WikiText-103, table 6); "
        "absolute positions with memory it leaves out."
    )
    return title, note
