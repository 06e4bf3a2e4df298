"""The four terms of one head's scores, and what the mask keeps from leaking."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from minitxl.errors import MinitxlError
from minitxl.viz.theme import (
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    new_figure,
    strength,
    styled,
    titled,
)

ORANGE, BLUE, *_ = SEGMENT_COLOURS
SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, PAPER, BLUE])
DEPTH = LinearSegmentedColormap.from_list("depth", [PAPER, BLUE])
NAMES = {
    "a": r"a: $q_i \cdot k_j$, content to content",
    "b": r"b: $q_i \cdot r_{i-j}$, content to position",
    "c": r"c: $u \cdot k_j$, content bias",
    "d": r"d: $v \cdot r_{i-j}$, position bias",
}
LITTLE = 1e-4  # of the largest change: the bottom of the colour scale


def draw_four_terms(terms: dict, p: np.ndarray, hidden: np.ndarray, head: str) -> Picture:
    """Draw one head's four terms, their sum, and the probabilities, each (T, K).

    terms: "a", "b", "c", "d" -> scaled scores; p: attention probabilities; hidden: True where the
    mask hides a key; head: its name, for the title.
    """
    t, k = p.shape
    if set(terms) != set(NAMES) or any(x.shape != (t, k) for x in (*terms.values(), hidden)):
        raise MinitxlError(f"the terms a, b, c, d and the mask must be of p's shape {(t, k)}")
    total = _centred(sum(np.asarray(terms[x], dtype=np.float64) for x in "abcd"), hidden)
    shown = [(NAMES[x], _centred(terms[x], hidden) if x in "ab" else terms[x]) for x in "abcd"]
    shown.append(("a + b + c + d", total))
    top = float(np.percentile(np.abs(total[~hidden]), 99))
    edge = k - t
    with styled():
        figure = new_figure(10.4, 7.1)
        places = [(x, y) for y in (0.70, 0.42, 0.14) for x in (0.06, 0.55)]
        for n, (name, x) in enumerate(shown):
            ax = figure.add_axes((*places[n], 0.42, 0.2))
            image = np.ma.array(x, mask=hidden)
            norm = dict(vmin=-top, vmax=top)
            drawn = ax.imshow(image, cmap=SIGNED, aspect="auto", interpolation="none", **norm)
            _frame(ax, name, t, edge)
        ax = figure.add_axes((*places[5], 0.42, 0.2))
        image = np.ma.array(strength(p), mask=hidden)
        ax.imshow(image, cmap=DEPTH, aspect="auto", interpolation="none", vmin=0, vmax=1)
        _frame(ax, "softmax of the sum: the weights", t, edge)
        for ax in figure.axes[-2:]:
            ax.set_xlabel("key (0: first of the segment)")
        for ax in figure.axes[::2]:
            ax.set_ylabel("query")
        bar = figure.add_axes((0.75, 0.947, 0.15, 0.016))
        figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=[-top, 0, top])
        bar.set_xticklabels([f"{-top:.0f}", "0", f"+{top:.0f}"])
        bar.tick_params(length=0)
        figure.text(0.74, 0.948, "score", ha="right", size=9)
        size = {x: float(np.std(_centred(terms[x], hidden)[~hidden])) for x in "abcd"}
        title = f"{head}: four terms and what becomes of them"
        note = (
            "In a, b and the sum each row's mean is taken out: the softmax does not see it. "
            "Standard deviation along the rows: "
            + ", ".join(f"{x} {s:.2f}" for x, s in size.items())
            + ".\nLine: the memory's edge; grey: hidden by the mask."
        )
        return titled(figure, title, note, top=0.952, bottom=0.018, size=9.5)


def _centred(x, hidden: np.ndarray) -> np.ndarray:
    """Scores (T, K) less the mean of their row over the keys that are seen."""
    x = np.asarray(x, dtype=np.float64)
    return x - np.mean(x, axis=1, keepdims=True, where=~hidden)


def _frame(ax, name: str, t: int, edge: int) -> None:
    ax.set_facecolor(HIDDEN)
    ax.axvline(edge - 0.5, color=INK, lw=1.8)
    ax.set_title(name, pad=4, size=9.5)
    step = max(4, t // 4)
    ticks = np.arange(-(edge // step) * step, t, step)
    ax.set_xticks(ticks + edge, [f"{x}".replace("-", "\u2212") for x in ticks])
    ax.set_yticks(range(0, t, step))
    ax.tick_params(length=2)
    for side in ax.spines.values():
        side.set_visible(False)


def draw_leak(masked: np.ndarray, unmasked: np.ndarray) -> Picture:
    """Draw how much each output of one layer changes with each character, with the mask or not.

    masked, unmasked (T, T): length of the change of output i (row) where character c of the segment
    (column) is replaced. Exact zeros are left blank.
    """
    t = len(masked)
    top = float(max(masked.max(), unmasked.max()))
    future = np.triu(np.ones((t, t), bool), k=1)
    with styled():
        figure = new_figure(10.4, 4.9)
        for left, name, x in ((0.07, "with the mask", masked), (0.50, "without it", unmasked)):
            ax = figure.add_axes((left, 0.2, 0.36, 0.62))
            image = np.ma.masked_equal(x, 0.0)
            norm = LogNorm(vmin=LITTLE * top, vmax=top)
            drawn = ax.imshow(image, cmap=DEPTH, norm=norm, aspect="auto", interpolation="none")
            ax.set_facecolor(HIDDEN)
            ax.set_xticks(range(0, t, 4))
            ax.set_yticks(range(0, t, 4))
            ax.set_title(name, pad=6)
            ax.set_xlabel("character that is replaced")
            stairs = np.repeat(np.arange(t + 1) - 0.5, 2)
            ax.plot(stairs[1:], stairs[:-1], color=INK, lw=1.4)
            for side in ax.spines.values():
                side.set_visible(False)
        figure.axes[0].set_ylabel("output that changes")
        bar = figure.add_axes((0.885, 0.2, 0.014, 0.62))
        figure.colorbar(drawn, cax=bar)
        bar.set_ylabel("length of the change (log scale)")
        bar.minorticks_off()
        links = [int(np.count_nonzero(x[future])) for x in (masked, unmasked)]
        title = (
            f"The mask alone hides the future: {links[0]} of {future.sum()} links forward with it, "
            f"{links[1]} without"
        )
        note = (
            "One layer of the trained model. Above the stairs lies the future; grey is exactly 0. "
            "The corner that rel-shift leaves is no zero."
        )
        return titled(figure, title, note, top=0.93, bottom=0.035, size=10, color=MUTED)
