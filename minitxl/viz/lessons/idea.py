"""The idea in one picture: fixed segments forget, a cache with a stopped gradient remembers."""

from __future__ import annotations

from minitxl.viz.theme import FAINT, INK, MUTED, PAPER, Picture, new_figure, segment_colour, styled

WORD = "Natasha·sang"
SEGMENT, LAYERS = 4, 2  # tokens of a segment and of the memory; layers above the embedding
STEP = 1.9  # height of a layer


def reads(query: int, memory: int) -> range:
    """Keys that token `query` reads in the layer below: its segment so far, and `memory` more."""
    start = query - query % SEGMENT
    return range(max(0, start - memory), query + 1)


def reached(query: int, memory: int) -> list[tuple[int, int, int]]:
    """Every (layer, query, key) on a path from the top state of `query` down to the text."""
    links, wanted = [], {query}
    for layer in range(LAYERS, 0, -1):
        links += [(layer, q, key) for q in sorted(wanted) for key in reads(q, memory)]
        wanted = {key for q in wanted for key in reads(q, memory)}
    return links


def draw_idea() -> Picture:
    """Two panels, three segments of four characters, two layers: what one top state can see."""
    with styled():
        figure = new_figure(10.4, 4.05)
        for left, memory in ((0.006, 0), (0.503, SEGMENT)):
            ax = figure.add_axes((left, 0.0, 0.492, 1.0))
            _panel(ax, memory)
    caption = (
        "Left: fixed segments. The circled state, first of the third segment, sees one character. "
        "Right: with a cache of the last four states it sees eight characters more, one memory "
        "further back with every layer, though the oldest states are dropped by now; the gradient "
        "stops at the memory's edge."
    )
    return Picture(figure, caption)


def _panel(ax, memory: int) -> None:
    target = 2 * SEGMENT  # first token of the third segment
    links = reached(target, memory)
    on_path = {(LAYERS, target)} | {(layer - 1, key) for layer, _, key in links}
    ax.set_xlim(-2.35, 11.75)
    ax.set_ylim(-2.5, 7.0)
    ax.axis("off")
    heading = "Transformer-XL remembers" if memory else "Fixed segments forget"
    detail = (
        "squares: cached (small: no longer, but what is cached saw them)"
        if memory
        else "every segment starts blank"
    )
    ax.text(-2.1, 6.25, heading, size=13, weight="bold")
    ax.text(-2.1, 5.6, detail, color=MUTED, size=10)

    for layer in range(1, LAYERS + 1):  # every link the model has, faintly
        for query in range(len(WORD)):
            for key in reads(query, memory):
                _link(ax, layer, query, key, FAINT, 0.6, 1)
    for layer, query, key in links:
        crosses = key < query - query % SEGMENT
        colour = segment_colour(2 - key // SEGMENT)
        _link(ax, layer, query, key, colour, 1.9 if crosses else 1.4, 2)
    for layer in range(LAYERS + 1):
        for i in range(len(WORD)):
            cached = memory and layer < LAYERS and i < 2 * SEGMENT
            _node(ax, layer, i, (layer, i) in on_path, cached, dropped=i < 2 * SEGMENT - memory)
    names = ("embedding", "layer 1", "layer 2")
    for layer, name in enumerate(names):
        ax.text(-0.55, layer * STEP, name, size=8.5, color=MUTED, ha="right", va="center")
    for i, symbol in enumerate(WORD):
        age = 2 - i // SEGMENT
        ax.text(i, -0.75, symbol, family="DejaVu Sans Mono", size=13, ha="center", va="center")
        number = target - i if memory else i % SEGMENT
        label = str(number) if number >= 0 or not memory else ""
        ax.text(i, -1.42, label, size=9.5, color=segment_colour(age), ha="center", va="center")
    below = (
        "distance from the reader: one number, one meaning"
        if memory
        else "absolute positions repeat: a cached 0 would collide with a new 0"
    )
    ax.text(5.5, -2.15, below, size=9, color=MUTED, ha="center", va="center")
    for edge in (SEGMENT - 0.5, 2 * SEGMENT - 0.5):
        ax.plot([edge, edge], [-0.4, LAYERS * STEP + 0.55], color=INK, lw=2.0, zorder=3)
    if memory:
        _stop(ax, 2 * SEGMENT - 0.5)
    ax.plot(target, LAYERS * STEP, "o", mfc="none", mec=INK, ms=19, mew=1.8, zorder=5)


def _link(ax, layer, query, key, colour, width, zorder) -> None:
    ax.plot(
        [key, query],
        [(layer - 1) * STEP, layer * STEP],
        color=colour,
        lw=width,
        zorder=zorder,
        solid_capstyle="round",
    )


def _node(ax, layer: int, i: int, lit: bool, cached, *, dropped: bool) -> None:
    """A state; one that was cached, and is dropped by now, is a small square."""
    colour = segment_colour(2 - i // SEGMENT)
    look = dict(mfc=colour if lit else PAPER, mec=colour, mew=1.6, zorder=4)
    gone = cached and dropped
    ax.plot(i, layer * STEP, "s" if cached else "o", ms=5.5 if gone else 11, **look)


def _stop(ax, edge: float) -> None:
    """The gradient's way back, ending at the edge."""
    y = LAYERS * STEP + 0.9
    ax.annotate(
        "",
        (edge + 0.1, y),
        (edge + 2.2, y),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
    )
    ax.plot([edge, edge], [y - 0.35, y + 0.35], color=INK, lw=4.5)
    ax.text(edge + 2.3, y, "gradient", va="center", ha="left")
    ax.text(edge - 0.2, y, "stops at the memory's edge", va="center", ha="right", weight="bold")
