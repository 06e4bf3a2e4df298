"""The picture of the longer-memory experiment, drawn from its stored results alone."""

from __future__ import annotations

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minitxl.viz.theme import HIDDEN, INK, MUTED, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, PURPLE, *_ = SEGMENT_COLOURS
LOOK = {  # option -> colour, marker, line, name
    "plain": (ORANGE, "o", "-", "no option"),
    "clamp_len": (BLUE, "s", "-", "clamp_len"),
    "same_length": (GREEN, "^", "--", "same_length"),
    "both": (PURPLE, "D", "--", "both"),
}
LINEAR = 0.01  # bits: up to here the axis is linear, beyond it logarithmic


@drawing(10.4, 6.6, top=0.945, bottom=0.018)
def draw_longer_memory(figure, results: dict) -> tuple[str, str]:
    """Draw, for each model, bits more than with the trained memory against the memory's length.

    results: what `minitxl.experiments.longer_memory.run` returned, as JSON has it.
    """
    points = [p for m in results["models"] for p in m["points"]]
    every = [x for p in points for x in p["minus_trained"]["by_seed"]]
    low, high = min(-LINEAR, 1.4 * min(every)), max(10 * LINEAR, 1.6 * max(every))
    corners = [(x, y) for y in (0.575, 0.19) for x in (0.095, 0.57)]
    for model, corner in zip(results["models"], corners, strict=True):
        ax = figure.add_axes((*corner, 0.26, 0.27))
        _scale(ax, low, high)  # the same for all: so they can be compared
        _panel(ax, model)
        if corner[0] == corners[0][0]:
            ax.set_ylabel("bits more than as trained\n(linear to 0.01, then log)")
        if corner[1] == corners[-1][1]:
            ax.set_xlabel("memory at evaluation, in characters")
    return _words(results)


def _scale(ax, low: float, high: float) -> None:
    """An axis that shows thousandths of a bit and whole bits, with ticks at powers of ten."""
    ax.set_yscale("symlog", linthresh=LINEAR)
    ax.set_ylim(low, high)
    powers = [x for x in (0.01, 0.1, 1.0, 10.0) if x <= max(high, -low)]
    ticks = [t for t in (*(-x for x in powers[::-1]), 0.0, *powers) if low <= t <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g}" if y else "0"))


def _panel(ax, model: dict) -> None:
    """One model: a line for each option, its seeds as dots, named where it ends."""
    factors = sorted({p["factor"] for p in model["points"]})
    at = {factor: i for i, factor in enumerate(factors)}  # evenly, for 0 has no logarithm
    ax.axhline(0, color=MUTED, lw=0.8, zorder=1)
    ax.axvspan(at[1], len(factors) - 0.7, color=HIDDEN, lw=0, zorder=0)
    ax.axvline(at[1], color=INK, lw=1, zorder=1)
    ends = []
    for option, (colour, marker, line, name) in LOOK.items():
        points = [p for p in model["points"] if p["option"] == option]
        if points:
            points.sort(key=lambda p: p["factor"])
            x = [at[p["factor"]] for p in points]
            mean = [p["minus_trained"]["mean"] for p in points]
            ax.plot(x, mean, line, color=colour, lw=1.9, zorder=3)
            for place, p in zip(x, points, strict=True):
                y = p["minus_trained"]["by_seed"]
                ax.plot([place] * len(y), y, marker, color=colour, ms=4.5, mew=0, alpha=0.8)
            ends.append((mean[-1], f"{name} {mean[-1]:+.3f}", colour))
    _name_ends(ax, ends, len(factors) - 1)
    trained = model["trained_mem_len"]
    texts = [f"{round(f * trained)}" + ("\ntrained" if f == 1 else "") for f in factors]
    ax.set_xticks(range(len(factors)), texts)
    ax.set_xlim(-0.3, len(factors) - 0.7)
    level_lines(ax)
    seeds = len(model["points"][0]["bpc"])
    ax.set_title(
        f"{model['label']}, trained with {trained} ({seeds} {'seed' if seeds == 1 else 'seeds'})",
        pad=8,
    )


def _name_ends(ax, ends: list, last: int) -> None:
    """Name every line, with its last value, beside its end; apart where two would overlap."""
    ends = sorted(ends, key=lambda end: end[0])
    ends_at = ax.transData.transform([(0, y) for y, _, _ in ends])  # pixels of the scaled axis
    true = ax.transAxes.inverted().transform(ends_at)[:, 1]
    at, gap = true.copy(), 0.095  # of the axis' height
    for _ in range(200):  # neighbours that are too near push each other away
        for i in range(len(at) - 1):
            short = max(0.0, gap - (at[i + 1] - at[i]))
            at[i : i + 2] += -short / 2, short / 2
        at += max(0.0, -at[0])  # none below the axis
    for y, place, (_, label, colour) in zip(true, at, ends, strict=True):
        line = dict(color=colour, lw=0.8, alpha=0.7, clip_on=False)
        ax.plot([last + 0.12, last + 0.5], [y, place], transform=ax.get_xaxis_transform(), **line)
        said = dict(color=colour, weight="bold", size=9, va="center")
        ax.text(last + 0.6, place, label, transform=ax.get_xaxis_transform(), **said)


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    s, shape = results["settings"], results["settings"]["shape"]
    most = max(s["factors"])
    costs = {
        m["label"]: p["minus_trained"]["mean"]
        for m in results["models"]
        for p in m["points"]
        if (p["option"], p["factor"]) == ("plain", most)
    }
    xl, shaw, absolute, _ = (f"{x:+.3f}" for x in costs.values())
    title = (
        f"{most:g} times the trained memory: {xl} bits for Transformer-XL, {shaw} Shaw, "
        f"{absolute} absolute"
    )
    small, shipped = results["models"][0], results["models"][-1]
    note = (
        f"{shape['n_layer']} layers, D = {shape['d_model']}, segments of {small['tgt_len']}, "
        f"{shape['steps']:,} steps; the shipped model has segments of {shipped['tgt_len']}. "
        f"{s['n_tokens']:,} characters of test text. Dots: seeds, paired\nwith their trained "
        "memory; lines: means. clamp_len: distances beyond the longest of training count as that "
        "one (Shaw's table does so\nby itself). same_length: every query sees as many keys as the "
        "memory is long, itself included. Grey: longer than trained."
    )
    return title, note
