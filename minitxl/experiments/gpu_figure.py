"""The picture of evaluation on a GPU, from what `minitxl.tools.gpu_report` stored there."""

from __future__ import annotations

import math

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.experiments.evaluation_speed import PAPER
from minitxl.viz.theme import INK, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, *_ = SEGMENT_COLOURS
LOOKS = ((BLUE, "o"), (ORANGE, "s"))  # of the models, in the order of the results


@drawing(8.6, 4.6, top=0.94, bottom=0.02)
def draw_evaluation_on_gpu(figure, results: dict, machine: dict) -> tuple[str, str]:
    """Draw how much faster a memory is than a window on a GPU, beside the paper's points.

    results, machine: the parts "evaluation" and "machine" of the report, as JSON has them.
    """
    points = fastest(results["found"]["points"])
    ax = figure.add_axes((0.09, 0.24, 0.6, 0.6))
    ax.set_xscale("log")
    ax.set_yscale("log")
    models = list(dict.fromkeys(p["model"] for p in points))
    for model, (colour, mark) in zip(models, LOOKS, strict=True):
        line = [p for p in points if p["model"] == model]
        x = [p["attention_len"] for p in line]
        y = [p["window_ms"] / p["ms"] for p in line]
        ax.plot(x, y, "-", color=colour, lw=2.2, marker=mark, ms=6)
        _name(ax, x[-1], y[-1], f"{_long(model)}: {int(y[-1]):,}", colour)
    ax.plot(list(PAPER), list(PAPER.values()), "*", color=INK, ms=13, mec="white", mew=0.7)
    last = max(PAPER)
    _name(ax, last, PAPER[last], f"the paper: {PAPER[last]:,}", INK)
    ax.set_xlabel("attention length in tokens (log scale)")
    ax.set_ylabel("speed-up (log scale)")
    ax.set_xlim(700, 4300)
    ax.xaxis.set_major_locator(FixedLocator(list(PAPER)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    level_lines(ax)
    best = max(p["window_ms"] / p["ms"] for p in points)
    title = f"On a GPU: up to {int(best):,} times faster than a window read anew"
    note = (
        f"{machine['found']['gpu']}, float32, CuPy {machine['found']['cupy']}; one run, random "
        "weights. Ours: memory projected again, segments of 1, 64 or 128,\nthe best of them; "
        "window: 1 or 8 at a time, relative or absolute, the best. All but absolute "
        "positions are\nreplayed as one launch. The paper's stars: its own models and card, "
        "its segment length not stated."
    )
    return title, note


def fastest(points: list[dict]) -> list[dict]:
    """Return for each model and attention length the faster window and the best way of reading."""
    found = {}
    for p in points:
        here = found.setdefault(
            (p["model"], p["attention_len"]), {"window_ms": math.inf, "ms": math.inf}
        )
        if p["method"].startswith("window"):
            here["window_ms"] = min(here["window_ms"], p["ms"])
        elif p["ms"] < here["ms"]:
            here |= {"ms": p["ms"], "method": p["method"], "segment_len": p["segment_len"]}
    return [{"model": m, "attention_len": a} | here for (m, a), here in found.items()]


def _long(model: str) -> str:
    return {"4 layers": "4 layers, D 128", "enwik8-base": "12 layers, D 512"}[model]


def _name(ax, x, y, text, colour) -> None:
    """Name a line near its last point."""
    ax.annotate(
        text, (x, y), xytext=(10, 0), textcoords="offset points", color=colour, weight="bold",
        size=9.5, va="center", annotation_clip=False,
    )  # fmt: skip
