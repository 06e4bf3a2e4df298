"""Context fragmentation: what a text costs where every segment starts from nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.viz.by_position import position_bins
from minitxl.viz.theme import (
    INK,
    MUTED,
    SEGMENT_COLOURS,
    Picture,
    level_lines,
    new_figure,
    styled,
    titled,
)

ORANGE, BLUE, GREEN, PURPLE, *_ = SEGMENT_COLOURS
GROUP = {  # arms of the ablation: label, colour, line, marker
    "abs-alone": ("vanilla: absolute positions, no memory", GREEN, "--", "^"),
    "xl-alone": ("relative positions, no memory", ORANGE, "--", "s"),
    "xl": ("Transformer-XL: relative, with memory", BLUE, "-", "o"),
}


def draw_saw(results: dict, segments: int = 3) -> Picture:
    """Draw the bits along several segments, as the mean by position says: with memory and without.

    results: what `minitxl.experiments.ablation.run` returned, as JSON has it.
    """
    cells = {c["member"]: np.array(c["by_position"]) for c in results["cells"]}  # (seeds, T)
    mean = {name: cells[name].mean(axis=0) for name in ("xl-alone", "xl")}  # (T,)
    t = len(mean["xl"])
    places = np.arange(segments * t)
    with styled():
        figure = new_figure(10.4, 3.4)
        ax = figure.add_axes((0.075, 0.22, 0.9, 0.58))
        alone, kept = (np.tile(mean[name], segments) for name in ("xl-alone", "xl"))
        ax.fill_between(places, kept, alone, color=ORANGE, alpha=0.22, lw=0)
        ax.plot(places, alone, color=ORANGE, lw=2.2)
        ax.plot(places, kept, color=BLUE, lw=2.2)
        for cut in range(0, segments * t + 1, t):
            ax.axvline(cut - 0.5, color=INK, lw=2)
        height = alone.max()
        above = dict(color=ORANGE, weight="bold")
        ax.text(0.13 * t, 0.86 * height, "no memory: a cut costs anew", **above)
        ax.text(0.13 * t, 0.62 * kept.min(), "with memory", color=BLUE, weight="bold")
        ax.set_xlim(-1, segments * t)
        ax.set_ylim(0, height * 1.08)
        ax.set_xticks(
            np.arange(segments) * t + t / 2, [f"segment {s + 1}" for s in range(segments)]
        )
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel("bits per character")
        gap = mean["xl-alone"] - mean["xl"]  # (T,)
        title = (
            f"The saw of fixed segments: a cut costs {gap[0]:.2f} bits at the first character, "
            f"{gap.mean():.2f} on average"
        )
        note = "Relative positions, trained alike: means by place in the segment, repeated."
        return titled(figure, title, note, top=0.9, bottom=0.04, size=10)


def _binned(bits: np.ndarray) -> np.ndarray:
    """Bins of positions that double: their middle on a logarithmic axis, and the mean bits."""
    bins = list(pairwise(position_bins(len(bits))))
    return np.array([[np.sqrt((a + 1) * b), bits[a:b].mean()] for a, b in bins]).T


def _errors(bits: np.ndarray) -> list:
    """Two standard errors of the bins' means, from n_segments rows (n_segments, T)."""
    rows = [bits[:, a:b].mean(axis=1) for a, b in pairwise(position_bins(bits.shape[1]))]
    return [2 * row.std() / np.sqrt(len(row)) for row in rows]


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
            label = f"{label}: {mean.mean():.3f} bits on average"
            ax.plot(*_binned(mean), line, color=colour, lw=2.4, marker=marker, ms=6, label=label)
        _position_axis(ax, s["tgt_len"])
        ax.legend(loc="upper right", handlelength=3.2, fontsize=9.5)
        lost = cells["xl-alone"].mean(axis=0) - cells["xl"].mean(axis=0)
        title = (
            f"Relative positions, with and without memory: {lost[0]:.2f} bits apart at the first "
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
            centre, mean = _binned(without[t].mean(axis=0))
            ax.errorbar(centre, mean, _errors(without[t]), capsize=2.5, elinewidth=1, **how)
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
            f"{gap[long]:.2f} at T = {long}: the same model and text. Bars: two standard errors."
        )
        return titled(figure, title, note, top=0.93, bottom=0.03, size=10)


def draw_sliding(rows: list[tuple[int, float, np.ndarray]], memory: np.ndarray) -> Picture:
    """Draw bits against the price of a sliding window, beside those of a memory.

    rows: (stride, characters read per prediction, bits per character of each passage (P,));
    memory (P,): the same passages read once with a memory. A bar is a standard error of the
    window's bits less the memory's, over the P >= 2 passages: how hard a passage is falls out.
    """
    read = np.array([r for _, r, _ in rows])
    apart = np.array([b for *_, b in rows]) - memory  # (S, P)
    error = apart.std(axis=1, ddof=1) / np.sqrt(len(memory))
    bits, memory = apart.mean(axis=1) + np.mean(memory), (1.0, float(np.mean(memory)))
    with styled():
        figure = new_figure(10.4, 4.2)
        ax = figure.add_axes((0.075, 0.25, 0.9, 0.6))
        line = dict(color=ORANGE, lw=2.0, marker="s", ms=6, elinewidth=1.5, capsize=4)
        ax.errorbar(read, bits, error, linestyle="--", **line)
        for (stride, *_), x, y in zip(rows, read, bits, strict=True):
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
        enough = read[np.argmax(bits <= bits[-1] + error)]  # within an error of the last
        title = (
            f"A sliding window heals the cut: {enough:.0f} readings of each character are enough"
        )
        note = (
            f"From stride {rows[0][0]} (no overlap) to stride {rows[-1][0]} the window gains "
            f"{bits[0] - bits[-1]:.2f} bits; a memory of the same length gets "
            f"{bits[0] - memory[1]:.2f} ± {error[0]:.2f} for reading once.\n"
            f"Bars: standard error of window less memory, over {apart.shape[1]} passages."
        )
        return titled(figure, title, note, top=0.925, bottom=0.02, size=10)
