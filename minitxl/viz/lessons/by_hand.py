"""Checks of a gradient that are blind, and those that see."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.ticker import FuncFormatter

from minitxl.model.gradcheck import RTOL, check_op
from minitxl.model.ops import softmax_forward
from minitxl.viz.theme import (
    FAINT,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
)

ORANGE, BLUE, *_ = SEGMENT_COLOURS
SMALLEST = 1e-17  # where an error of exactly 0 stands on a logarithmic axis


def softmax_errors(backward) -> tuple[float, float]:
    """|numeric - analytic| of backward(dp, p) along a direction, by an upstream of ones; and the
    relative error of `check_op`, by a random one.
    """
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    direction = np.random.default_rng(1).normal(size=x.shape)
    step = 1e-5
    up, down = (softmax_forward(x + e * direction, xp=np)[0].sum() for e in (step, -step))
    p, _ = softmax_forward(x, xp=np)
    ones = abs((up - down) / (2 * step) - np.sum(backward(np.ones_like(p), p) * direction))
    drawn = check_op(partial(softmax_forward, xp=np), lambda dp, c: backward(dp, c.p), {"x": x})
    return float(ones), drawn["x"]


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
            "error of the gradient along a random direction (log scale); grey: passes the check"
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
