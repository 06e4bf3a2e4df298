"""The picture of the stop-gradient experiment, drawn from its stored results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from minitxl.experiments.stop_gradient import NEAR, WAYS, median_updates, of_way, stalled
from minitxl.viz.gradient import COLOURS, colour_limits
from minitxl.viz.theme import HIDDEN, INK, MUTED, PAPER, SEGMENT_COLOURS, drawing

ORANGE, BLUE, *_ = SEGMENT_COLOURS
LOOK = {"stopped": (ORANGE, "s"), "full": (BLUE, "o")}  # colour and mark; each line is named too
NAMES = {"stopped": "stopped at the memory", "full": "through the memory"}


@drawing(10.4, 6.9, top=0.95, bottom=0.018)
def draw_stop_gradient(figure, results: dict) -> tuple[str, str]:
    """Draw the share that has not learned yet, the learning curves, and the gradient.

    results: what `minitxl.experiments.stop_gradient.run` returned, as JSON has it.
    """
    groups = {way: of_way(results, way) for way in WAYS}
    _learning(figure, results, groups, bottom=0.535, height=0.335)
    norms = {way: np.array(groups["stopped"]["runs"][0]["gradient"][way]) for way in WAYS}
    limits = colour_limits(*norms.values())
    for i, way in enumerate(WAYS):
        ax = figure.add_axes((0.066 + 0.434 * i, 0.175, 0.42, 0.185))
        image = _draw_norms(ax, norms[way], way, results["settings"]["tgt_len"], limits)
        if i:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel("layer n")
    bar = figure.colorbar(image, cax=figure.add_axes((0.93, 0.175, 0.012, 0.185)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    figure.text(0.016, 0.437, "Norm of the loss's gradient by hidden state h", weight="bold")
    title, note = _words(results, groups)
    note += (
        " Below: one stopped model after training: the gradient\nit learned with, and what the "
        "stop cut off. Hatched: exactly 0."
    )
    return title, note


@drawing(10.4, 4.4, top=0.955, bottom=0.028)
def draw_learning(figure, results: dict) -> tuple[str, str]:
    """Draw the share that has not learned yet, and the learning curves."""
    groups = {way: of_way(results, way) for way in WAYS}
    _learning(figure, results, groups, bottom=0.275, height=0.545)
    return _words(results, groups)


PARTS = {"learning": draw_learning}


def _learning(figure, results: dict, groups: dict, *, bottom: float, height: float) -> None:
    _draw_survival(figure.add_axes((0.066, bottom, 0.37, height)), results, groups)
    _draw_curves(figure.add_axes((0.52, bottom, 0.335, height)), results, groups)


def _draw_survival(ax, results: dict, groups: dict) -> None:
    """The share of the seeds that have not learned yet, with its interval, in steps."""
    last = results["settings"]["steps"]
    for way, group in groups.items():
        colour, _ = LOOK[way]
        points = group["not_yet"]
        x = [p["updates"] for p in points]
        low, high = zip(*(p["interval"] for p in points), strict=True)
        ax.fill_between(x, low, high, step="post", color=colour, alpha=0.16, lw=0)
        ax.step(x, [p["share"] for p in points], where="post", color=colour, lw=2.2)
    ax.text(0.97, 0.9, NAMES["stopped"], color=ORANGE, weight="bold", transform=ax.transAxes,
            ha="right")  # fmt: skip
    ax.text(0.97, 0.8, NAMES["full"], color=BLUE, weight="bold", transform=ax.transAxes, ha="right")
    ax.set_xlim(0, last)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    ax.set_xlabel("updates")
    ax.set_ylabel("seeds")
    ax.set_title("Not learned yet", pad=8)


def _draw_curves(ax, results: dict, groups: dict) -> None:
    """Every seed's learning curve, up to where its training ended."""
    every, right = results["settings"]["every"], results["settings"]["steps"]
    for way, group in groups.items():
        for run in group["runs"]:
            x = (np.arange(len(run["curve"])) + 0.5) * every
            ax.plot(x, run["curve"], "-", color=LOOK[way][0], lw=0.9, alpha=0.6)
    for hops, floor in enumerate(results["floors"]):
        ax.axhline(floor, color=MUTED, lw=0.8, ls=":", zorder=1)
        label = f"floor, {hops} hop{'' if hops == 1 else 's'}: {floor:.2f}"
        ax.text(right * 1.02, floor, label, size=8.5, color=MUTED, va="center")
    ax.set_xlim(0, right)
    ax.set_ylim(0, 2.35)
    ax.set_xlabel("updates")
    ax.set_ylabel("loss (nats per answer)")
    ax.set_title("Every seed, until it has learned", pad=8)


def _draw_norms(ax, norms: np.ndarray, way: str, tgt_len: int, limits):
    layers, length = norms.shape
    ground = Rectangle((-0.5, -0.5), length, layers, fc=HIDDEN, hatch="////", lw=0)
    ax.add_patch(ground)
    shown = np.ma.masked_equal(norms, 0.0)
    image = ax.imshow(
        shown,
        aspect="auto",
        origin="lower",
        cmap=COLOURS,
        norm=LogNorm(*limits, clip=True),
        interpolation="nearest",
        zorder=1,
    )
    for edge in range(tgt_len, length, tgt_len):
        ax.axvline(edge - 0.5, color=INK, lw=1.6 if edge == length - tgt_len else 0.8, zorder=3)
    before = norms[:, : length - tgt_len]
    if not before.any():
        box = {"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.4"}
        middle = ((length - tgt_len) / 2 - 0.5, (layers - 1) / 2)
        ax.text(*middle, "exactly 0", ha="center", va="center", bbox=box, zorder=4)
    place = tgt_len // 2
    for at, name in ((place, "marker"), (length - tgt_len + place, "question")):
        ax.annotate(
            name,
            (at, layers - 0.5),
            (at, layers - 0.05),
            size=8.5,
            ha="center",
            va="bottom",
            color=INK,
            arrowprops=dict(arrowstyle="-", color=INK, lw=0.8, shrinkA=0, shrinkB=0),
            annotation_clip=False,
        )
    ax.set_title(NAMES[way], color=LOOK[way][0], pad=20, x=0.25)
    ax.set_yticks(range(layers))
    ax.set_xlabel("position (tokens)")
    for side in ax.spines.values():
        side.set_visible(False)
    return image


def _words(results: dict, groups: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s = results["settings"]
    medians = {way: median_updates(group) for way, group in groups.items()}
    n, (low, high) = stalled(groups["stopped"])
    m, _ = stalled(groups["full"])
    title = (
        f"Learned after {medians['stopped']:g} updates in the median if stopped, "
        f"{medians['full']:g} if let through; {n} of {s['seeds']} not in {s['steps']}"
    )
    rates = {way: f"{group['lr']:g}" for way, group in groups.items()}
    note = (
        f"{s['n_layer']} layers, T = M = {s['tgt_len']}; {s['seeds']} seeds; rates, chosen on "
        f"{len(s['pilot_seeds'])} others: stopped {rates['stopped']}, through {rates['full']}. "
        f"Learned: within {NEAR} of the last floor. Bands: 95 %\nintervals by Wilson; not learned "
        f"in {s['steps']} updates: {n} stopped [{low:.0%}, {high:.0%}], {m} through."
    )
    return title, note
