"""Where the gradient goes: d loss / d hidden by layer and position, drawn from plain arrays.

An exact zero is no small number: it gets a hatch of its own instead of the lowest colour, and the
caption counts it. Nothing is said about the stop that is not read from the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from minitxl.errors import MinitxlError
from minitxl.viz.theme import (
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    LiveFigure,
    new_figure,
    percent,
    segment_colour,
    segment_name,
    styled,
)

COLOURS = matplotlib.colormaps["cividis_r"]  # large is dark; even steps for every kind of eye


def gradient_norms(gradients: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Norm over D, summed over the batch, of what `hidden_gradients` returns -> (N+1, S*T).

    `gradients`: over S segments, over n = 0 ... N, arrays (B, T, D). The squares are summed in
    float64, where none of a float32 number underflows: the result is 0 only where every entry is.
    """
    rows = []
    for n in range(len(gradients[0])):
        whole = np.concatenate([np.asarray(s[n], dtype=np.float64) for s in gradients], axis=1)
        rows.append(np.sqrt((whole**2).sum(axis=(0, 2))))  # (B, S*T, D) -> (S*T,)
    return np.stack(rows)


def colour_limits(*norms: np.ndarray) -> tuple[float, float]:
    """Ends of one logarithmic colour scale for several pictures: at most five powers of ten."""
    values = np.concatenate([x[x > 0].ravel() for x in norms])
    high = float(values.max())
    return max(float(values.min()), high * 1e-5), high


class GradientFigure(LiveFigure):
    """Heat map of d loss / d h_n, layers upwards, positions to the right, by segment.

    `limits`: ends of the colour scale, see `colour_limits`; fixed, so that pictures compare.
    """

    def __init__(self, *, n_layer: int, tgt_len: int, n_segments: int, limits) -> None:
        super().__init__()
        self.n_layer, self.tgt_len, self.n_segments = n_layer, tgt_len, n_segments
        self.norm = LogNorm(*limits, clip=True)
        self.left = -(n_segments - 1) * tgt_len - 0.5
        with styled():
            self.figure = new_figure(10.4, 4.5)
            self._draw_map()
            self._draw_scale()
            self.title = self.figure.text(0.016, 0.935, "", size=13, weight="bold")
            self.note = self.figure.text(0.016, 0.028, "", size=10)
        self.moving = [
            self.image,
            *self.zeros,
            self.unused,
            self.edge,
            self.end,
            self.end_label,
            self.loss,
            *self.counts,
            self.title,
            self.note,
        ]

    def _draw_map(self) -> None:
        t, n, left = self.tgt_len, self.n_layer, self.left
        ax = self.figure.add_axes((0.105, 0.215, 0.765, 0.515))
        ground = Rectangle((left, -0.5), t - 0.5 - left, n + 1, fc=HIDDEN, hatch="////", lw=0)
        ax.add_patch(ground)
        blank = np.zeros((n + 1, self.n_segments * t, 4))
        extent = (left, t - 0.5, -0.5, n + 0.5)
        self.image = ax.imshow(
            blank, aspect="auto", extent=extent, origin="lower", interpolation="nearest", zorder=1
        )
        for row in range(n):
            ax.axhline(row + 0.5, color=PAPER, lw=1.5, zorder=2)
        top = n + 0.5
        self.zeros, self.counts = [], []
        for age in range(self.n_segments - 1, -1, -1):
            first, middle = -age * t - 0.5, (0.5 - age) * t - 0.5
            colour = segment_colour(age)
            ax.plot(
                [first + 0.01 * t, first + 0.99 * t],
                [top + 0.09 * (n + 1)] * 2,
                color=colour,
                lw=4,
                clip_on=False,
                solid_capstyle="butt",
            )
            ax.text(
                middle,
                top + 0.135 * (n + 1),
                segment_name(age),
                color=colour,
                weight="bold",
                ha="center",
            )
            self.counts.append(
                ax.text(middle, top + 0.015 * (n + 1), "", size=8.5, color=MUTED, ha="center")
            )
            box = {"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.4"}
            self.zeros.append(
                ax.text(middle, n / 2, "exactly 0", ha="center", va="center", bbox=box, zorder=4)
            )
        small = {"facecolor": PAPER, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
        self.unused = ax.text(
            (left - 0.5) / 2, n, "", size=8.5, ha="center", va="center", bbox=small, zorder=4
        )
        bottom = -0.5
        (self.edge,) = ax.plot(
            [-0.5, -0.5], [bottom, top + 0.29 * (n + 1)], color=INK, lw=2.4, clip_on=False
        )
        (self.end,) = ax.plot([], [], color=INK, lw=1.4, ls=(0, (2, 2)))
        self.end_label = ax.text(
            left, bottom - 0.215 * (n + 1), "", size=9, color=MUTED, ha="left", va="baseline"
        )
        (self.loss,) = ax.plot([], [], color=INK, marker="v", ms=6, ls="", clip_on=False)
        ax.text(-0.5 - 0.015 * t, top + 0.235 * (n + 1), "memory's edge", weight="bold", ha="right")
        ax.set_xlim(left, t - 0.5)
        ax.set_ylim(bottom, top)
        ax.set_xticks([*range(-(self.n_segments - 1) * t, t, t), t - 1])
        names = [f"$h_{{{row}}}$" for row in range(n + 1)]
        names[0], names[-1] = "embedding " + names[0], "top " + names[-1]
        ax.set_yticks(range(n + 1), names)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("position relative to this segment's first character")
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)

    def _draw_scale(self) -> None:
        ax = self.figure.add_axes((0.895, 0.34, 0.018, 0.39))
        mappable = matplotlib.cm.ScalarMappable(self.norm, COLOURS)
        self.bar = self.figure.colorbar(mappable, cax=ax)
        self.bar.outline.set_visible(False)
        self.bar.minorticks_off()
        ax.set_title(r"$\Vert\,\partial\,\mathrm{loss}\,/\,\partial h_n\Vert$", size=9.5, pad=8)
        zero = self.figure.add_axes((0.895, 0.225, 0.018, 0.06))
        zero.set_facecolor(HIDDEN)
        zero.add_patch(Rectangle((0, 0), 1, 1, fc=HIDDEN, hatch="//////", lw=0))
        zero.set_xticks([])
        zero.set_yticks([0.5], ["exactly 0"])
        zero.yaxis.tick_right()
        for spine in zero.spines.values():
            spine.set_visible(False)

    def rescale(self, limits: tuple[float, float]) -> None:
        """Give the colour scale other ends; costs one full redraw for ends not seen before."""
        if (self.norm.vmin, self.norm.vmax) != tuple(limits):
            with self.norm.callbacks.blocked():  # one end alone might lie beyond the other
                self.norm.vmin, self.norm.vmax = limits
            self.bar.update_normal(self.bar.mappable)
            self.bar.minorticks_off()
            self.scene = tuple(limits)

    def update(self, norms: np.ndarray, title: str, *, mem_len: int, loss_at=None) -> None:
        """Show `norms` (N+1, S*T); `loss_at`: positions 0 ... T-1 on which the loss is taken."""
        t, n = self.tgt_len, self.n_layer
        if norms.shape != (n + 1, self.n_segments * t):
            raise MinitxlError(
                f"norms has shape {norms.shape}, the figure shows {n + 1} x {self.n_segments * t}: "
                "one row per hidden state h_0 ... h_N, one column per character"
            )
        nonzero = norms != 0
        pixels = COLOURS(self.norm(np.where(nonzero, norms, self.norm.vmax)))
        pixels[..., 3] = nonzero
        self.image.set_data(pixels)
        for s in range(self.n_segments):
            mine = nonzero[:, s * t : (s + 1) * t]
            self.counts[s].set_text(f"{mine.sum():,} of {mine.size:,} non-zero")
            self.zeros[s].set_text("exactly 0" if not mine.any() else "")
        before = nonzero[:, : (self.n_segments - 1) * t]
        top_only = before.any() and not before[n].any()
        self.unused.set_text("exactly 0: no layer reads the cached top state" if top_only else "")
        inside = 0 < mem_len < (self.n_segments - 1) * t
        self.end.set_data([-mem_len - 0.5] * 2 if inside else [], [-0.5, n + 0.5] if inside else [])
        self.end_label.set_text("dotted: oldest state in memory" if inside else "")
        marks = np.arange(t) if loss_at is None else np.asarray(loss_at)
        if len(marks) == t:
            self.loss.set_data([], [])
        else:
            self.loss.set_data(marks, np.full(len(marks), n + 0.62))
        self.title.set_text(title)
        self.note.set_text(self._sentence(before, norms))
        self.caption = f"{title} {self.note.get_text()}"

    def _sentence(self, before: np.ndarray, norms: np.ndarray) -> str:
        count = f"{before.sum():,} of {before.size:,} hidden states left of the memory's edge"
        if not before.any():
            return f"{count} get a gradient: every entry there is exactly 0, it is stopped."
        edge = before.shape[1]
        ratio = percent(norms[:, :edge].max() / norms[:, edge:].max())
        return f"{count} get a gradient; the largest is {ratio} of the largest in this segment."
