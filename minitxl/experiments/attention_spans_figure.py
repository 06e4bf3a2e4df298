"""The picture of the attention experiment, drawn from its stored results alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, NullLocator

from minitxl.experiments.attention_spans import striking
from minitxl.viz.attention import distance_bins
from minitxl.viz.theme import INK, MUTED, PAPER, SEGMENT_COLOURS, drawing, level_lines

ORANGE, BLUE, GREEN, PURPLE, BROWN, *_ = SEGMENT_COLOURS
SHOWN = {  # the striking heads that have a line of their own: colour, line
    "previous character": (ORANGE, "-"),
    "nearest": (PURPLE, "--"),
    "farthest": (BLUE, "-"),
    "broadest": (GREEN, "-."),
    "most by content": (BROWN, "--"),
}
ALONE = {
    "a": ("a, content to content", BLUE, "-"),
    "b": ("b, content to position", ORANGE, "-"),
    "c": ("c, content bias", PURPLE, "--"),
    "d": ("d, position bias", GREEN, "--"),
}
TERMS = {
    "abcd": "all four",
    "bcd": "without a, content to content",
    "acd": "without b, content to position",
    "abd": "without c, content bias",
    "abc": "without d, position bias",
    "ac": "content only (a + c)",
    "bd": "position only (b + d)",
}
ITSELF = 0.5  # where distance 0 stands on the logarithmic axis


@drawing(10.4, 8.6, top=0.955, bottom=0.016)
def draw_attention_spans(figure, results: dict) -> tuple[str, str]:
    """Draw weight by distance of every head, span and memory share, and what the terms do.

    results: what `minitxl.experiments.attention_spans.run` returned, as JSON has it.
    """
    _draw_heads(figure.add_axes((0.088, 0.545, 0.40, 0.345)), results)
    spans = figure.add_axes((0.58, 0.545, 0.185, 0.345))
    memory = figure.add_axes((0.80, 0.545, 0.185, 0.345))
    _draw_grid(spans, results, "span", "90% span, characters", "{:.0f}")
    _draw_grid(memory, results, "memory_share", "share in the memory, %", "{:.0f}", 100.0)
    spans.set_ylabel("layer")
    _draw_alone(figure.add_axes((0.088, 0.125, 0.40, 0.285)), results)
    dropped = figure.add_axes((0.735, 0.125, 0.205, 0.285))
    _draw_dropped(dropped, results)
    dropped.set_title("Read with some of the terms", pad=8, x=-0.99)
    return _words(results)


@drawing(10.4, 3.5, top=0.935, bottom=0.035)
def draw_terms(figure, results: dict) -> tuple[str, str]:
    """Draw bits per character with some of the four terms alone."""
    _draw_dropped(figure.add_axes((0.245, 0.29, 0.7, 0.535)), results)
    worst = max(results["bpc"], key=results["bpc"].get)
    title = f"{_least(results)} is missed least; {TERMS[worst]} costs most"
    note = (
        "The shipped model of War and Peace, held-out text. Terms were taken out of a model that "
        "was trained with all four: this is how\nmuch it leans on each, not how well it could "
        "learn without. Dotted: with all four."
    )
    return title, note


PARTS = {"terms": draw_terms}


def _binned(weight) -> tuple[np.ndarray, np.ndarray]:
    """Distances and mean weights, one point for each bin of `distance_bins`."""
    weight, edges = np.asarray(weight), distance_bins(len(weight))
    pairs = list(pairwise(edges))
    x = [np.sqrt(low * (high - 1)) if low else ITSELF for low, high in pairs]
    return np.array(x), np.array([weight[low:high].mean() for low, high in pairs])


def _distance_axes(ax, results: dict) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    n = results["tgt_len"] + results["mem_len"]
    ax.set_xlim(ITSELF * 0.9, n * 1.02)
    ax.set_xticks([ITSELF, *(x for x in (1, 3, 10, 30, 100, 300, 1000) if x < n)])
    ax.xaxis.set_minor_locator(NullLocator())
    names = {ITSELF: "itself"}
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(x, f"{x:g}")))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    level_lines(ax)
    ax.set_xlabel("characters back (log scale)")
    ax.set_ylabel("mean weight (log scale)")


def _draw_heads(ax, results: dict) -> None:
    """All heads in grey, the striking ones in front."""
    for head in results["heads"]:
        ax.plot(*_binned(head["weight"]), color="#BDB9AE", lw=0.8, zorder=1)
    found = striking(results["heads"])
    names: dict[tuple, list[str]] = {}
    for what in SHOWN:  # one head may stand out in two ways
        head = found[what]
        names.setdefault((head["layer"], head["head"]), []).append(what)
    lines = []
    for (layer, number), whats in names.items():
        head, (colour, dash) = found[whats[0]], SHOWN[whats[0]]
        x, y = _binned(head["weight"])
        ax.plot(x, y, dash, color=colour, lw=2.0, zorder=3)
        lines.append((f"{' and '.join(whats)}: layer {layer}, head {number}", colour, dash))
    _distance_axes(ax, results)
    low = min(min(_binned(h["weight"])[1]) for h in results["heads"])
    ax.set_ylim(max(low / 60, 1e-9), 1.0)
    for i, (label, colour, dash) in enumerate(lines):
        y = 0.035 + 0.066 * (len(lines) - 1 - i)
        ax.plot([0.02, 0.085], [y, y], dash, color=colour, lw=2.0, transform=ax.transAxes)
        text = dict(transform=ax.transAxes, va="center", size=9, color=colour, weight="bold")
        ax.text(0.10, y, label, **text)
    ax.set_title(f"Weight by distance: all {len(results['heads'])} heads", pad=8)


def _draw_grid(ax, results: dict, key: str, title: str, form: str, times: float = 1.0) -> None:
    """One number for every head: darker is more, and the number stands in its cell."""
    heads = results["heads"]
    layers, numbers = (max(h[name] for h in heads) for name in ("layer", "head"))
    values = np.zeros((layers, numbers))
    for h in heads:
        values[h["layer"] - 1, h["head"] - 1] = h[key] * times
    top = max(values.max(), 1e-9)
    colours = LinearSegmentedColormap.from_list("depth", [PAPER, BLUE])
    ax.imshow(values / top, cmap=colours, vmin=0.0, vmax=1.0, aspect="auto")
    for (layer, head), value in np.ndenumerate(values):
        colour = PAPER if value > 0.55 * top else INK
        ax.text(head, layer, form.format(value), ha="center", va="center", size=9, color=colour)
    ax.set_xticks(range(numbers), range(1, numbers + 1))
    ax.set_yticks(range(layers), range(1, layers + 1))
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_xlabel("head")
    ax.set_title(title, size=9.5, pad=8)


def _draw_alone(ax, results: dict) -> None:
    """Where each term alone would look, and where the heads do."""
    whole = np.mean([h["weight"] for h in results["heads"]], axis=0)
    rows = [(whole, "all four terms", INK, "-")]
    rows += [(np.mean(results["alone"][x], axis=0), *how) for x, how in ALONE.items()]
    _distance_axes(ax, results)
    lowest = min(min(_binned(y)[1]) for y, *_ in rows)
    for i, (y, label, colour, dash) in enumerate(rows):
        ax.plot(*_binned(y), dash, color=colour, lw=2.0)
        at = 0.945 - 0.08 * i
        ax.plot([0.45, 0.52], [at, at], dash, color=colour, lw=2.0, transform=ax.transAxes)
        text = dict(transform=ax.transAxes, va="center", size=9, color=colour, weight="bold")
        ax.text(0.54, at, label, **text)
    ax.set_ylim(lowest / 2, 1.0)
    ax.set_title("Weights by one term alone, mean over heads", pad=8)


def _draw_dropped(ax, results: dict) -> None:
    """Bits per character with some of the terms."""
    shown = [(TERMS[terms], x) for terms, x in results["bpc"].items()]
    values = [x for _, x in shown]
    for i, (label, x) in enumerate(shown):
        ax.barh(i, x, color=INK if i == 0 else MUTED, height=0.66)
        ax.text(x + 0.02 * max(values), i, f"{x:.2f}", va="center", size=9)
        ax.text(-0.03 * max(values), i, label, va="center", ha="right", size=9)
    ax.axvline(values[0], color=INK, lw=0.9, ls=":", zorder=0)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0, 1.16 * max(values))
    ax.set_yticks([])
    ax.set_xlabel("bits per character")


def _least(results: dict) -> str:
    """The term whose loss costs least."""
    single = {terms: x for terms, x in results["bpc"].items() if len(terms) == 3}
    return next(term for term in "abcd" if term not in min(single, key=single.get))


def _words(results: dict) -> tuple[str, str]:
    """Title and note, with their numbers from the results."""
    heads = results["heads"]
    shares = [h["memory_share"] for h in heads]
    spans = [h["span"] for h in heads]
    title = (
        f"Heads look {min(spans)} to {max(spans)} characters back, and put "
        f"{np.mean(shares):.0%} of their weight on the memory"
    )
    note = (
        f"The shipped model of War and Peace (T = M = {results['tgt_len']}), held-out text, "
        f"{results['n_query']:,} queries. Memory share: the weight on earlier segments, "
        f"{results['even']:.0%} if spread evenly.\n"
        f"Terms were taken out of a model trained with all four: this is how much it leans on "
        f"each (least on {_least(results)}), not how well it could learn without."
    )
    return title, note
