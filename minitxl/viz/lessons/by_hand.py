"""Checks of a gradient that are blind, those that see, and what the stopped gradient reaches."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter

from minitxl.model.gradcheck import RTOL
from minitxl.model.ops import softmax_forward
from minitxl.viz.theme import (
    FAINT,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
)
from minitxl.viz.widgets.scene import Scene, segment_pair

ORANGE, BLUE, *_ = SEGMENT_COLOURS
SMALLEST = 1e-17  # where an error of exactly 0 stands on a logarithmic axis


def softmax_errors(backward) -> tuple[float, float]:
    """|numeric - <dx, d>| / (|dp| |d|) of backward(dp, p), for dp of ones and a random dp.

    One measure for both: it has no quotient of gradients, as the true one is 0 for the ones.
    """
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    direction = np.random.default_rng(1).normal(size=x.shape)
    step = 1e-5
    up, down = (softmax_forward(x + e * direction, xp=np)[0] for e in (step, -step))
    p, _ = softmax_forward(x, xp=np)

    def error(dp):
        numeric = np.sum((up - down) * dp) / (2 * step)
        difference = abs(numeric - np.sum(backward(dp, p) * direction))
        return float(difference / (np.linalg.norm(dp) * np.linalg.norm(direction)))

    return error(np.ones_like(p)), error(np.random.default_rng(2).normal(size=p.shape))


def draw_checks(versions: dict, passes: float = RTOL) -> Picture:
    """Draw how far each version of the softmax's backward pass is from the derivative.

    versions: name -> backward(dp, p), the right one among them; passes: below this error a checker
    lets it pass.
    """
    rows = [(name, *softmax_errors(backward)) for name, backward in versions.items()]
    height = 1.75 + 0.42 * len(rows)
    with styled():
        figure = new_figure(10.4, height)
        ax = figure.add_axes((0.25, 0.68 / height, 0.71, 0.42 * len(rows) / height))
        ax.axvspan(SMALLEST / 10, passes, color=FAINT, alpha=0.45, lw=0)
        for i, (_, *errors) in enumerate(rows):
            ones, drawn = (max(e, SMALLEST) for e in errors)
            ax.plot(ones, i, "s", color=ORANGE, ms=9, mfc="none", mew=2)
            ax.plot(drawn, i, "o", color=BLUE, ms=8)
        ax.set_xscale("log")
        ax.set_xlim(SMALLEST / 10, 30)
        ticks = [SMALLEST, 1e-12, 1e-9, passes, 1e-3, 1]
        ax.set_xticks(ticks)
        names = {SMALLEST: "0"}
        ax.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: names.get(x, f"$10^{{{round(np.log10(x))}}}$"))
        )
        ax.minorticks_off()
        ax.set_yticks(range(len(rows)), [name for name, *_ in rows], size=10)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        level_lines(ax)
        ax.set_xlabel(
            "error |numeric - ⟨dx, d⟩| / (|dy| |d|), both upstreams (log scale); grey: passes"
        )
        key = dict(transform=figure.transFigure, clip_on=False)
        at = 1 - 0.82 / height
        ax.plot([0.26], [at], "s", color=ORANGE, ms=9, mfc="none", mew=2, **key)
        figure.text(0.273, at, "upstream of ones", color=ORANGE, weight="bold", va="center")
        ax.plot([0.45], [at], "o", color=BLUE, ms=8, **key)
        figure.text(0.463, at, "random upstream", color=BLUE, weight="bold", va="center")
        fooled = sum(o < passes <= d for _, o, d in rows)
        title = f"An upstream of ones lets {fooled} of {len(rows) - 1} wrong versions pass"
        figure.text(0.016, 1 - 0.4 / height, title, size=13, weight="bold")
    return Picture(figure, f"{title}; a random upstream sees every one of them.")


def draw_stop() -> Picture:
    """Draw the way forward from five states to an output, and the gradient's way back (sec. 3.2).

    Three states are cached. Keys and values of all five get a gradient, the weights have it from
    all, and of the states only those in front of the memory's edge.
    """
    blue, orange = segment_pair(1), segment_pair(0)
    scene = Scene(1040, 372)
    xs, states, keys, out, weights = [150 + 130 * j for j in range(5)], 282, 196, (670, 88), 880
    for j, x in enumerate(xs):
        cached = j < 3
        scene.lines([[(x - 12, states - 20), (x - 12, keys + 20)]], stroke=blue, width=2.5)
        scene.lines([[(x - 10, keys - 20), (out[0] - 12, out[1])]], stroke=blue, width=1.6)
        scene.lines([[(x + 10, keys - 20), (out[0] + 12, out[1])]], stroke=orange, width=1.6)
        end = (states + keys) / 2 + 2 if cached else states - 21
        scene.lines([[(x + 12, keys + 20), (x + 12, end)]], stroke=orange, width=2.5)
        if cached:
            scene.lines([[(x + 1, end), (x + 23, end)]], stroke="ink", width=5)
        else:
            _tip(scene, x + 12, end, down=True)
        scene.lines([[(x + 34, keys + 6), (weights - 2, keys + 6)]], stroke=orange, width=1.4)
        colour = blue if cached else orange
        scene.boxes([(x - 36, states - 19, 72, 38)], fill="paper", stroke=colour, width=2.5)
        scene.text(x, states, "cached" if cached else "h", anchor="middle", colour=colour)
        scene.boxes([(x - 36, keys - 19, 72, 38)], fill="paper", stroke="muted", width=1.5)
        scene.text(x, keys, "k, v", anchor="middle")
    _tip(scene, weights - 2, keys + 6, down=False)
    scene.dots([out], 25, fill="paper", stroke="ink", width=2)
    scene.text(*out, "o", size=17, anchor="middle", bold=True)
    scene.boxes([(weights, keys - 28, 120, 56)], fill="paper", stroke=orange, width=2.5)
    scene.text(weights + 60, keys - 9, "Wₖ, Wᵥ", size=15, anchor="middle", bold=True)
    scene.text(weights + 60, keys + 12, "from all rows", size=12.5, anchor="middle", colour=orange)
    edge = (xs[2] + xs[3]) / 2
    scene.lines([[(edge, 58), (edge, states + 30)]], stroke="ink", width=3.2)
    scene.text(edge - 10, 66, "memory's edge", size=13, bold=True, anchor="end")
    note = "Blue: forward. Orange: the gradient. Bars: there it is stopped, at cached states alone."
    scene.headed("The stop cuts one way only: from keys and values into cached states", note)
    return Picture(scene.figure(), scene.caption)


def _tip(scene: Scene, x: float, y: float, *, down: bool) -> None:
    """The tip of an arrow, down or to the right."""
    ends = [(-6, -9), (0, 0), (6, -9)] if down else [(-9, -6), (0, 0), (-9, 6)]
    scene.lines([[(x + a, y + b) for a, b in ends]], stroke=segment_pair(0), width=2.5)
