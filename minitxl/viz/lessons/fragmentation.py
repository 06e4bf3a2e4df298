"""Context fragmentation: what a text costs where every segment starts from nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.errors import MinitxlError
from minitxl.viz.by_position import position_bins
from minitxl.viz.theme import (
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    printable,
    styled,
    titled,
)

ORANGE, BLUE, GREEN, PURPLE, *_ = SEGMENT_COLOURS
FULL = 8.0  # bits from which a cell is fully coloured
GROUP = {  # arms of the ablation: label, colour, line, marker
    "abs-alone": ("vanilla: absolute positions, no memory", GREEN, "--", "^"),
    "xl-alone": ("relative positions, no memory", ORANGE, "--", "s"),
    "xl": ("Transformer-XL: relative, with memory", BLUE, "-", "o"),
}


def draw_surprise(symbols: list[str], without: np.ndarray, with_memory: np.ndarray) -> Picture:
    """Draw a passage twice, a segment in each row, every character shaded by its bits.

    symbols: S * T predicted characters; without, with_memory (S, T): what each cost in bits.
    """
    without, with_memory = np.asarray(without), np.asarray(with_memory)
    s, t = without.shape
    if with_memory.shape != (s, t) or len(symbols) != s * t:
        raise MinitxlError(
            f"without has shape {without.shape}, with_memory {with_memory.shape}, and there are "
            f"{len(symbols)} symbols: all must be of the same S segments of T characters"
        )
    panels = (
        ("Every segment from nothing", without, ORANGE),
        ("With memory", with_memory, BLUE),
    )
    with styled():
        figure = new_figure(10.4, 1.75 + 0.245 * s)
        height = 0.245 * s / (1.75 + 0.245 * s)
        for left, (name, bits, colour) in zip((0.045, 0.535), panels, strict=True):
            ax = figure.add_axes((left, 0.78 / (1.75 + 0.245 * s), 0.45, height))
            map_ = LinearSegmentedColormap.from_list("bits", [PAPER, colour])
            ax.imshow(bits, cmap=map_, vmin=0.0, vmax=FULL, aspect="auto", alpha=0.8)
            for n, symbol in enumerate(symbols):
                at = dict(ha="center", va="center", size=9.5, family="DejaVu Sans Mono")
                ax.text(n % t, n // t, printable(symbol), **at)
            ax.set_xticks([0, *range(7, t, 8)], [1, *range(8, t + 1, 8)])
            ax.set_yticks(range(s), range(1, s + 1))
            ax.tick_params(length=0)
            for side in ax.spines.values():
                side.set_visible(False)
            ax.set_xlabel("characters of its own segment that the prediction may use")
            ax.set_title(f"{name}: {bits.mean():.2f} bits per character", pad=6, color=colour)
            if left < 0.1:
                ax.set_ylabel("segment")
        title = "What each character costs: the deeper its colour, the more bits"
        figure.text(0.016, 1 - 0.36 / (1.75 + 0.245 * s), title, size=13, weight="bold")
        first = without[1:, 0].mean(), with_memory[1:, 0].mean()
        note = (
            f"The first character of a segment costs {first[0]:.2f} bits on average without "
            f"memory, {first[1]:.2f} with it (segments 2 to {s}); full colour: {FULL:.0f} bits."
        )
        figure.text(0.016, 0.16 / (1.75 + 0.245 * s), note, size=10)
    return Picture(figure, f"{title}. {note}")


def _binned(bits: np.ndarray) -> tuple[list, list]:
    """Bins of positions that double: their middle on a logarithmic axis, and the mean bits."""
    bins = list(pairwise(position_bins(len(bits))))
    return [np.sqrt((a + 1) * b) for a, b in bins], [bits[a:b].mean() for a, b in bins]


def _position_axis(ax, tgt_len: int) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xlim(0.92, tgt_len * 1.08)
    ax.xaxis.set_major_locator(FixedLocator([int(n) for n in position_bins(tgt_len)[1:]]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    level_lines(ax)
    ax.set_xlabel("characters of its own segment that the prediction may use (log scale)")
    ax.set_ylabel("bits per character")


def draw_group_by_position(results: dict) -> Picture:
    """Draw bits by position of three models that were trained alike, every seed and the mean.

    results: what `minitxl.experiments.ablation.run` returned, as JSON has it.
    """
    cells = {c["member"]: np.array(c["by_position"]) for c in results["cells"]}  # (seeds, T)
    s = results["settings"]
    with styled():
        figure = new_figure(10.4, 4.5)
        ax = figure.add_axes((0.075, 0.21, 0.9, 0.64))
        for name, (label, colour, line, marker) in GROUP.items():
            for bits in cells[name]:
                ax.plot(*_binned(bits), line, color=colour, lw=0.8, alpha=0.45)
            mean = cells[name].mean(axis=0)
            label = f"{label}: {mean.mean():.2f} bits on average"
            ax.plot(*_binned(mean), line, color=colour, lw=2.4, marker=marker, ms=6, label=label)
        _position_axis(ax, s["tgt_len"])
        ax.legend(loc="upper right", handlelength=3.2, fontsize=9.5)
        lost = cells["xl-alone"].mean(axis=0) - cells["xl"].mean(axis=0)
        title = (
            f"Trained alike, with memory and without: {lost[0]:.2f} bits apart at the first "
            f"character, {lost[-1]:.2f} at the last"
        )
        note = (
            f"{s['n_layer']} layers, D = {s['d_model']}, segments and memory of "
            f"{s['tgt_len']}, {s['steps']:,} steps, {s['seeds']} seed(s) (thin lines; thick: "
            f"means); {results['cells'][0]['n_predicted']:,} characters of unseen text, read as in "
            "training."
        )
        return titled(figure, title, note, top=0.93, bottom=0.03, size=9.5, color=MUTED)


def draw_segment_lengths(without: dict[int, np.ndarray], with_memory: dict[int, float]) -> Picture:
    """Draw bits by position for several segment lengths, and the mean against the length.

    without: T -> (n_segments, T) bits, each segment from nothing; with_memory: T -> mean bits.
    """
    lengths = sorted(without)
    with styled():
        figure = new_figure(10.4, 4.5)
        ax = figure.add_axes((0.075, 0.21, 0.5, 0.62))
        looks = zip(lengths, (PURPLE, GREEN, ORANGE, INK), ("s", "^", "D", "o"), strict=False)
        for t, colour, marker in looks:
            how = dict(color=colour, lw=1.6, marker=marker, ms=6, mfc="none", label=f"T = {t}")
            ax.plot(*_binned(without[t].mean(axis=0)), **how)
        _position_axis(ax, lengths[-1])
        ax.legend(loc="upper right", title="without memory", alignment="left")
        ax.set_title("All lengths lie on one curve", pad=8)
        ax = figure.add_axes((0.66, 0.21, 0.325, 0.62))
        rows = (
            ("without memory", [without[t].mean() for t in lengths], ORANGE, "--"),
            ("with memory", [with_memory[t] for t in lengths], BLUE, "-"),
        )
        for name, y, colour, line in rows:
            ax.plot(lengths, y, line, color=colour, lw=2.4, marker="o", ms=5)
            for x, value in zip(lengths, y, strict=True):
                where = (13, 6) if line == "--" else (0, -15)
                place = dict(xytext=where, textcoords="offset points", ha="center", size=9)
                ax.annotate(f"{value:.2f}", (x, value), color=colour, **place)
            ax.annotate(
                name,
                (lengths[1], y[1]),
                xytext=(14, 22 if line == "--" else 7),
                textcoords="offset points",
                color=colour,
                weight="bold",
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, lengths)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.14, y=0.2)
        level_lines(ax)
        ax.set_xlabel("segment length T (log scale)")
        ax.set_title("Mean bits per character", pad=8)
        short, long = lengths[0], lengths[-1]
        title = "A longer segment pays the same price, only less often"
        gap = {t: without[t].mean() - with_memory[t] for t in lengths}
        note = (
            f"The memory saves {gap[short]:.2f} bits per character at T = {short} and "
            f"{gap[long]:.2f} at T = {long}: the same model, the same unseen text."
        )
        return titled(figure, title, note, top=0.93, bottom=0.03, size=10)


def draw_sliding(rows: list[tuple[int, float, float]], memory: tuple[float, float]) -> Picture:
    """Draw bits against the price of a sliding window, beside those of a memory.

    rows: (stride, characters read per prediction, bits per character); memory: the last two.
    """
    read = np.array([r for _, r, _ in rows])
    bits = np.array([b for *_, b in rows])
    with styled():
        figure = new_figure(10.4, 4.2)
        ax = figure.add_axes((0.075, 0.22, 0.9, 0.62))
        ax.plot(read, bits, "--", color=ORANGE, lw=2.0, marker="s", ms=6)
        for stride, x, y in rows:
            place = dict(xytext=(4, 9), textcoords="offset points", size=9)
            ax.annotate(f"stride {stride}", (x, y), color=ORANGE, **place)
        ax.plot(*memory, "o", color=BLUE, ms=11)
        where = dict(xytext=(14, -4), textcoords="offset points", weight="bold", size=10)
        ax.annotate(f"memory: {memory[1]:.2f} bits, read once", memory, color=BLUE, **where)
        ax.set_xscale("log", base=2)
        ticks = sorted({round(x) for x in read})
        ax.set_xticks(ticks, ticks)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.06, y=0.2)
        level_lines(ax)
        ax.set_xlabel("characters read for every one predicted (log scale)")
        ax.set_ylabel("bits per character")
        title = f"A sliding window heals the cut, and reads every character {round(read[-1])} times"
        note = (
            f"From stride {rows[0][0]} (no overlap) to stride {rows[-1][0]} the window gains "
            f"{bits[0] - bits[-1]:.2f} bits; a memory of the same length gets "
            f"{bits[0] - memory[1]:.2f} for reading once."
        )
        return titled(figure, title, note, top=0.925, bottom=0.03, size=10)
