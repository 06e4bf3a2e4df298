"""The picture of the reach experiment, drawn from its stored results alone."""

from __future__ import annotations

import numpy as np

from minitxl.experiments.latch import CHANCE
from minitxl.viz.theme import (
    INK,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
    titled,
)

ORANGE, BLUE, GREEN, *_ = SEGMENT_COLOURS
VANILLA, DIVIDES, REST = ORANGE, BLUE, GREEN
COLUMNS = 4


def draw_reach(results: dict) -> Picture:
    """Draw a small plot for each model: accuracy against distance, and theory over it.

    results: what `minitxl.experiments.reach.run` returned, as JSON has it. Dots: the mean of the
    seeds, a bar from the lowest to the highest; line: theory.
    """
    models = sorted(results["models"], key=lambda m: m["reach"]["formula"])
    rows = -(-len(models) // COLUMNS)
    longest = max(len(m["theory"]) for m in models)
    height = 1.25 + 1.95 * rows
    with styled():
        figure = new_figure(10.4, height)
        for i, model in enumerate(models):
            row, column = divmod(i, COLUMNS)
            left = 0.066 + column * 0.236
            bottom = (1.1 + (rows - 1 - row) * 1.95) / height
            ax = figure.add_axes((left, bottom, 0.208, 1.3 / height))
            _draw_model(ax, model, longest)
            if column == 0:
                ax.set_ylabel("accuracy")
            else:
                ax.tick_params(labelleft=False)
            if i + COLUMNS >= len(models):
                ax.set_xlabel("distance to the marker (tokens)")
        title, note = _words(results)
        return titled(
            figure, title, note, top=1 - 0.33 / height, bottom=0.13 / height, size=9, color=MUTED
        )


def _draw_model(ax, model: dict, longest: int) -> None:
    n, t, m, reach = (model[name] for name in ("n_layer", "tgt_len", "mem_len", "reach"))
    formula, simple = reach["formula"], reach["n_layer * mem_len"]
    colour = VANILLA if m == 0 else DIVIDES if m % t == 0 else REST
    runs = np.array([run["accuracy"] for run in model["runs"]])  # (seeds, distances)
    distance = np.arange(1, runs.shape[1] + 1)
    ax.axvspan(0.5, formula + 0.5, color=colour, alpha=0.13, lw=0)
    ax.axhline(CHANCE, color=MUTED, lw=0.8, ls=":")
    ax.plot(distance, model["theory"], "-", color=INK, lw=1.3, zorder=2)
    ax.vlines(distance, runs.min(axis=0), runs.max(axis=0), color=colour, lw=2, zorder=3)
    ax.plot(distance, model["accuracy"], "o", color=colour, ms=3.6, mec="white", mew=0.4, zorder=4)
    if simple != formula:
        ax.axvline(simple, color=MUTED, lw=1, ls="--", zorder=1)
        ax.text(simple - 0.5, 0.42, f"N M = {simple}", size=8.5, color=MUTED, ha="right")
    ax.text(longest, 0.88, f"R = {formula}", color=colour, weight="bold", ha="right")
    kind = "no memory" if m == 0 else f"M = {m}"
    layers = "1 layer" if n == 1 else f"{n} layers"
    ax.set_title(f"{layers}, T = {t}, {kind}", color=colour, pad=5)
    ax.set_xlim(0, longest + 1)
    ax.set_ylim(0, 1.06)
    ax.set_yticks([0, 0.5, 1])
    level_lines(ax)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    models, s = results["models"], results["settings"]
    off = max(m["largest_difference"] for m in models)
    edges = all(m["edge"]["min"] == m["edge"]["max"] == m["edge"]["theory"] for m in models)
    if edges:
        title = "A trained model looks exactly as far back as the formula lets it, and no further"
    else:
        title = "How far back a trained model looks, against the formula"
    seeds = "1 seed" if s["seeds"] == 1 else f"{s['seeds']} seeds (bars: lowest to highest)"
    note = (
        f"Name the marker, 1 of 8, that stood d tokens ago. Dots: {seeds}, measured on all "
        f"sequences; black line: theory, within {max(off, 5e-4):.4f}.\n"
        "Shaded: up to R = (N-1) T ceil(M/T) + M tokens before the segment; beyond, fewer and "
        "fewer of a segment's T queries see the marker.\n"
        "Dotted: chance, 1/8. Dashed: N M, where that is not R because T does not divide M."
    )
    return title, note
