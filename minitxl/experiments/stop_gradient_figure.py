"""The picture of the stop-gradient experiment, drawn from its stored results alone."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from minitxl.experiments.latch import CHANCE
from minitxl.experiments.stop_gradient import NEAR, WAYS
from minitxl.viz.gradient import COLOURS, colour_limits
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    new_figure,
    styled,
    titled,
)

ORANGE, BLUE, *_ = SEGMENT_COLOURS
LOOK = {"stopped": (ORANGE, "s"), "full": (BLUE, "o")}  # colour and mark; each line is named too
NAMES = {"stopped": "stopped at the memory", "full": "through the memory"}


def draw_stop_gradient(results: dict) -> Picture:
    """Draw learning curves, accuracy against distance, and the gradient by layer and position.

    results: what `minitxl.experiments.stop_gradient.run` returned, as JSON has it. Each way is
    shown with the learning rate that suits it best; thin lines are single seeds.
    """
    groups = {way: best(results, way) for way in WAYS}
    with styled():
        figure = new_figure(10.4, 6.9)
        _draw_curves(figure.add_axes((0.066, 0.535, 0.335, 0.335)), results, groups)
        _draw_accuracy(figure.add_axes((0.585, 0.535, 0.335, 0.335)), results, groups)
        norms = {way: _mean_norms(groups["stopped"], way) for way in WAYS}
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
        return titled(figure, title, note, top=0.95, bottom=0.018, size=9, color=MUTED)


def _draw_curves(ax, results: dict, groups: dict) -> None:
    every, right = results["settings"]["every"], results["settings"]["steps"]
    for way, group in groups.items():
        colour, _ = LOOK[way]
        curves = np.array([run["curve"] for run in group["runs"]])
        x = (np.arange(curves.shape[1]) + 0.5) * every
        ax.plot(x, curves.T, "-", color=colour, lw=0.8, alpha=0.5)
        ax.plot(x, curves.mean(axis=0), "-", color=colour, lw=2.4)
    for hops, floor in enumerate(results["floors"]):
        ax.axhline(floor, color=MUTED, lw=0.8, ls=":", zorder=1)
        label = f"floor, {hops} hop{'' if hops == 1 else 's'}: {floor:.2f}"
        ax.text(right * 1.02, floor, label, size=8.5, color=MUTED, va="center")
    for y, way in ((1.59, "stopped"), (0.12, "full")):
        ax.text(0.22 * right, y, NAMES[way], color=LOOK[way][0], weight="bold", va="center")
    ax.set_xlim(0, right)
    ax.set_ylim(0, 2.35)
    ax.set_xlabel("updates")
    ax.set_ylabel("loss (nats per answer)")
    ax.set_title("Learning", pad=8)


def _draw_accuracy(ax, results: dict, groups: dict) -> None:
    distance = np.arange(1, len(results["theory"]) + 1)
    ax.plot(distance, results["theory"], "-", color=INK, lw=1.2, zorder=4)
    ax.axhline(CHANCE, color=MUTED, lw=0.8, ls=":", zorder=1)
    m = results["settings"]["tgt_len"]
    for way, group in groups.items():
        colour, mark = LOOK[way]
        runs = np.array([run["early"] for run in group["runs"]])
        ax.plot(distance, runs.T, "-", color=colour, lw=0.8, alpha=0.5)
        ax.plot(distance, group["early"], mark, color=colour, ms=4.5, mec="white", mew=0.4)
    for k in range(1, results["settings"]["n_layer"] + 1):
        ax.axvline(k * m + 0.5, color=FAINT, lw=1, zorder=0)
        ax.text(
            (k - 0.5) * m + 0.5, 1.07, f"{k} hop{'' if k == 1 else 's'}", color=MUTED, ha="center"
        )
    ax.set_xlim(0, distance[-1] + 1)
    ax.set_ylim(0, 1.14)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("distance to the marker (tokens)")
    ax.set_ylabel("accuracy")
    ax.set_title(f"After {results['settings']['early']} updates", pad=8)
    for y, label, colour in (
        (0.4, "● through the memory", BLUE),
        (0.3, "■ stopped", ORANGE),
        (0.2, "line: theory", INK),
        (0.06, "chance 1/8", MUTED),
    ):
        weight = "bold" if colour in (BLUE, ORANGE) else "normal"
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        ax.text(1.5, y, label, color=colour, weight=weight, bbox=box)


def _mean_norms(group: dict, way: str) -> np.ndarray:
    """The gradient's norms (N + 1, positions), mean of the seeds."""
    return np.mean([run["gradient"][way] for run in group["runs"]], axis=0)


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
    last = {way: group["by_hop"][-1]["mean"] for way, group in groups.items()}
    after = groups["stopped"]["learned_after"]
    if None in after:
        title = (
            "Stopped at the memory, a model learns to write it late, or (here "
            f"{after.count(None)} of {len(after)}) not at all"
        )
    else:
        full = [x or s["steps"] for x in groups["full"]["learned_after"]]  # None: not in its time
        slower = np.median(after) / np.median(full)
        title = (
            "Stopped at the memory, a model still learns to write it, but in "
            f"{slower:.1f} times as many updates"
        )
    note = (
        f"{s['n_layer']} layers, T = M = {s['tgt_len']}, one question in each sequence and no "
        f"other loss; {s['seeds']} seeds (thin lines), for each way the best of the learning "
        f"rates {', '.join(f'{x:g}' for x in s['lrs'])}.\n"
        f"Updates until the loss is within {NEAR} of its floor: stopped "
        f"{spoken(after)}; through the memory "
        f"{spoken(groups['full']['learned_after'])}. After {s['steps']}, the last hop is right in "
        f"{last['stopped']:.0%} and {last['full']:.0%}.\n"
        "Below: the stopped models after training, mean of the seeds: the gradient they learned "
        "with, and what the stop cut off. Hatched: exactly 0."
    )
    return title, note


def spoken(updates: list) -> str:
    """Return the updates of all seeds in words: `80, 120, never`."""
    return ", ".join("never" if x is None else str(x) for x in updates)


def best(results: dict, way: str) -> dict:
    """Return the group of a way whose learning rate suits it best: lowest mean learning curve.

    (Not the lowest final loss: where two rates arrive at the floor, that would be chance.)
    """
    groups = [g for g in results["groups"] if g["way"] == way]
    return min(groups, key=lambda g: np.mean([run["curve"] for run in g["runs"]]))
