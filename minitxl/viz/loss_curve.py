"""The loss curve of a run, drawn from its metrics."""

from __future__ import annotations

import io
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minitxl.files import write_atomically
from minitxl.inference.units import UNITS


def loss_curve(metrics: list[dict], reference: dict[str, float] | None = None) -> Figure:
    """Draw the loss of training and validation text, in its unit, against tokens read.

    metrics: lines of metrics.jsonl. reference: name -> value of horizontal lines to compare with.
    """
    keys = {key.removeprefix("valid_") for m in metrics for key in m}
    level = next((level for level in ("word", "token") if UNITS[level].key in keys), "char")
    unit, words = UNITS[level], level == "word"
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train, valid = (
        [(m["tokens"], m[key]) for m in metrics if key in m]
        for key in (unit.key, f"valid_{unit.key}")
    )
    if train:
        axes.plot(*zip(*train, strict=True), color="#999999", lw=1, label="training text")
    if valid:
        axes.plot(
            *zip(*valid, strict=True),
            color="#0072B2",
            lw=2,
            marker="o",
            ms=4,
            label="held-out text",
        )
        tokens, low = min(valid, key=lambda point: point[1])
        axes.plot(
            [tokens],
            [low],
            ls="",
            marker="o",
            ms=9,
            mfc="none",
            mec="#D55E00",
            mew=2,
            label=f"best: {low:,.{unit.digits}f} at step {_step_of(metrics, tokens):,}",
        )
    for name, value in (reference or {}).items():
        axes.axhline(value, color="#D55E00", lw=1, ls="--")
        axes.annotate(
            name,
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color="#D55E00",
        )
    values = [b for _, b in train + valid if math.isfinite(b)]
    if values:
        low = min([*values, *(reference or {}).values()])
        # The first steps fall from 6 bits within a hair's breadth: they would flatten the rest.
        shown = [b for _, b in valid if math.isfinite(b)] or values
        high = 1000.0 if words else 5.0
        axes.set_ylim(0.95 * low, max(1.1 * low, 1.05 * min(high, max(shown))))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M")
    if words:  # it falls by factors
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}")
    axes.set_xlabel(f"{unit.token}s read in training")
    axes.set_ylabel(unit.name if words else f"loss in {unit.name}")
    axes.grid(alpha=0.25)
    if train or valid:
        axes.legend(frameon=False)
    return figure


def _step_of(metrics: list[dict], tokens: int) -> int:
    return next(m.get("step", 0) for m in metrics if m.get("tokens") == tokens)


def save_loss_curve(metrics: list[dict], path: Path) -> None:
    """Write the loss curve as a PNG."""
    buffer = io.BytesIO()
    loss_curve(metrics).savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
