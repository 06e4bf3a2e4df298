"""RECL to play with: what it says by another share, step, threshold, and of foreign contexts."""

from __future__ import annotations

from functools import partial

import numpy as np

from minitxl.experiments import stored
from minitxl.experiments.recl import LABELS, VANILLA, effective_lengths
from minitxl.viz.widgets.album import Album, Choice
from minitxl.viz.widgets.scene import Scene, segment_pair

COLOURS = {"xl": 1, "shaw": 0, "xl-alone": 3, "abs-alone": 2}  # as in the ablation's picture
WIDTH, HEIGHT, TOP, FLOOR = 1040, 412, 92, 314
LEFT, RIGHT, FIRST, LAST = 84, 560, 800, 1010  # of the panels: gains, lengths
LOWEST, HIGHEST = 3e-4, 0.12  # gains, on a logarithmic axis; what is below stands on its edge
TICKS = (0.001, 0.003, 0.01, 0.03, 0.1)
FAR = {"as they are": "gains", "from elsewhere": "null_gains"}


def recl_explorer(results: dict | None = None) -> Album:
    """Album: gains of every step and the RECL that follows, from stored results alone.

    results: what `minitxl.experiments.recl.run` returned; by default those that ship.
    """
    results = stored("recl") if results is None else results
    s = results["settings"]
    choices = {
        "key": Choice("far characters", FAR, ordered=False),
        "delta": Choice("step Δ", {str(d): d for d in s["deltas"]}, ordered=False),
        "ratio": Choice("hardest share r", {f"{r:.0%}": r for r in s["ratios"]}),
        "threshold": Choice("least gain", {f"{x:.1%}": x for x in (0.005, s["threshold"], 0.02)}),
    }
    start = {"threshold": f"{s['threshold']:.1%}"}
    return Album(
        choices, partial(recl_scene, results), start=start, stills=[{"key": label} for label in FAR]
    )


def recl_scene(results: dict, *, key: str, delta: int, ratio: float, threshold: float) -> Scene:
    """Gains against the context on the left, every seed's RECL on the right; key: one of FAR's."""
    s, scene = results["settings"], Scene(WIDTH, HEIGHT)
    lengths = list(range(delta, s["longest"] + 1, delta))
    curves = {
        name: np.array([
            g[key] for g in results["groups"]
            if (g["member"], g["delta"], g["ratio"]) == (name, delta, ratio)
        ])
        for name in s["members"]
    }  # name -> (seeds, steps)  # fmt: skip
    found = {name: effective_lengths(lengths, rows, threshold) for name, rows in curves.items()}
    _gains(scene, lengths, curves, found, threshold, s["longest"])
    _lengths(scene, found, s["longest"])
    scene.text(
        LEFT, 62, f"What {delta} characters more gain, of the hardest {ratio:.0%}", bold=True
    )
    scene.text(FIRST - 196, 62, "RECL: the first context that gains less", bold=True)
    mean, vanilla = (np.mean(found[name]) for name in ("xl", VANILLA))
    whose = "of text from elsewhere" if key == FAR["from elsewhere"] else "of the true text"
    return scene.headed(
        f"RECL {whose}: Transformer-XL {mean:.0f} characters, {mean / vanilla - 1:+.0%} against "
        "vanilla",
        f"{s['seeds']} seeds: dots; lines and bars: their mean. A seed's RECL is the first context "
        "whose step gains less than the dashed line.\n"
        "From elsewhere: the farthest Δ characters are another place's, and can tell nothing.",
    )  # fmt: skip


def _gains(scene, lengths, curves, found, threshold, longest) -> None:
    def x(c):
        return LEFT + (RIGHT - LEFT) * np.asarray(c) / longest

    def y(gain):
        share = np.log(np.clip(gain, LOWEST, HIGHEST) / LOWEST) / np.log(HIGHEST / LOWEST)
        return FLOOR - (FLOOR - TOP) * share

    for tick in TICKS:
        scene.lines([[(LEFT, y(tick)), (RIGHT, y(tick))]], stroke="faint")
        scene.text(LEFT - 8, y(tick), f"{100 * tick:g} %", size=12, anchor="end", colour="muted")
    scene.lines([[(LEFT, y(threshold)), (RIGHT, y(threshold))]], stroke="ink", dash=(5, 4))
    for c in lengths[:-1:2] if len(lengths) > 8 else lengths[:-1]:
        scene.text(x(c), FLOOR + 14, str(c), size=12, anchor="middle", colour="muted")
    middle = (LEFT + RIGHT) / 2
    scene.text(
        middle, FLOOR + 32, "characters of context before the step", size=13, anchor="middle"
    )
    for name, rows in curves.items():
        colour, mean, at = segment_pair(COLOURS[name]), rows.mean(axis=0), x(lengths[:-1])
        scene.dots([p for row in rows for p in zip(at, y(row), strict=True)], 2.2, fill=colour)
        scene.lines([list(zip(at, y(mean), strict=True))], stroke=colour, width=2.4)


def _lengths(scene, found, longest) -> None:
    step, vanilla = (FLOOR - TOP) / len(found), np.mean(found[VANILLA])

    def x(c):
        return FIRST + (LAST - FIRST) * c / longest

    scene.lines([[(FIRST, TOP - 6), (FIRST, FLOOR)]], stroke="muted")
    for n, (name, lengths) in enumerate(found.items()):
        y, colour, mean = TOP + step * (n + 0.4), segment_pair(COLOURS[name]), np.mean(lengths)
        scene.text(FIRST - 10, y - 8, LABELS[name], anchor="end", bold=True, colour=colour)
        said = f"{mean:.0f}" + ("" if name == VANILLA else f", {mean / vanilla - 1:+.0%}")
        scene.text(FIRST - 10, y + 11, said, size=13, anchor="end")
        scene.boxes([(FIRST, y - 7, x(mean) - FIRST, 14)], fill=colour, alpha=0.35)
        scene.dots([(x(c), y + 5 * (i - 1)) for i, c in enumerate(lengths)], 3.4, fill=colour)
