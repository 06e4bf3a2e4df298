"""The loss curve of a run, drawn from its metrics."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def loss_curve(metrics: list[dict], reference: dict[str, float] | None = None) -> Figure:
    """Draw training and validation bits per character against characters read.

    metrics: lines of metrics.jsonl. reference: name -> bpc of horizontal lines to compare with.
    """
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train = [(m["tokens"], m["bpc"]) for m in metrics if "bpc" in m]
    valid = [(m["tokens"], m["valid_bpc"]) for m in metrics if "valid_bpc" in m]
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
        axes.set_ylim(0.95 * low, max(1.1 * low, 1.05 * min(5.0, max(shown))))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M")
    axes.set_xlabel("characters read in training")
    axes.set_ylabel("loss in bits per character")
    axes.grid(alpha=0.25)
    if train or valid:
        axes.legend(frameon=False)
    return figure


def save_loss_curve(metrics: list[dict], path: Path) -> None:
    """Write the loss curve as a PNG."""
    loss_curve(metrics).savefig(path, dpi=120)
