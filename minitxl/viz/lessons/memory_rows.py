"""The memory's rows: which are kept, which a query sees, how old the weights behind them are."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.ticker import NullLocator

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.network import kept_rows
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    new_figure,
    segment_colour,
    styled,
    titled,
)
from minitxl.viz.widgets.scene import Scene, segment_pair

ORANGE, BLUE = segment_pair(0), segment_pair(1)


def draw_recurrence(*, tgt_len: int = 4, mem_len: int = 6, n_segments: int = 4) -> Picture:
    """Draw what is kept while segment after segment is read, and where the gradient stops.

    Which rows are kept is asked of `kept_rows`. Numbers are places in the text, colours the segment
    that a state was computed in, counted from the present one back.
    """
    config = Config(n_token=1, tgt_len=tgt_len, mem_len=mem_len)
    wide, line, left, top = 790 / (n_segments * tgt_len), 68, 120, 62
    scene = Scene(1040, top + line * n_segments + 50)
    memory = np.arange(0)
    for step in range(n_segments):
        segment = np.arange(step * tgt_len, (step + 1) * tgt_len)
        y, edge = top + step * line, left + segment[0] * wide
        scene.text(left - 12, y + 16, f"segment {step + 1}", anchor="end", bold=True)
        for at in range((step + 1) * tgt_len):
            hue, x = segment_pair(step - at // tgt_len), left + at * wide
            held = at in memory or at in segment
            box = [(x + 1.5, y, wide - 3, 32)]
            scene.boxes(box, fill=hue if held else None, stroke=hue if held else "faint", width=1.2)
            scene.text(
                x + wide / 2, y + 16, at, anchor="middle", colour="paper" if held else "muted"
            )
        scene.lines([[(edge, y - 7), (edge, y + 54)]], stroke="ink", width=3.2)
        scene.text(left + n_segments * tgt_len * wide + 12, y + 16, f"M = {len(memory)}", bold=True)
        end = edge + tgt_len * wide
        if len(memory):
            _arrow(scene, left + memory[0] * wide, end, y + 39, BLUE)
        _arrow(scene, end, edge + 4, y + 47, ORANGE)
        both = np.concatenate([memory, segment])  # (M + T,), as [mem ; h]
        first, stop = kept_rows(n_mem=len(memory), n_new=tgt_len, config=config)
        memory = both[first:stop]
    title = (
        "Reading crosses the memory's edge, learning stops there "
        f"(T = {tgt_len}, mem_len = {mem_len})"
    )
    note = "Filled: segment and memory, by age; outlined: no longer kept. Blue arrow: reading; "
    scene.headed(title, note + "orange arrow: the gradient.")
    return Picture(scene.figure(), scene.caption)


def _arrow(scene: Scene, start: float, end: float, y: float, colour) -> None:
    tip = 9 if start < end else -9
    scene.lines([[(start, y), (end, y)]], stroke=colour, width=2.5)
    scene.lines([[(end - tip, y - 5), (end, y), (end - tip, y + 5)]], stroke=colour, width=2.5)


def draw_masks(masks: dict[str, np.ndarray], *, n_mem: int) -> Picture:
    """Draw masks (T, K), True where a key is hidden, side by side; beside each row its key count.

    masks: name -> mask, all with n_mem columns of memory. Raises MinitxlError for other shapes.
    """
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) != 1 or next(iter(shapes))[1] - next(iter(shapes))[0] != n_mem:
        raise MinitxlError(
            f"masks have shapes {sorted(shapes)} with n_mem={n_mem}: all must be (T, n_mem + T)"
        )
    t, k = next(iter(shapes))
    with styled():
        width = 0.885 / len(masks)
        high = (width - 0.075) * 10.4 / (k + 2) * t  # square cells
        height = high + 1.9
        figure = new_figure(10.4, height)
        for i, (name, mask) in enumerate(masks.items()):
            box = (0.075 + i * (width + 0.02), 0.78 / height, width - 0.055, high / height)
            ax = figure.add_axes(box)
            ages = np.where(np.arange(k) < n_mem, 1, 0)
            colours = np.array([to_rgb(segment_colour(int(a))) for a in ages])
            pixels = np.where(mask[..., None], to_rgb(HIDDEN), colours[None])
            ax.imshow(pixels, extent=(-0.5, k - 0.5, t - 0.5, -0.5), aspect="auto")
            for x in range(k):
                ax.axvline(x - 0.5, color=PAPER, lw=1)
            for y in range(t):
                ax.axhline(y - 0.5, color=PAPER, lw=1)
                seen = int((~mask[y]).sum())
                ax.text(k - 0.1, y, f"{seen}", va="center", weight="bold")
            ax.axvline(n_mem - 0.5, color=INK, lw=2.4)
            ax.text(k - 0.1, -0.75, "keys", size=8.5, color=MUTED)
            ax.set_title(name, pad=18)
            ax.set_xticks([0, n_mem, k - 1] if n_mem else [0, k - 1])
            ax.set_yticks(range(t) if i == 0 else [])
            ax.set_xlabel("key (column of [memory ; segment])")
            if i == 0:
                ax.set_ylabel("query (offset)")
            ax.tick_params(length=0)
            for side in ("left", "bottom"):
                ax.spines[side].set_visible(False)
        note = (
            f"Blue: keys of the memory, orange: of the segment, light: hidden; thick line: the "
            f"memory's edge, M = {n_mem}."
        )
        figure.text(0.016, 0.12 / height, note, size=10)
        title = "Which keys a query sees"
        figure.text(0.016, 1 - 0.34 / height, title, size=13, weight="bold")
    return Picture(figure, f"{title}. {note}")


def draw_stale_states(updates, differences, losses) -> Picture:
    """Draw how far cached states lie from those that the updated weights would have made.

    updates (n,): after how many; differences (n, N): ||old - new|| / ||new|| by layer; losses
    (n, 2): nats per token of the next segment, read with the old states and with the new.
    """
    updates, differences = np.asarray(updates), np.asarray(differences)
    dearer = np.diff(np.asarray(losses)[:, ::-1], axis=1)[:, 0]  # old minus new
    with styled():
        figure = new_figure(10.4, 4.1)
        ax = figure.add_axes((0.075, 0.225, 0.36, 0.585))
        for n, row in enumerate(differences.T):
            style = dict(color=SEGMENT_COLOURS[n], lw=2, ms=4.5, marker="os^Dv"[n % 5])
            ax.plot(updates, row, **style)
        order = np.argsort(differences[-1])
        low, high = np.log10([differences.min(), differences.max()])
        place = np.log10(differences[-1])[order]
        for i in range(1, len(place)):  # labels at least a line apart
            place[i] = max(place[i], place[i - 1] + 0.08 * (high - low))
        for n, y in zip(order, place, strict=True):
            text = f"layer {n + 1}" + (" (embeddings)" if n == 0 else "")
            style = dict(color=SEGMENT_COLOURS[n], weight="bold", va="center", size=9)
            ax.text(updates[-1] * 1.15, 10**y, text, **style)
        ax.set_yscale("log")
        ax.set_ylabel("relative difference (log scale)")
        ax.set_title("Inputs kept from before one update", pad=8)
        right = figure.add_axes((0.66, 0.225, 0.315, 0.585))
        right.axhline(0, color=MUTED, lw=0.8)
        right.plot(updates, dearer, "-o", color=INK, lw=2, ms=4.5)
        right.set_ylabel("nats per character")
        right.set_title("Loss with them, minus with fresh ones", pad=8)
        for axes in (ax, right):
            axes.set_xscale("log")
            axes.set_xticks([1, 10, 100], ["1", "10", "100"])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("updates done (log scale)")
            axes.grid(True, axis="y", color=FAINT, lw=0.6)
            axes.set_axisbelow(True)
        title = "In training, the memory was written by weights that are gone"
        note = (
            f"Largest difference {differences.max():.0%} of the norm (after update "
            f"{updates[differences.max(axis=1).argmax()]}), {differences[-1].max():.1%} at the "
            f"end; it changes the loss by at most {np.abs(dearer).max():.4f} nats."
        )
        return titled(figure, title, note, top=0.92, bottom=0.035, size=10)
