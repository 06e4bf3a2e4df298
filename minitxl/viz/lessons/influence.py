"""What one changed token changes: all outputs of a small model, and far back in a trained one."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from minitxl.model.reach import exact_reach
from minitxl.viz.gradient import COLOURS
from minitxl.viz.theme import (
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    segment_colour,
    styled,
    titled,
)

LITTLE = 0.001  # total variation of two predictions that hardly differ


def draw_changes(changes: np.ndarray, *, n_layer: int, tgt_len: int, mem_len: int) -> Picture:
    """Draw which outputs of a segment change with which token, exact zeros hatched.

    changes (T, L): largest change of a log-probability at each offset, for the change of each of
    the L tokens up to the segment's last.
    """
    t, length = changes.shape
    reach, simple = exact_reach(n_layer, tgt_len, mem_len), n_layer * mem_len
    before = length - t
    found = before - int(np.flatnonzero(changes.any(axis=0))[0])
    with styled():
        figure = new_figure(10.4, 3.7)
        ax = figure.add_axes((0.065, 0.275, 0.84, 0.48))
        left = -before - 0.5
        ax.add_patch(Rectangle((left, -0.5), length, t, fc=HIDDEN, hatch="////", lw=0))
        norm = LogNorm(changes[changes > 0].min(), changes.max())
        image = ax.imshow(
            np.ma.masked_equal(changes, 0.0),
            extent=(left, t - 0.5, t - 0.5, -0.5),
            aspect="auto",
            cmap=COLOURS,
            norm=norm,
            interpolation="nearest",
            zorder=1,
        )
        for start in range(-(before // t) * t, t, t):
            age = -start // t
            line = dict(color=segment_colour(age), lw=3.5, clip_on=False, solid_capstyle="butt")
            ax.plot([start - 0.4, start + t - 0.6], [t - 0.2] * 2, **line)
        ax.axvline(-0.5, color=INK, lw=2.4, zorder=3)
        marks = [(reach, f"R = {reach}", "-", "right")]
        marks += [(simple, f"N M = {simple}", (0, (3, 2)), "left")] if simple != reach else []
        marks += [(mem_len, f"M = {mem_len}", ":", "center")] if n_layer > 1 else []
        for at, name, dash, side in marks:
            ax.plot([-at - 0.5] * 2, [-0.5, t - 0.5], color=INK, lw=1.4, ls=dash, zorder=3)
            ax.text(-at - 0.5, -0.75, name, ha=side, va="bottom", size=9)
        ax.text(-0.4, -0.75, "memory's edge", va="bottom", weight="bold", size=9)
        box = {"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.35"}
        if before > found:
            middle = (left - found - 0.5) / 2
            style = dict(ha="center", va="center", size=8.5, bbox=box, zorder=4)
            ax.text(
                middle, t / 2 - 0.5, "exactly 0", rotation=90 if before - found < 12 else 0, **style
            )
        ax.set_xlim(left, t - 0.5)
        ax.set_ylim(t - 0.3, -0.5)
        ax.set_xticks([*range(-(before // t) * t, t, t)])
        ax.set_yticks([0, t - 1])
        ax.set_xlabel("token that is changed (position relative to the segment's start)")
        ax.set_ylabel("output (offset)")
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
        bar = figure.colorbar(image, cax=figure.add_axes((0.925, 0.275, 0.013, 0.48)))
        bar.outline.set_visible(False)
        bar.ax.set_title("change", size=9, pad=6)
        title = (
            f"A token up to {found} before the segment changes its outputs: "
            f"{n_layer} layers, T = {tgt_len}, M = {mem_len}"
        )
        note = (
            "Colour: largest change of a log-probability. Hatched: not a bit changes. Every output "
            "of the segment has the same left end."
        )
        return titled(figure, title, note, top=0.91, bottom=0.04, size=10)


def even_span(tgt_len: int, mem_len: int, share: float = 0.9) -> int:
    """The distance within which `share` of the weight falls if each query spreads it evenly."""
    weight = np.zeros(mem_len + tgt_len)
    for i in range(tgt_len):
        weight[: mem_len + i + 1] += 1 / (mem_len + i + 1) / tgt_len
    return int(np.searchsorted(np.cumsum(weight), share))


def draw_learned_reach(heads: list[dict], distances, influence, *, n_layer, tgt_len, mem_len):
    """Draw how far a trained model's heads look, and what far tokens change, each to its limit.

    Of a head: M + T - 1, for the last query of a segment; of the model: R.

    heads: as `attention_spans.run` returns them ("layer", "span"); distances (n,) before a
    segment's start; influence (n,): mean total variation of the predictions, 0 ... 1.
    """
    distances, influence = np.asarray(distances), np.asarray(influence)
    reach = exact_reach(n_layer, tgt_len, mem_len)
    spans = np.array([head["span"] for head in heads])
    even = even_span(tgt_len, mem_len)
    inside = distances <= reach
    far = distances[np.flatnonzero(influence >= LITTLE).max() + 1]
    with styled():
        figure = new_figure(10.4, 5.9)
        top = figure.add_axes((0.085, 0.585, 0.885, 0.285))
        low = figure.add_axes((0.085, 0.175, 0.885, 0.335))
        for head, span in zip(heads, spans, strict=True):
            style = dict(color=SEGMENT_COLOURS[1], ms=7, alpha=0.55, mew=0)
            top.plot(max(span, 0.8), head["layer"], "o", **style)
        top.set_ylim(0.4, n_layer + 1.5)
        top.set_yticks(range(1, n_layer + 1))
        top.set_ylabel("layer")
        top.set_title(
            "One dot for each head: within how many characters 90 % of its weight falls", pad=8
        )
        low.plot(distances[inside], influence[inside], "-o", color=SEGMENT_COLOURS[0], lw=2, ms=5)
        low.axhline(LITTLE, color=MUTED, lw=0.8, ls=":")
        low.text(0.8, 1.1 * LITTLE, f"{LITTLE:.1%}", size=8.5, color=MUTED, va="bottom")
        low.set_yscale("log")
        low.set_ylabel("change of prediction\n(total variation, log)")
        low.set_xlabel("characters back (below: before the segment's start; log scale)")
        low.set_title("One character changed: how much the next predictions change", pad=8)
        right = 2.1 * reach
        one = mem_len + tgt_len - 1  # the last query's distance to the memory's oldest key
        for ax, limit in ((top, one), (low, reach)):
            ax.set_xscale("log")
            ax.set_xlim(0.75, right)
            ax.xaxis.set_minor_locator(NullLocator())
            ticks = [1, 3, 10, 30, 100, 300, 1000]
            ax.set_xticks(ticks, [str(x) for x in ticks] if ax is low else [])
            ax.axvspan(limit + 0.5, right, fc=HIDDEN, hatch="////", ec="#BDB9AE", lw=0)
            ax.axvline(mem_len, color=MUTED, lw=1, ls="--", zorder=0)
            ax.axvline(limit + 0.5, color=INK, lw=1.6)
            level_lines(ax)
        top.axvline(even, color=SEGMENT_COLOURS[1], lw=1, ls=":", zorder=0)
        box = {"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.3"}
        style = dict(va="center", weight="bold", bbox=box)
        top.text(mem_len, n_layer + 0.95, f"M = {mem_len}", ha="center", color=MUTED, **style)
        said = f"one head: {one} at most"
        top.text(1.08 * one, n_layer + 0.95, said, ha="left", color=INK, **style)
        across = low.get_xaxis_transform()
        low.text(reach, 0.88, f"R = {reach}", ha="center", color=INK, transform=across, **style)
        middle = np.sqrt(influence[inside].min() * influence.max())
        beyond = np.sqrt(reach * right)
        zero = "exactly 0" if not influence[~inside].any() else "beyond the reach"
        low.text(beyond, middle, zero, ha="center", va="center", bbox=box, size=9)
        title = f"It can reach {reach} characters back; from {far} on, one hardly matters to it"
        note = (
            f"The shipped model, T = M = {mem_len}. Above: its {len(heads)} heads, in the median "
            f"{np.median(spans):.0f} characters, at most {spans.max()}; blue, dotted: {even}, if "
            f"spread evenly.\nBelow: means of several places. Hatched: out of reach."
        )
        return titled(figure, title, note, top=0.945, bottom=0.025, size=10)
